//! Gives claimed jobs their slots, and hands them on to be started.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Assignment, DeliveryStats, QueueWorker, slots::FreeSlots};
use crate::{
    guard::StopSignals,
    locks::locked,
    queue::{Delivery, Lease},
    suspects::Suspect,
};

impl QueueWorker {
    /// Gives claimed jobs their slots, and hands them on. Where the backend is gone, they go back when the worker leaves.
    /// A job whose earlier delivery was lost waits until the other jobs in the replica have ended.
    pub(super) fn hand_out(self: &Arc<Self>, slots: &mut FreeSlots, deliveries: Vec<Delivery>) {
        let open = locked(&self.claimed).is_some();
        let mut too_many = Vec::new();
        for delivery in deliveries {
            // It is running here already, after a claim was answered twice.
            if !open || self.slots.contains(&delivery.lease) {
                continue;
            }
            let Some(presence) = self.isolation.enter(delivery.lost) else {
                too_many.push(delivery.lease);
                continue;
            };
            let (lease, stop) = (delivery.lease.clone(), self.shutdown.abort.child_token());
            let (stats, suspect) = (Arc::<DeliveryStats>::default(), presence.suspect());
            stats.set_pending_start(self.claim_pauses.add_pending_start());
            self.slots
                .occupy(slots, lease, stop.clone(), stats.clone(), presence);
            match suspect {
                Some(suspect) => {
                    tokio::spawn(self.clone().run_suspect(suspect, delivery, stop, stats));
                }
                None => {
                    self.start(self.assignment(delivery, stop, stats, None));
                }
            }
        }
        if !too_many.is_empty() {
            tokio::spawn(self.clone().put_back(too_many));
        }
    }

    /// Starts a suspect once it may run, or gives it back where the worker closes before that.
    async fn run_suspect(
        self: Arc<Self>,
        suspect: Suspect,
        delivery: Delivery,
        stop: CancellationToken,
        stats: Arc<DeliveryStats>,
    ) {
        let lease = delivery.lease.clone();
        info!(parent: &self.span, id = %lease.id, lost = delivery.lost,
            "an earlier delivery of this job ended without an outcome: it runs apart from other jobs, once these have ended");
        tokio::select! {
            biased;
            () = self.shutdown.drain.cancelled() => self.put_back(vec![lease]).await,
            () = stop.cancelled() => self.slots.vacate(&lease), // It is another replica's by now.
            () = suspect.may_run() => {
                if !self.start(self.assignment(delivery, stop, stats, Some(suspect.clone()))) {
                    self.put_back(vec![lease]).await;
                }
            }
        }
    }

    /// Gives jobs back that were claimed and not started.
    async fn put_back(self: Arc<Self>, leases: Vec<Lease>) {
        for given in join_all(leases.iter().map(|lease| self.releases.write(lease))).await {
            if let Err(error) = given {
                warn!(%error, "a job cannot be given back: it is recovered when its lease has run out");
            }
        }
        for lease in &leases {
            self.slots.vacate(lease);
        }
    }

    /// Hands a job on; `false` where the backend is gone.
    fn start(&self, assignment: Assignment) -> bool {
        let claimed = locked(&self.claimed);
        claimed
            .as_ref()
            .is_some_and(|claimed| claimed.send(assignment).is_ok())
    }

    fn assignment(
        &self,
        delivery: Delivery,
        stop: CancellationToken,
        stats: Arc<DeliveryStats>,
        suspect: Option<Suspect>,
    ) -> Assignment {
        let stops = StopSignals {
            drain: self.shutdown.drain.clone(),
            abort: stop,
            deadline: tokio::time::Instant::now() + self.deadline,
        };
        Assignment {
            delivery,
            broker: self.broker.clone(),
            stops,
            claim_pauses: self.claim_pauses.clone(),
            stats,
            suspect,
        }
    }
}
