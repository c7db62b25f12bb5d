//! When a queue is left alone. A gate that says "not before T" says it for every job that needs it: claiming more of
//! them would only hand them back. So the replica does not claim from a queue until T, as long as the queue's jobs
//! use that gate and no other.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jobs::Provider;
use tokio::time::Instant;

/// A queue has "jobs of" a provider for so long after the last one was seen.
const MEMORY: Duration = Duration::from_secs(60);

/// A hold is looked at again after so long at most: the gate may have been reset by hand, and jobs of another
/// provider may have arrived.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// The holds on one queue.
#[derive(Debug, Default)]
pub struct Holds(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    seen: HashMap<Provider, Instant>,
    until: Option<Instant>,
}

impl Holds {
    /// A job of the queue is about to use this provider.
    pub fn saw(&self, provider: Provider) {
        self.inner().seen.insert(provider, Instant::now());
    }

    /// The provider's gate lets nothing pass for `wait`.
    pub fn block(&self, provider: Provider, wait: Duration) {
        let (now, mut inner) = (Instant::now(), self.inner());
        inner.seen.retain(|_, at| now - *at < MEMORY);
        let alone = inner.seen.keys().all(|seen| *seen == provider);
        if alone {
            let until = now + wait.min(LONGEST_HOLD);
            inner.until = Some(inner.until.map_or(until, |held| held.max(until)));
        }
    }

    /// Until when nothing is claimed, if that is in the future.
    pub fn until(&self) -> Option<Instant> {
        self.inner().until.filter(|until| *until > Instant::now())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_queue_of_one_provider_is_held_until_the_gates_time() {
        let holds = Holds::default();
        holds.saw(Provider::OpenAi);
        holds.block(Provider::OpenAi, 10 * SECOND);
        holds.block(Provider::OpenAi, 5 * SECOND);
        tokio::time::advance(9 * SECOND).await;
        assert!(holds.until().is_some(), "the longest wait holds");
        tokio::time::advance(2 * SECOND).await;
        assert!(holds.until().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_mixed_queue_is_never_held() {
        let holds = Holds::default();
        holds.saw(Provider::OpenAi);
        holds.saw(Provider::AzureVision);
        holds.block(Provider::OpenAi, 10 * SECOND);
        assert!(holds.until().is_none(), "the image jobs go on");
        // Once no image job was seen for a while, it is a queue of one provider.
        tokio::time::advance(2 * MEMORY).await;
        holds.saw(Provider::OpenAi);
        holds.block(Provider::OpenAi, 10 * SECOND);
        assert!(holds.until().is_some());
    }
}
