//! The state of one queue's worker, which its loops, its completer and its deliveries share.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::outcome_spool::OutcomeSpool;
use super::{
    Assignment, ClaimPauses, RuntimeOptions, claim_sequence::ClaimSequence, outcome::OutcomeRules,
    release_batcher::ReleaseBatcher, slots::Slots, worker_health::WorkerHealth,
};
use crate::{queue::WorkerQueue, suspects::SuspectIsolation};

/// Where claimed jobs go to be started.
pub(super) type AssignmentSender = mpsc::UnboundedSender<Assignment>;

/// The two steps of a stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Claim nothing more; what runs may finish.
    pub drain: CancellationToken,
    /// Let go of everything.
    pub abort: CancellationToken,
}

/// One queue and what keeps it running.
#[derive(Debug)]
pub struct QueueWorker {
    pub(super) broker: Arc<dyn WorkerQueue>,
    pub(super) releases: ReleaseBatcher,
    /// The parent span of its jobs.
    pub(super) span: tracing::Span,
    pub(super) slots: Slots,
    /// The jobs in flight in all queues of the replica.
    pub(super) isolation: Arc<SuspectIsolation>,
    pub(super) health: WorkerHealth,
    pub(super) claim_pauses: Arc<ClaimPauses>,
    pub(super) rules: OutcomeRules,
    /// Where outcomes are kept that Redis does not take while the replica stops.
    pub(super) spool: Option<OutcomeSpool>,
    /// Redis has taken an outcome: those that it did not take before are tried again.
    pub(super) outcome_taken: Notify,
    pub(super) deadline: Duration,
    pub(super) renew_every: Duration,
    /// How long a queue without work is left alone.
    pub(super) idle_rest: Duration,
    pub(super) shutdown: Shutdown,
    /// Cancelled when the lease has been handed back.
    pub(super) left: CancellationToken,
    pub(super) claim_sequence: ClaimSequence,
    /// Where claimed jobs go; nowhere before apalis asks for the first, and after the worker has closed.
    pub(super) claimed: Mutex<Option<AssignmentSender>>,
    /// The claim loop has found nothing, and waits until there may be work.
    pub(super) idle: AtomicBool,
}

impl QueueWorker {
    pub(super) fn new(
        broker: Arc<dyn WorkerQueue>,
        concurrency: usize,
        options: &RuntimeOptions,
        isolation: Arc<SuspectIsolation>,
        shutdown: Shutdown,
    ) -> Self {
        let span = tracing::info_span!("worker", queue = broker.queue(), layout = %broker.layout());
        Self {
            releases: ReleaseBatcher::new(broker.clone()),
            broker,
            span,
            slots: Slots::new(concurrency),
            isolation,
            health: WorkerHealth::default(),
            claim_pauses: Arc::default(),
            rules: options.rules.clone(),
            spool: options.spool.clone(),
            outcome_taken: Notify::new(),
            deadline: options.deadline,
            renew_every: options.renew_every,
            idle_rest: options.idle_rest,
            shutdown,
            left: CancellationToken::new(),
            claim_sequence: ClaimSequence::new(),
            claimed: Mutex::default(),
            idle: AtomicBool::new(false),
        }
    }

    /// The queue.
    pub fn broker(&self) -> &Arc<dyn WorkerQueue> {
        &self.broker
    }

    /// Its jobs in flight.
    pub const fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Its signs of life.
    pub const fn health(&self) -> &WorkerHealth {
        &self.health
    }
}
