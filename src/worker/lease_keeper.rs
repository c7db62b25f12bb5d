//! The lease keeper of a queue: renews the leases of this replica's jobs, and recovers the jobs of dead replicas.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::{QueueWorker, supervisor::IDLE};

/// Sweeps in a row for the jobs of dead replicas, before the lease is renewed again.
const MAX_SWEEPS: usize = 500;

impl QueueWorker {
    /// Renews this replica's lease, and looks after the jobs of replicas that are dead, until `self` has left.
    pub(super) async fn renew_loop(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.renew_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed = 0u64;
        loop {
            tokio::select! {
                biased;
                () = self.left.cancelled() => return,
                _ = ticks.tick() => {
                    // A replica that lives for a moment only looks after the dead, too: with its first renewal.
                    let sweeps = renewed.is_multiple_of(2);
                    if self.renew().await {
                        renewed += 1;
                        if sweeps {
                            self.sweep().await;
                        }
                    }
                }
                () = tokio::time::sleep(IDLE) => {} // A long lease is renewed less often than the loop has to stir.
            }
            self.health.renewals().beat();
        }
    }

    /// Renews the lease, and stops the jobs that are lost. Says whether Redis took it.
    pub(super) async fn renew(&self) -> bool {
        let renewed = self.broker.renew(&self.slots.held()).await;
        self.health.record_redis(renewed.is_ok());
        match renewed {
            Ok(lost) => {
                for lease in lost.iter().filter(|lease| self.slots.contains(lease)) {
                    warn!(id = %lease.id, "the job's lease is lost: it is stopped");
                    self.slots.stop(lease);
                }
                true
            }
            Err(error) => {
                warn!(%error, queue = self.broker.queue(), "the lease cannot be renewed");
                false
            }
        }
    }

    async fn sweep(&self) {
        for _ in 0..MAX_SWEEPS {
            self.health.renewals().beat();
            match self.broker.recover().await {
                Ok(found) => {
                    let recovered = &self.health.cells().recovered;
                    recovered[0].add(found.requeued);
                    recovered[1].add(found.poisoned);
                    if found.requeued + found.poisoned > 0 {
                        info!(
                            queue = self.broker.queue(),
                            requeued = found.requeued,
                            poisoned = found.poisoned,
                            "jobs of a dead replica recovered"
                        );
                    }
                    if !found.more {
                        return;
                    }
                }
                Err(error) => {
                    debug!(%error, "no sweep this time");
                    return;
                }
            }
        }
    }
}
