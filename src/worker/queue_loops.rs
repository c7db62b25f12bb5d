//! The claim loop and the renew loop of one queue's worker, from their start to the hand-back of its lease.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};
use tracing::warn;

use super::{Assignment, QueueWorker, supervisor::supervise};
use crate::{locks::locked, telemetry::metrics::labels::JobOutcome};

/// How long a closing worker tries to hand its lease back. After that the lease runs out.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The running loops, and the jobs that they have claimed.
pub(super) struct QueueLoops {
    claimed: mpsc::UnboundedReceiver<Assignment>,
    claims: JoinHandle<()>,
    renewals: JoinHandle<()>,
}

impl QueueLoops {
    pub(super) fn start(worker: &Arc<QueueWorker>) -> Self {
        // The slots bound the channel: each job in it holds one.
        let (sender, claimed) = mpsc::unbounded_channel();
        worker.set_assignment_sender(Some(sender));
        let (claims, renews) = (worker.clone(), worker.clone());
        Self {
            claimed,
            claims: supervise("claim", move || {
                let worker = claims.clone();
                async move {
                    worker.clone().claim_loop().await;
                    worker.health.claims().end();
                }
            }),
            renewals: supervise("renew", move || {
                let worker = renews.clone();
                async move {
                    worker.clone().renew_loop().await;
                    worker.health.renewals().end();
                }
            }),
        }
    }

    /// The next job to start.
    pub(super) fn poll_claimed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Assignment>> {
        self.claimed.poll_recv(cx)
    }
}

impl QueueWorker {
    /// Ends the loops, gives back what was claimed and not started, and leaves the queue.
    pub(super) async fn close(&self, loops: Option<QueueLoops>) {
        self.shutdown.drain.cancel();
        let (mut claimed, mut renewals) = (None, None);
        if let Some(loops) = loops {
            // Ends after the call to Redis that is under way.
            let _ = loops.claims.await;
            (claimed, renewals) = (Some(loops.claimed), Some(loops.renewals));
        }
        // Completions may have a claim under way as well.
        self.claim_sequence.end().await;
        self.set_assignment_sender(None);
        let mut unstarted = Vec::new();
        while let Some(assignment) = claimed.as_mut().and_then(|claimed| claimed.try_recv().ok()) {
            unstarted.push(assignment);
        }
        let leases: Vec<_> = unstarted
            .iter()
            .map(|assignment| assignment.delivery.lease.clone())
            .collect();
        let leave = async {
            self.broker.release(&leases).await?;
            self.broker.remove_replica().await
        };
        match tokio::time::timeout(LEAVE_TIMEOUT, leave).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "could not leave the queue: the lease will run out"),
            Err(_elapsed) => warn!("could not leave the queue in time: the lease will run out"),
        }
        for Assignment { delivery, stats, .. } in &unstarted {
            stats.count(self.health.cells(), JobOutcome::Released, None);
            self.slots.vacate(&delivery.lease);
        }
        self.left.cancel();
        if let Some(renewals) = renewals {
            let _ = renewals.await;
        }
    }

    fn set_assignment_sender(&self, sender: Option<mpsc::UnboundedSender<Assignment>>) {
        *locked(&self.claimed) = sender;
    }
}
