//! When a queue is left alone, and how many of its jobs may be claimed.
//!
//! A breaker that says "not before T" says it for every job that needs it: claiming more of them would only hand them
//! back. So the replica does not claim from a queue until T, as long as the queue's jobs use that provider and no
//! other.
//!
//! A limit (requests, tokens, calls in flight) that has refused a job is asked before each further claim how many calls
//! it would let pass, and no more jobs are claimed than that. The others keep their place in the queue.
//!
//! Where jobs of several owners were seen in the last minute, and more of them wait than the limit of requests has room
//! for, claims are spread over the minute: a burst of one owner would leave nothing for the others until the minute is
//! over.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobs::Provider;
use rand::RngExt;
use tokio::{sync::Notify, time::Instant};

use crate::{
    gate::{ProviderGate, Reason},
    locks::locked,
    queue::QueueInspector,
};

/// A queue has "jobs of" a provider for so long after the last one was seen.
const MEMORY: Duration = Duration::from_secs(60);

/// A hold of a breaker is looked at again after so long at most: it may have been reset by hand, and jobs of another
/// provider may have arrived.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// Owners that are remembered at most: to know of two would do.
const MOST_OWNERS: usize = 64;

/// Longest wait by a share of which replicas keep apart from each other.
const LONGEST_SPREAD: Duration = Duration::from_secs(1);

/// Longest wait for a limit on calls in flight: those of other replicas end without a word.
const LONGEST_SLOT_WAIT: Duration = Duration::from_secs(1);

/// What may be claimed now.
#[derive(Debug, Clone)]
pub enum ClaimAllowance {
    /// As many jobs as there are free slots.
    All,
    /// So many at most, never none.
    UpTo(usize),
    /// None before then, or before one of these calls has ended.
    Wait(Instant, Option<Arc<ProviderGate>>),
}

/// The holds on one queue.
#[derive(Debug, Default)]
pub struct ClaimPauses {
    inner: Mutex<PauseState>,
    starting: Arc<PendingStarts>,
}

#[derive(Debug, Default)]
struct PauseState {
    seen: HashMap<Provider, Instant>,
    until: Option<Instant>,
    /// The gates of the limits that have refused a job, and are asked before the next claim.
    limited: HashMap<Provider, LimitedQueue>,
    /// Owners of jobs, hashed, by when one was last seen.
    owners: HashMap<u64, Instant>,
    /// Jobs of a queue with jobs of several providers that were put off for a limit, by when they come back.
    parked: Vec<Instant>,
}

#[derive(Debug)]
struct LimitedQueue {
    gate: Arc<ProviderGate>,
    until: Instant,
}

/// Claimed jobs that have not reached their gate yet: they will use up what it has room for.
#[derive(Debug, Default)]
struct PendingStarts {
    count: AtomicUsize,
    changed: Notify,
}

/// One of them; dropped when its gate has given a verdict, or the job has ended.
#[derive(Debug)]
pub struct PendingStart(Arc<PendingStarts>);

impl Drop for PendingStart {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl ClaimPauses {
    /// A job of the queue is about to use this provider.
    pub fn record_provider(&self, provider: Provider) {
        self.inner().seen.insert(provider, Instant::now());
    }

    /// A job of this owner, hashed, is about to pass this gate.
    pub fn record_owner(&self, owner: u64, gate: &Arc<ProviderGate>) {
        let (now, mut inner) = (Instant::now(), self.inner());
        if inner.owners.len() >= MOST_OWNERS {
            inner.owners.retain(|_, at| now - *at < MEMORY);
        }
        if inner.owners.len() < MOST_OWNERS || inner.owners.contains_key(&owner) {
            inner.owners.insert(owner, now);
        }
        if gate.limits_requests() && inner.is_shared(now) {
            let entry = inner.limited.entry(gate.provider());
            entry.or_insert_with(|| LimitedQueue {
                gate: gate.clone(),
                until: now,
            });
        }
    }

    /// A job has been claimed, and is on its way to its gate.
    pub fn add_pending_start(&self) -> PendingStart {
        self.starting.count.fetch_add(1, Ordering::Relaxed);
        PendingStart(self.starting.clone())
    }

    /// The provider's breaker lets nothing pass for `wait`.
    pub fn pause(&self, provider: Provider, wait: Duration) {
        let (now, mut inner) = (Instant::now(), self.inner());
        if inner.is_alone(provider, now) {
            let until = now + wait.min(LONGEST_HOLD);
            inner.until = Some(inner.until.map_or(until, |held| held.max(until)));
        }
    }

    /// One of the provider's limits lets nothing pass for `wait`.
    pub fn pause_for_limit(&self, gate: &Arc<ProviderGate>, wait: Duration) {
        let until = Instant::now() + wait;
        let limited = LimitedQueue {
            gate: gate.clone(),
            until,
        };
        self.inner().limited.insert(gate.provider(), limited);
    }

    /// Whether a job that a limit has refused is put off for `wait`, rather than put back in the line: where jobs of
    /// other providers wait behind it, it would be in their way. At most `most` are put off at a time.
    pub fn park(&self, provider: Provider, wait: Duration, most: usize) -> bool {
        let (now, mut inner) = (Instant::now(), self.inner());
        inner.parked.retain(|until| *until > now);
        let parks = !inner.is_alone(provider, now) && inner.parked.len() < most;
        if parks {
            inner.parked.push(now + wait);
        }
        parks
    }

    /// What may be claimed now: asks the gates that have refused a job, and the queue how many jobs wait.
    pub async fn allowance(
        &self,
        wanted: usize,
        most_parked: usize,
        queue: Option<&dyn QueueInspector>,
    ) -> ClaimAllowance {
        let now = Instant::now();
        let gates: Vec<Arc<ProviderGate>> = {
            let mut inner = self.inner();
            if let Some(until) = inner.until.filter(|until| *until > now) {
                return ClaimAllowance::Wait(until, None);
            }
            if inner.limited.is_empty() {
                return ClaimAllowance::All;
            }
            inner.seen.retain(|_, at| now - *at < MEMORY);
            let PauseState { seen, limited, .. } = &mut *inner;
            // A provider whose jobs are gone must not cause claims that the others' limits refuse.
            if !seen.is_empty() {
                limited.retain(|provider, _| seen.contains_key(provider));
            }
            if limited.is_empty() {
                return ClaimAllowance::All;
            }
            if let Some(free) = inner.seen.keys().find(|seen| !inner.limited.contains_key(*seen)) {
                let free = *free;
                tracing::trace!(provider = %free, "jobs of another provider may pass");
                inner.parked.retain(|until| *until > now);
                return match inner.parked.iter().min() {
                    Some(first) if inner.parked.len() >= most_parked => ClaimAllowance::Wait(*first, None),
                    _ => ClaimAllowance::All,
                };
            }
            inner.parked.retain(|until| *until > now);
            if let Some(first) = inner
                .parked
                .iter()
                .min()
                .filter(|_| inner.parked.len() >= most_parked)
            {
                return ClaimAllowance::Wait(*first, None);
            }
            // All of the queue's providers are limited: it waits for the first that has room.
            let first = inner.limited.values().map(|limited| limited.until).min();
            if let Some(first) = first.filter(|first| *first > now) {
                return ClaimAllowance::Wait(first, None);
            }
            inner
                .limited
                .values()
                .map(|limited| limited.gate.clone())
                .collect()
        };
        self.ask(&gates, wanted, queue).await
    }

    async fn ask(
        &self,
        gates: &[Arc<ProviderGate>],
        wanted: usize,
        queue: Option<&dyn QueueInspector>,
    ) -> ClaimAllowance {
        let (mut calls, mut next) = (0usize, None);
        for gate in gates {
            // With Redis away nothing can be claimed either.
            let Ok(mut room) = gate.room().await else {
                return ClaimAllowance::UpTo(1);
            };
            let is_shared = self.inner().is_shared(Instant::now());
            if is_shared && room.spread.0 < room.calls && waiting(queue).await > room.calls {
                // Replicas that woke together would all take what there is for one of them.
                let spread = rand::rng().random_range(0.0..0.3);
                room.wait = room.spread.1 + room.spread.1.min(LONGEST_SPREAD).mul_f64(spread);
                room.calls = room.spread.0;
                room.reason = Some(Reason::Rpm);
            }
            if room.calls >= wanted && !is_shared {
                self.inner().limited.remove(&gate.provider());
            } else if room.calls == 0 {
                let slots = room.reason == Some(Reason::Concurrency);
                let wait = room.wait.max(Duration::from_millis(1));
                let wait = if slots { wait.min(LONGEST_SLOT_WAIT) } else { wait };
                let until = Instant::now() + wait;
                if let Some(limited) = self.inner().limited.get_mut(&gate.provider()) {
                    limited.until = if slots { Instant::now() } else { until };
                }
                if next.as_ref().is_none_or(|(first, _)| until < *first) {
                    next = Some((until, slots.then(|| gate.clone())));
                }
            }
            calls = calls.saturating_add(room.calls);
        }
        if self.inner().limited.is_empty() {
            return ClaimAllowance::All;
        }
        match (
            calls.saturating_sub(self.starting.count.load(Ordering::Relaxed)),
            next,
        ) {
            (0, Some((until, gate))) => ClaimAllowance::Wait(until, gate),
            // Jobs on their way to the gate will have taken what there is.
            (0, None) => ClaimAllowance::Wait(Instant::now() + LONGEST_SLOT_WAIT, None),
            (calls, _) => ClaimAllowance::UpTo(calls.min(wanted)),
        }
    }

    /// Resolves when a job that was on its way to its gate has got there.
    pub async fn all_started(&self) {
        self.starting.changed.notified().await;
    }

    /// Whether completions may claim beside what they write: nothing stands in the way.
    pub fn is_unpaused(&self) -> bool {
        let inner = self.inner();
        inner.limited.is_empty() && inner.until.is_none_or(|until| until <= Instant::now())
    }

    fn inner(&self) -> MutexGuard<'_, PauseState> {
        locked(&self.inner)
    }
}

/// How many jobs wait in a queue.
async fn waiting(queue: Option<&dyn QueueInspector>) -> usize {
    let Some(queue) = queue else { return 0 };
    let counts = queue.counts().await.unwrap_or_default();
    usize::try_from(counts.waiting).unwrap_or(usize::MAX)
}

impl PauseState {
    /// Whether jobs of several owners were seen of late.
    fn is_shared(&self, now: Instant) -> bool {
        self.owners
            .values()
            .filter(|at| now - **at < MEMORY)
            .nth(1)
            .is_some()
    }

    /// Whether the queue's jobs use this provider and no other.
    fn is_alone(&mut self, provider: Provider, now: Instant) -> bool {
        self.seen.retain(|_, at| now - *at < MEMORY);
        self.seen.keys().all(|seen| *seen == provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn is_held(holds: &ClaimPauses) -> bool {
        matches!(holds.allowance(1, 1, None).await, ClaimAllowance::Wait(..))
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_of_one_provider_is_held_until_the_gates_time() {
        let holds = ClaimPauses::default();
        holds.record_provider(Provider::OpenAi);
        holds.pause(Provider::OpenAi, 10 * SECOND);
        holds.pause(Provider::OpenAi, 5 * SECOND);
        tokio::time::advance(9 * SECOND).await;
        assert!(is_held(&holds).await, "the longest wait holds");
        tokio::time::advance(2 * SECOND).await;
        assert!(!is_held(&holds).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mixed_queue_is_never_held() {
        let holds = ClaimPauses::default();
        holds.record_provider(Provider::OpenAi);
        holds.record_provider(Provider::AzureVision);
        holds.pause(Provider::OpenAi, 10 * SECOND);
        assert!(!is_held(&holds).await, "the image jobs go on");
        // Once no image job was seen for a while, it is a queue of one provider.
        tokio::time::advance(2 * MEMORY).await;
        holds.record_provider(Provider::OpenAi);
        holds.pause(Provider::OpenAi, 10 * SECOND);
        assert!(is_held(&holds).await);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_mixed_queue_no_more_jobs_are_put_off_than_there_are_slots() {
        let holds = ClaimPauses::default();
        holds.record_provider(Provider::OpenAi);
        assert!(!holds.park(Provider::OpenAi, SECOND, 2), "no job is behind it");
        holds.record_provider(Provider::AzureVision);
        assert!(holds.park(Provider::OpenAi, SECOND, 2));
        assert!(holds.park(Provider::OpenAi, SECOND, 2));
        assert!(!holds.park(Provider::OpenAi, SECOND, 2));
        tokio::time::advance(2 * SECOND).await;
        assert!(holds.park(Provider::OpenAi, SECOND, 2));
    }
}
