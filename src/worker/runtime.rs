//! Runs the workers of all queues, and drains them at shutdown.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tracing::{error, info, warn};

use super::{
    DeliveryHandler, QueueWorker, RuntimeOptions, Shutdown, apalis_adapter::ApalisWorkers,
    worker_health::OutcomeTotals,
};
use crate::{
    queue::WorkerQueue,
    suspects::SuspectIsolation,
    watchdog::{self, LoopProgress, Watchdog},
};

/// Time after the end of the drain time at which the replica gives up jobs that are still in flight.
const LAST_GRACE: Duration = Duration::from_secs(5);

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
            let (isolation, shutdown) = (isolation.clone(), shutdown.clone());
            Arc::new(QueueWorker::new(
                broker,
                concurrency,
                options,
                isolation,
                shutdown,
            ))
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
    ) -> anyhow::Result<OutcomeTotals> {
        let _watchdog = self.watch().context("cannot watch the loops")?;
        let apalis = ApalisWorkers::new(&self.workers, &self.handler);
        let close = apalis.closer();
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
            close();
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
            ended = apalis.run() => ended?,
            () = drain => {}
        }
        Ok(self
            .workers
            .iter()
            .map(|w| w.health.outcome_totals())
            .fold(OutcomeTotals::default(), OutcomeTotals::plus))
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
