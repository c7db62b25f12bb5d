//! Builds an apalis worker for each queue, runs them all under one Monitor, and drains them at shutdown.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, bail};
use apalis::{
    layers::catch_panic::{CatchPanicLayer, PanicError},
    prelude::{BoxDynError, Monitor, WorkerBuilder, WorkerBuilderExt, WorkerError},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Assignment, ClaimPauses, DeliveryHandler,
    assigner::AssignmentSender,
    backend::QueueBackend,
    claim_sequence::ClaimSequence,
    outcome::OutcomeRules,
    release_batcher::ReleaseBatcher,
    slots::Slots,
    suspects::SuspectIsolation,
    worker_health::{DispositionCounts, WorkerHealth},
};
use crate::{
    queue::WorkerQueue,
    telemetry::panics,
    watchdog::{self, LoopProgress, Watchdog},
};

/// Time after the end of the drain time at which the replica gives up jobs that are still in flight.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// How all queues of a replica are run.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// The rules that turn failures into outcomes.
    pub rules: OutcomeRules,
    /// Longest run of one delivery.
    pub deadline: Duration,
    /// How long jobs in flight may go on after the stop signal.
    pub drain: Duration,
    /// How often leases are renewed: a third of how long they last.
    pub renew_every: Duration,
    /// How long a loop may make no progress before the process ends with
    /// [`EXIT_CODE`](watchdog::EXIT_CODE); [`WEDGED_AFTER`](watchdog::WEDGED_AFTER) unless a test is in a hurry.
    pub wedged_after: Duration,
    /// Loops of others, by name, without which the jobs do not get on: they are watched too.
    pub other_loops: Vec<(&'static str, Arc<LoopProgress>)>,
}

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
    pub(super) deadline: Duration,
    pub(super) renew_every: Duration,
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

/// All queues of a replica, ready to run.
pub struct Runtime {
    workers: Vec<Arc<QueueWorker>>,
    handler: Arc<dyn DeliveryHandler>,
    drain: Duration,
    wedged_after: Duration,
    other_loops: Vec<(&'static str, Arc<LoopProgress>)>,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime over `queues`, each with its concurrency.
    pub fn new(
        queues: impl IntoIterator<Item = (Arc<dyn WorkerQueue>, usize)>,
        handler: Arc<dyn DeliveryHandler>,
        options: &RuntimeOptions,
    ) -> Self {
        let shutdown = Shutdown::default();
        let isolation: Arc<SuspectIsolation> = Arc::default();
        let workers = queues.into_iter().map(|(broker, concurrency)| {
            let span = tracing::info_span!("worker", queue = broker.queue(), layout = %broker.layout());
            Arc::new(QueueWorker {
                releases: ReleaseBatcher::new(broker.clone()),
                broker,
                span,
                slots: Slots::new(concurrency),
                isolation: isolation.clone(),
                health: WorkerHealth::default(),
                claim_pauses: Arc::default(),
                rules: options.rules.clone(),
                deadline: options.deadline,
                renew_every: options.renew_every,
                shutdown: shutdown.clone(),
                left: CancellationToken::new(),
                claim_sequence: ClaimSequence::new(),
                claimed: Mutex::default(),
                idle: AtomicBool::new(false),
            })
        });
        Self {
            workers: workers.collect(),
            handler,
            drain: options.drain,
            wedged_after: options.wedged_after,
            other_loops: options.other_loops.clone(),
            shutdown,
        }
    }

    /// The queues' workers, for health and statistics.
    pub fn workers(&self) -> &[Arc<QueueWorker>] {
        &self.workers
    }

    /// Runs until `stop` resolves and everything has been drained, or `hasten` cuts the draining short. Ends the
    /// process when a loop is wedged.
    ///
    /// # Errors
    /// When a worker ends by itself, which is a fault.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send,
        hasten: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<DispositionCounts> {
        let _watchdog = self.watch().context("cannot watch the loops")?;
        let mut monitor = Monitor::new();
        for worker in &self.workers {
            let (worker, handler) = (worker.clone(), self.handler.clone());
            monitor = monitor.register(move |_| {
                let handler = handler.clone();
                WorkerBuilder::new(format!("{}:{}", worker.broker.layout(), worker.broker.queue()))
                    .backend(QueueBackend::new(worker.clone()))
                    .timeout(worker.deadline)
                    .layer(CatchPanicLayer::<_, PanicError>::with_panic_handler(
                        describe_panic,
                    ))
                    .build(move |assignment: Assignment| {
                        let handler = handler.clone();
                        async move { Ok::<_, BoxDynError>(handler.handle(&assignment).await) }
                    })
            });
        }
        let control = monitor.context();
        let fault = CancellationToken::new();
        let faulty = fault.clone();
        let monitor = monitor.should_restart(move |worker, error: &WorkerError| {
            // The code below never returns an error. If a worker ends with one anyway, the process must end, so that
            // the platform restarts it: the monitor alone would continue with the other queues.
            error!(worker = worker.name(), %error, "an apalis worker ended by itself");
            faulty.cancel();
            false
        });

        let shutdown = self.shutdown.clone();
        let drain = async {
            stop.await;
            let in_flight: usize = self.workers.iter().map(|w| w.slots.len()).sum();
            info!(
                in_flight,
                drain_s = self.drain.as_secs(),
                "stopping: no more claims"
            );
            shutdown.drain.cancel();
            if let Err(error) = control.shutdown() {
                warn!(%error, "apalis does not take the shutdown");
            }
            tokio::select! {
                () = hasten => warn!("told again to stop: handing back what is in flight"),
                () = tokio::time::sleep(self.drain) => warn!("the drain time is over: handing back what is in flight"),
            }
            shutdown.abort.cancel();
            tokio::time::sleep(LAST_GRACE).await;
            let in_flight: usize = self.workers.iter().map(|w| w.slots.len()).sum();
            error!(
                in_flight,
                "leaving without them: their leases run out, and others take them over"
            );
        };
        tokio::select! {
            ended = monitor.run() => ended.context("the workers ended")?,
            () = drain => {}
            () = fault.cancelled() => bail!("an apalis worker ended by itself"),
        }
        Ok(self
            .workers
            .iter()
            .map(|w| w.health.disposition_counts())
            .fold(DispositionCounts::default(), DispositionCounts::plus))
    }

    /// Watches every loop.
    fn watch(&self) -> std::io::Result<Watchdog> {
        let limit = self.wedged_after;
        let pulses = self.workers.iter().flat_map(|worker| {
            let (layout, queue) = (worker.broker.layout(), worker.broker.queue());
            [
                ("claim", worker.health.claims()),
                ("renew", worker.health.renewals()),
            ]
            .map(|(name, pulse)| (format!("the {name} loop of {layout}:{queue}"), pulse.clone()))
        });
        let others = self.other_loops.iter();
        let others = others.map(|(name, pulse)| (format!("the {name} loop"), pulse.clone()));
        Watchdog::start(limit, pulses.chain(others).collect(), move |name| {
            watchdog::leave(name, limit)
        })
    }
}

fn describe_panic(panic: &Box<dyn std::any::Any + Send>) -> PanicError {
    PanicError(panics::describe(&**panic))
}
