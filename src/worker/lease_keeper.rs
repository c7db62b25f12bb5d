//! The lease keeper of a queue: renews the leases of this replica's jobs, and recovers the jobs of dead replicas.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{QueueWorker, supervisor::IDLE};

/// Sweeps in a row for the jobs of dead replicas, before the lease is renewed again.
const MAX_SWEEPS: usize = 500;

/// Time between two sweeps while no renewal has seen claims of other replicas.
const SWEEP_ANYWAY: Duration = Duration::from_secs(60);

impl QueueWorker {
    /// Renews this replica's lease, and looks after the jobs of replicas that are dead, until `self` has left.
    pub(super) async fn renew_loop(self: Arc<Self>) {
        let (mut next, mut swept) = (Instant::now(), None::<Instant>);
        loop {
            tokio::select! {
                biased;
                () = self.left.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    if self.renew().await {
                        // The first renewal sweeps, so that a replica that lives only for a moment sweeps too.
                        let due = if self.broker.has_claims_of_others() { 2 * self.renew_every } else { SWEEP_ANYWAY };
                        if swept.is_none_or(|at| at.elapsed() + self.renew_every / 2 >= due) {
                            swept = Some(Instant::now());
                            self.sweep().await;
                        }
                    }
                    next = Instant::now() + self.until_renewal();
                }
                () = tokio::time::sleep(IDLE) => {} // A long lease is renewed less often than the loop has to stir.
            }
            self.health.renewals().beat();
        }
    }

    /// A replica without jobs renews less often, as long as the fleet has lost none. The fleet's renewals may be two thirds
    /// of a lease apart (`queue/lease_continuity.lua`), which is twice the usual time: a longer gap counts as an outage of
    /// Redis, after which the jobs of dead replicas wait for a whole lease.
    fn until_renewal(&self) -> Duration {
        let is_idle = self.slots.is_empty() && !self.broker.has_claims_of_others();
        let (seldom, most) = (self.renew_every * 8 / 5, self.renew_every * 9 / 5);
        match is_idle {
            true => self.idle_rest.clamp(seldom, most),
            false => self.renew_every,
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
