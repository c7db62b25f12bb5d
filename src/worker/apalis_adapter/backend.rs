//! The apalis `Backend` over a queue's worker: yields the jobs that the claim loop has claimed. It never fails, because
//! an error here would end the apalis worker and every job in flight with it.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use apalis::prelude::{Backend, Task, TaskBuilder, TaskId, WorkerContext};
use apalis_core::backend::{BackendConfig, finalize::Ephemeral};
use futures_util::{FutureExt, future::BoxFuture};

use super::ack_layer::AckLayer;
use crate::worker::{Assignment, QueueWorker, queue_loops::QueueLoops};

/// The jobs of one queue, as apalis sees them.
pub struct QueueBackend {
    worker: Arc<QueueWorker>,
    /// Started when apalis first asks for work.
    loops: Option<QueueLoops>,
    closing: Option<BoxFuture<'static, ()>>,
}

impl std::fmt::Debug for QueueBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueBackend")
            .field("queue", &self.worker.broker.queue())
            .finish_non_exhaustive()
    }
}

impl QueueBackend {
    /// A backend that starts its loops when apalis first asks it for work.
    pub const fn new(worker: Arc<QueueWorker>) -> Self {
        Self {
            worker,
            loops: None,
            closing: None,
        }
    }

    fn start(&mut self) -> &mut QueueLoops {
        self.loops.get_or_insert_with(|| QueueLoops::start(&self.worker))
    }
}

impl Backend for QueueBackend {
    type Task = Task<Assignment>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.start();
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Assignment>, Infallible>>> {
        self.start()
            .poll_claimed(cx)
            .map(|claimed| claimed.map(|assignment| Ok(task_of(assignment))))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        let closing = self.closing.get_or_insert_with(|| {
            let (worker, loops) = (self.worker.clone(), self.loops.take());
            async move { worker.close(loops).await }.boxed()
        });
        closing.poll_unpin(cx).map(Ok)
    }
}

/// A claimed job as apalis passes it to its layers.
fn task_of(assignment: Assignment) -> Task<Assignment> {
    let delivery = &assignment.delivery;
    let (id, attempt) = (delivery.lease.id.to_string(), delivery.attempt);
    let max_attempts = delivery.max_attempts;
    TaskBuilder::new(assignment)
        // As a string, whatever it looks like: read as a number, `007` would come back as `7`.
        .task_id(TaskId::from_string(id))
        .attempt(usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1))
        .max_attempts(usize::try_from(max_attempts).unwrap_or(usize::MAX))
        .build()
}

impl BackendConfig for QueueBackend {
    type Args = Assignment;
    type Id = String;
    type Kind = Ephemeral;
    type Config = QueueWorker;
    type Layer = AckLayer;

    fn config(&self) -> &QueueWorker {
        &self.worker
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> AckLayer {
        AckLayer::new(self.worker.clone())
    }
}
