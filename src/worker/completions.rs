//! Jobs that have ended well, written together; the same call claims others into their slots. Under load a replica
//! claims so and in no other way, and its slots are not empty for the time of a round trip.

use std::sync::Arc;

use redis::ErrorKind;
use tracing::debug;

use super::runtime::QueueWorker;
use crate::{
    batch::{Batch, Load},
    queue::{BrokerError, Completed, Completion, Lease, Settled},
};

/// Between two evils (`scripts/bench-peer.sh`): with more, jobs that take equally long stay together in waves, and all of
/// a wave wait for its last; with fewer, what a script's beginning costs Redis is shared by fewer.
const MOST: Load = Load {
    requests: 16,
    bytes: 1024 * 1024,
};

/// Writes the completions of one queue.
#[derive(Debug, Clone)]
pub(super) struct Completions(Batch<Completion, Result<Settled, BrokerError>>);

impl Completions {
    pub(super) fn new(worker: Arc<QueueWorker>) -> Self {
        let weigh = |completion: &Completion| completion.result.len();
        Self(Batch::new(MOST, weigh, move |completions| {
            let worker = worker.clone();
            async move { worker.complete(&completions).await }
        }))
    }

    /// Ends a job well. `result` is JSON.
    pub(super) async fn write(&self, lease: &Lease, result: &str) -> Result<Settled, BrokerError> {
        let completion = Completion {
            lease: lease.clone(),
            result: result.to_owned(),
        };
        let died = || BrokerError::Redis((ErrorKind::Client, "the completion's call died").into());
        self.0.ask(completion).await.unwrap_or_else(|| Err(died()))
    }
}

impl QueueWorker {
    /// Ends jobs well, and claims beside that unless a claim is under way already, or none is wanted.
    async fn complete(&self, completions: &[Completion]) -> Vec<Result<Settled, BrokerError>> {
        let mut turn = if self.wants_jobs() {
            self.turn.try_lock().ok()
        } else {
            None
        };
        let next = turn.as_deref().copied();
        let Completed { settled, claimed } = self.broker.complete_all(completions, next).await;
        match (&mut turn, claimed) {
            (Some(number), Some(Ok(deliveries))) => {
                let ended = completions.iter().zip(&settled).filter(|(_, s)| s.is_ok());
                let mut slots = self
                    .slots
                    .take_over(ended.map(|(completion, _)| &completion.lease));
                self.hand_out(&mut slots, deliveries);
                **number = number.next();
            }
            // The claim loop asks again with the same number.
            (_, Some(Err(error))) => debug!(%error, "nothing was claimed beside the completions"),
            _ => {}
        }
        settled
    }
}
