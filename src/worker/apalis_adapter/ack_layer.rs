//! The ack layer: runs each job in a task of its own, which also writes the outcome.
//!
//! The task is spawned, so a job and its ack continue even if the apalis worker that called it ends. The service never
//! returns an error: apalis would end the worker at an error, and with it every job in flight.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use apalis::{
    layers::catch_panic::PanicError,
    prelude::{BoxDynError, Task},
};
use futures_util::{TryFutureExt, future::BoxFuture};
use jobs::Failure;
use tower::{Layer, Service};
use tracing::{Instrument, error};

use crate::{
    telemetry::panics::describe_end,
    worker::{Assignment, DeliveryOutcome, QueueWorker, completer::Completer},
};

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct AckLayer {
    worker: Arc<QueueWorker>,
    completions: Completer,
}

impl AckLayer {
    pub(super) fn new(worker: Arc<QueueWorker>) -> Self {
        let completions = Completer::new(worker.clone());
        Self { worker, completions }
    }
}

impl<S> Layer<S> for AckLayer {
    type Service = AckService<S>;

    fn layer(&self, inner: S) -> AckService<S> {
        AckService {
            inner,
            worker: self.worker.clone(),
            completions: self.completions.clone(),
        }
    }
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct AckService<S> {
    inner: S,
    worker: Arc<QueueWorker>,
    completions: Completer,
}

impl<S> Service<Task<Assignment>> for AckService<S>
where
    S: Service<Task<Assignment>, Response = DeliveryOutcome>,
    S::Future: Send + 'static,
    S::Error: Into<BoxDynError>,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Assignment>) -> Self::Future {
        let (worker, completions) = (self.worker.clone(), self.completions.clone());
        let assignment = task.args.clone();
        let span = worker.delivery_span(&assignment.delivery);
        let handler = self.inner.call(task).map_err(|error| failure_of(&error.into()));
        let traced = span.clone();
        let run = async move {
            worker
                .run_delivery(&assignment, handler, &completions, &traced)
                .await;
        };
        let task = tokio::spawn(run.instrument(span));
        Box::pin(async move {
            if let Err(ended) = task.await {
                error!("a job's task died: {}", describe_end(ended));
            }
            Ok(())
        })
    }
}

/// Converts an error of the lower layers: a missed deadline, or a panic.
fn failure_of(error: &BoxDynError) -> Failure {
    let panic = error.downcast_ref::<PanicError>();
    if let Some(PanicError(message)) = panic {
        error!("the handler panicked: {message}");
        return Failure::transient(format!("the handler panicked: {message}"));
    }
    if error.is::<tower::timeout::error::Elapsed>() {
        return Failure::transient("the job's deadline passed");
    }
    Failure::transient(error.to_string())
}
