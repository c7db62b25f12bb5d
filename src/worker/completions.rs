//! Jobs that have ended well, written together; the same call claims others into their slots. Under load a replica
//! claims so and in no other way: its slots are not empty for the time of a round trip, and with many of them Redis has
//! the next call before it has answered the last.

use std::sync::Arc;

use redis::ErrorKind;
use tracing::debug;

use super::{runtime::QueueWorker, turns::Turn};
use crate::{
    batch::{Batch, Bounds},
    queue::{BrokerError, Completed, Completion, Lease, Settled},
};

/// Completions in a call, at most: what a claim beside them takes.
const MOST: usize = 32;
/// The same while few wait. Jobs that take equally long stay together in waves once they were ended together, and all of
/// a wave wait for its last.
const FEW: usize = 8;
/// Calls under way, at most.
const CALLS: usize = 8;

/// How the completions of a queue with so many slots travel (measured by `scripts/bench-peer.sh`). When all of its jobs end
/// at once, all but one call of them are under way, so that Redis has the next before it has answered the last; the one
/// keeps those calls apart, which would else be answered, and sent again, in one go.
fn bounds(capacity: usize) -> Bounds {
    let requests = capacity.div_ceil(3).clamp(1, MOST);
    Bounds {
        calls: (capacity.saturating_sub(1) / requests).clamp(2, CALLS),
        requests,
        partial: requests.min(FEW),
        bytes: 1024 * 1024,
    }
}

/// Writes the completions of one queue.
#[derive(Debug, Clone)]
pub(super) struct Completions(Batch<Completion, Result<Settled, BrokerError>>);

impl Completions {
    pub(super) fn new(worker: Arc<QueueWorker>) -> Self {
        let weigh = |completion: &Completion| completion.result.len();
        Self(Batch::new(
            bounds(worker.slots.capacity()),
            weigh,
            move |completions| {
                let worker = worker.clone();
                async move { worker.complete(&completions).await }
            },
        ))
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
    /// Ends jobs well, and claims beside that if jobs are wanted.
    async fn complete(self: &Arc<Self>, completions: &[Completion]) -> Vec<Result<Settled, BrokerError>> {
        let turn = if self.wants_jobs() {
            self.turns.take()
        } else {
            None
        };
        let next = turn.as_ref().map(Turn::number);
        let Completed { settled, claimed } = self.broker.complete_all(completions, next).await;
        match (turn, claimed) {
            (Some(turn), Some(Ok(deliveries))) => {
                let ended = completions.iter().zip(&settled).filter(|(_, s)| s.is_ok());
                let mut slots = self
                    .slots
                    .take_over(ended.map(|(completion, _)| &completion.lease));
                self.hand_out(&mut slots, deliveries);
                turn.answered();
            }
            // Nothing was asked for; what is to be asked for again still is.
            (Some(turn), None) if !turn.is_again() => turn.answered(),
            (_, Some(Err(error))) => debug!(%error, "nothing was claimed beside the completions"),
            _ => {}
        }
        settled
    }
}
