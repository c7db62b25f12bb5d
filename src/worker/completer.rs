//! Batches job completions. Each batch also claims one new job per completed job, so under load a slot is refilled in
//! the same round trip and Redis always has the next call queued.

use std::sync::Arc;

use redis::ErrorKind;
use tracing::debug;

use super::{QueueWorker, claim_sequence::NumberedClaim};
use crate::{
    group_commit::{BatchLimits, Batcher},
    queue::{Answered, BrokerError, Completion, CompletionResults, EqualJobs, Lease, WriteResult},
};

/// Maximum completions in a call; the same bound applies to the claim in that call.
const MOST: usize = 32;
/// Batch size while the backlog is short. Large batches make jobs of equal length finish in lockstep, each waiting for
/// the slowest.
const FEW: usize = 8;
/// Maximum number of concurrent calls.
const CALLS: usize = 8;

/// Bounds of the batches for a queue with `capacity` slots (measured by `scripts/bench-peer.sh`). Sized so that a full
/// set of completions fills `calls` batches plus a remainder. The remainder staggers the batches; without it they would
/// complete, and be resent, all at once.
fn bounds(capacity: usize) -> BatchLimits {
    let requests = capacity.div_ceil(3).clamp(1, MOST);
    BatchLimits {
        calls: (capacity.saturating_sub(1) / requests).clamp(2, CALLS),
        requests,
        partial: requests.min(FEW),
        bytes: 1024 * 1024,
    }
}

/// Writes the completions of one queue.
#[derive(Debug, Clone)]
pub(super) struct Completer(Batcher<Completion, Result<WriteResult, BrokerError>>);

impl Completer {
    pub(super) fn new(worker: Arc<QueueWorker>) -> Self {
        let weigh = |completion: &Completion| completion.result.len();
        Self(Batcher::new(
            bounds(worker.slots.capacity()),
            weigh,
            move |completions| {
                let worker = worker.clone();
                async move { worker.complete(&completions).await }
            },
        ))
    }

    /// Completes a job. `result` is JSON.
    pub(super) async fn write(
        &self,
        lease: &Lease,
        result: &str,
        equal: Option<(EqualJobs, Answered)>,
    ) -> Result<WriteResult, BrokerError> {
        let completion = Completion {
            lease: lease.clone(),
            result: result.to_owned(),
            equal,
        };
        let died = || BrokerError::Redis((ErrorKind::Client, "the completion's call died").into());
        self.0.ask(completion).await.unwrap_or_else(|| Err(died()))
    }
}

impl QueueWorker {
    /// Completes jobs, and claims new ones in the same call if the queue wants jobs.
    async fn complete(self: &Arc<Self>, completions: &[Completion]) -> Vec<Result<WriteResult, BrokerError>> {
        let turn = if self.wants_jobs() {
            self.claim_sequence.take()
        } else {
            None
        };
        let next = turn.as_ref().map(NumberedClaim::number);
        let CompletionResults { settled, claimed } = self.broker.complete_all(completions, next).await;
        match (turn, claimed) {
            (Some(turn), Some(Ok(deliveries))) => {
                let ended = completions.iter().zip(&settled).filter(|(_, s)| s.is_ok());
                let mut slots = self
                    .slots
                    .take_over(ended.map(|(completion, _)| &completion.lease));
                self.hand_out(&mut slots, deliveries);
                turn.answered();
            }
            // No claim was made. A first claim counts as answered; a repeated one stays to be asked for again.
            (Some(turn), None) if !turn.is_again() => turn.answered(),
            (_, Some(Err(error))) => debug!(%error, "nothing was claimed beside the completions"),
            _ => {}
        }
        settled
    }
}
