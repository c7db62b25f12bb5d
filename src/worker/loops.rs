//! The loops of a queue's worker: one claims jobs, one renews their leases. Each runs in a task of its own with
//! back-off after errors, and a supervisor restarts it after a panic.

use std::{
    future::Future,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use apalis::prelude::{Task, TaskBuilder, TaskId};
use futures_util::future::join_all;
use rand::RngExt;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Assignment, DeliveryStats, claim_pauses::ClaimAllowance, runtime::QueueWorker, slots::FreeSlots,
    suspects::Suspect,
};
use crate::{
    guard::StopSignals,
    queue::{BrokerError, Delivery, Lease},
    telemetry::panics::describe_end,
};

/// How long the claim loop sleeps at most when nothing announces work: a safety net, not the way work is found.
const IDLE: Duration = Duration::from_secs(15);
/// Sweeps in a row for the jobs of dead replicas, before the lease is renewed again.
const MAX_SWEEPS: usize = 500;

/// Where claimed jobs go, ready for apalis.
pub(super) type AssignmentSender = mpsc::UnboundedSender<Task<Assignment>>;

/// A wait that doubles each time up to a longest, with jitter.
#[derive(Debug)]
pub(super) struct LoopBackoff {
    first: Duration,
    next: Duration,
    longest: Duration,
}

impl LoopBackoff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            next: first,
            longest,
        }
    }

    pub(super) async fn wait(&mut self) {
        let spread = rand::rng().random_range(0.75..=1.25);
        tokio::time::sleep(self.next.mul_f64(spread)).await;
        self.next = (self.next * 2).min(self.longest);
    }

    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }

    pub(super) fn is_longest(&self) -> bool {
        self.next >= self.longest
    }
}

/// Runs a loop until it returns; one that panics is started again.
pub(crate) fn supervise<F>(name: &'static str, run: impl Fn() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let mut pause = LoopBackoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // A task of its own for each run: a panic ends that task alone, and comes back as an error.
        while let Err(ended) = tokio::spawn(run()).await {
            error!(
                "the {name} loop died, and is started again: {}",
                describe_end(ended)
            );
            pause.wait().await;
        }
    })
}

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
    async fn renew(&self) -> bool {
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
            let (until, gate) = match allowance {
                ClaimAllowance::All => return Some(slots),
                ClaimAllowance::UpTo(most) => {
                    slots.keep(most);
                    return Some(slots);
                }
                ClaimAllowance::Wait(until, gate) => (until, gate),
            };
            drop(slots);
            let freed = async {
                match &gate {
                    Some(gate) => gate.freed().await,
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
        let work = tokio::select! {
            biased;
            () = self.shutdown.drain.cancelled() => return,
            () = self.claim_sequence.owe() => return,
            work = self.broker.wait(IDLE) => work,
        };
        self.health.claims().beat();
        // Without work too there is a claim now and then: it clears what is left of a line that others have emptied.
        if let Err(error) = work {
            debug!(%error, queue = self.broker.queue(), "waiting for work was cut short");
            self.rest(pause).await;
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

    /// Gives claimed jobs their slots, and to apalis. Where the backend is gone, they go back when the worker leaves.
    /// A job whose earlier delivery was lost waits until the other jobs in the replica have ended.
    pub(super) fn hand_out(self: &Arc<Self>, slots: &mut FreeSlots, deliveries: Vec<Delivery>) {
        let open = self
            .claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
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
            let (course, suspect) = (Arc::<DeliveryStats>::default(), presence.suspect());
            course.set_pending_start(self.claim_pauses.add_pending_start());
            self.slots
                .occupy(slots, lease, stop.clone(), course.clone(), presence);
            match suspect {
                Some(suspect) => {
                    tokio::spawn(self.clone().run_suspect(suspect, delivery, stop, course));
                }
                None => {
                    self.start(self.task(delivery, stop, course, None));
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
        course: Arc<DeliveryStats>,
    ) {
        let lease = delivery.lease.clone();
        info!(parent: &self.span, id = %lease.id, lost = delivery.lost,
            "an earlier delivery of this job ended without an outcome: it runs apart from other jobs, once these have ended");
        tokio::select! {
            biased;
            () = self.shutdown.drain.cancelled() => self.put_back(vec![lease]).await,
            () = stop.cancelled() => self.slots.vacate(&lease), // It is another replica's by now.
            () = suspect.may_run() => {
                if !self.start(self.task(delivery, stop, course, Some(suspect.clone()))) {
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

    /// Hands a job to apalis; `false` where the backend is gone.
    fn start(&self, task: Task<Assignment>) -> bool {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.as_ref().is_some_and(|claimed| claimed.send(task).is_ok())
    }

    fn task(
        &self,
        delivery: Delivery,
        stop: CancellationToken,
        course: Arc<DeliveryStats>,
        suspect: Option<Suspect>,
    ) -> Task<Assignment> {
        let stops = StopSignals {
            drain: self.shutdown.drain.clone(),
            abort: stop,
            deadline: tokio::time::Instant::now() + self.deadline,
        };
        let (id, attempt) = (delivery.lease.id.to_string(), delivery.attempt);
        let max_attempts = delivery.max_attempts;
        let task = TaskBuilder::new(Assignment {
            delivery,
            broker: self.broker.clone(),
            stops,
            claim_pauses: self.claim_pauses.clone(),
            stats: course,
            suspect,
        })
        // As a string, whatever it looks like: read as a number, `007` would come back as `7`.
        .task_id(TaskId::from_string(id))
        .attempt(usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1))
        .max_attempts(usize::try_from(max_attempts).unwrap_or(usize::MAX));
        task.build()
    }
}
