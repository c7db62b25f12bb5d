//! The claimer of a queue: claims jobs into free slots, no more than the limits let start.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{QueueWorker, claim_pauses::ClaimAllowance, slots::FreeSlots, supervisor::IDLE};
use crate::{queue::BrokerError, retry::LoopBackoff};

/// Time between two claims while nothing speaks for one.
const CLAIM_ANYWAY: Duration = Duration::from_secs(120);
/// Limit of a wait that only looks once.
const ONE_LOOK: Duration = Duration::from_millis(5);

impl QueueWorker {
    /// Claims jobs into free slots until the worker closes.
    ///
    /// While every slot is taken there is nothing for it to do: [completions](super::completer) claim beside what they
    /// write.
    pub(super) async fn claim_loop(self: Arc<Self>) {
        let mut pause = LoopBackoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            if !self.isolation_is_over().await {
                return;
            }
            let Some(mut slots) = self.slots_to_fill().await else {
                return;
            };
            self.health.claims().beat();
            let Some(turn) = self.claim_sequence.take() else {
                return;
            };
            let answer = self.broker.claim(turn.number(), slots.count()).await;
            match &answer {
                // The broker may decide `Unleased` locally, so it says nothing about Redis.
                Err(BrokerError::Unleased) => {}
                answer => self
                    .health
                    .record_redis(!matches!(answer, Err(BrokerError::Redis(_)))),
            }
            match answer {
                Ok(deliveries) => {
                    pause.reset();
                    let idle = deliveries.is_empty() && !turn.is_again();
                    self.hand_out(&mut slots, deliveries);
                    turn.answered();
                    drop(slots);
                    self.idle.store(idle, Ordering::Relaxed);
                    if idle {
                        self.wait_for_work(&mut pause).await;
                    }
                }
                Err(BrokerError::Unleased) => {
                    if !self.renew().await {
                        self.rest(&mut pause).await;
                    }
                }
                Err(error) => {
                    warn!(%error, queue = self.broker.queue(), "claiming failed");
                    self.rest(&mut pause).await;
                }
            }
        }
    }

    /// Waits until no suspect is in the replica, stirring all the while; `false` when the worker closes.
    async fn isolation_is_over(&self) -> bool {
        while self.isolation.is_on() {
            tokio::select! {
                biased;
                () = self.shutdown.drain.cancelled() => return false,
                () = self.isolation.is_over() => {}
                () = tokio::time::sleep(IDLE) => self.health.claims().beat(),
            }
        }
        true
    }

    /// Waits for free slots that jobs may be claimed into: while a limit is exhausted, no more of them than calls may
    /// start. `None` when the worker closes.
    async fn slots_to_fill(&self) -> Option<FreeSlots> {
        loop {
            let mut slots = self.free_slots().await?;
            let allowance = self
                .claim_pauses
                .allowance(slots.count(), self.slots.capacity(), Some(&*self.broker))
                .await;
            let (until, gates) = match allowance {
                ClaimAllowance::All => return Some(slots),
                ClaimAllowance::UpTo(most) => {
                    slots.keep(most);
                    return Some(slots);
                }
                ClaimAllowance::Wait(until, gates) => (until, gates),
            };
            drop(slots);
            let freed = async {
                match &gates {
                    Some(gates) => gates.freed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.drain.cancelled() => return None,
                () = freed => {}
                () = self.claim_pauses.all_started() => {}
                () = tokio::time::sleep_until(until) => {}
                () = tokio::time::sleep(IDLE) => {}
            }
            self.health.claims().beat();
        }
    }

    /// Waits for free slots, stirring all the while; `None` when the worker closes.
    async fn free_slots(&self) -> Option<FreeSlots> {
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.drain.cancelled() => return None,
                slots = self.slots.free() => return Some(slots),
                () = tokio::time::sleep(IDLE) => self.health.claims().beat(),
            }
        }
    }

    /// Waits until there may be work, a claim has to be asked for again, the worker closes, or Redis is away.
    async fn wait_for_work(&self, pause: &mut LoopBackoff) {
        let started = Instant::now();
        let mut look_at = started + self.idle_rest;
        loop {
            let look = async {
                tokio::time::sleep_until(look_at).await;
                let limit = if self.idle_rest.is_zero() { IDLE } else { ONE_LOOK };
                Some(self.broker.wait(limit).await)
            };
            let work = tokio::select! {
                biased;
                () = self.shutdown.drain.cancelled() => return,
                () = self.claim_sequence.owe() => return,
                work = look => work,
                // A rest may be longer than the loop may be silent.
                () = tokio::time::sleep_until(look_at.min(Instant::now() + IDLE)), if look_at > Instant::now() => None,
            };
            self.health.claims().beat();
            match work {
                None => {}
                // Without work too there is a claim now and then: it clears what is left of a line that others have
                // emptied.
                Some(Ok(false)) if started.elapsed() < CLAIM_ANYWAY => {
                    look_at = Instant::now() + self.idle_rest
                }
                Some(Ok(_)) => return,
                Some(Err(error)) => {
                    debug!(%error, queue = self.broker.queue(), "waiting for work was cut short");
                    return self.rest(pause).await;
                }
            }
        }
    }

    async fn rest(&self, pause: &mut LoopBackoff) {
        tokio::select! {
            biased;
            () = self.shutdown.drain.cancelled() => {}
            () = pause.wait() => {}
        }
    }

    /// Returns true if a claim would be of use now.
    pub(super) fn wants_jobs(&self) -> bool {
        !self.shutdown.drain.is_cancelled()
            && !self.idle.load(Ordering::Relaxed)
            && self.claim_pauses.is_unpaused()
            && !self.isolation.is_on()
    }
}
