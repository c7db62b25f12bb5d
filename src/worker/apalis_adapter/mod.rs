//! Everything that knows apalis: one apalis worker for each queue, run by one apalis `Monitor`.
//!
//! Apalis contributes the deadline of a job and the catch of its panics. Claims, leases and outcomes are this crate's.
//!
//! - [`backend`]: the apalis `Backend`, which yields the jobs that the claimer has claimed.
//! - [`ack_layer`]: the layer around the handler, which runs a job in a task of its own.

pub mod ack_layer;
pub mod backend;

use std::sync::Arc;

use anyhow::{Context, bail};
use apalis::{
    layers::catch_panic::{CatchPanicLayer, PanicError},
    prelude::{BoxDynError, Monitor, WorkerBuilder, WorkerBuilderExt, WorkerError},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::backend::QueueBackend;
use super::{Assignment, DeliveryHandler, QueueWorker};
use crate::telemetry::panics;

/// The apalis workers of all queues.
pub(super) struct ApalisWorkers {
    monitor: Monitor,
    /// Cancelled when a worker ends although nothing has stopped it.
    fault: CancellationToken,
}

impl ApalisWorkers {
    pub(super) fn new(workers: &[Arc<QueueWorker>], handler: &Arc<dyn DeliveryHandler>) -> Self {
        let mut monitor = Monitor::new();
        for worker in workers {
            let (worker, handler) = (worker.clone(), handler.clone());
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
        let fault = CancellationToken::new();
        let faulty = fault.clone();
        let monitor = monitor.should_restart(move |worker, error: &WorkerError| {
            // The backend and the ack layer never return an error. If a worker ends with one anyway, the process must
            // end, so that the platform restarts it: the monitor alone would continue with the other queues.
            error!(worker = worker.name(), %error, "an apalis worker ended by itself");
            faulty.cancel();
            false
        });
        Self { monitor, fault }
    }

    /// Returns a function that tells the workers to close.
    pub(super) fn closer(&self) -> impl Fn() + use<> {
        let control = self.monitor.context();
        move || {
            if let Err(error) = control.shutdown() {
                warn!(%error, "apalis does not take the shutdown");
            }
        }
    }

    /// Runs until every worker has closed.
    ///
    /// # Errors
    /// When a worker ends by itself, which is a fault.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        tokio::select! {
            ended = self.monitor.run() => ended.context("the workers ended"),
            () = self.fault.cancelled() => bail!("an apalis worker ended by itself"),
        }
    }
}

fn describe_panic(panic: &Box<dyn std::any::Any + Send>) -> PanicError {
    PanicError(panics::describe(&**panic))
}
