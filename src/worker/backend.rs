//! The apalis `Backend` over a broker: yields the jobs that the claim loop has claimed. It never fails, because an
//! error here would end the apalis worker and every job in flight with it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_core::backend::{BackendConfig, finalize::Ephemeral};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::warn;

use super::{
    Assignment, ack::AckLayer, assigner::AssignmentSender, runtime::QueueWorker, supervisor::supervise,
    worker_health::Disposition,
};

/// How long a closing worker tries to hand its lease back. After that it runs out by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The jobs of one queue, as apalis sees them.
pub struct QueueBackend {
    worker: Arc<QueueWorker>,
    claimed: Option<mpsc::UnboundedReceiver<Task<Assignment>>>,
    loops: Vec<JoinHandle<()>>,
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
    pub fn new(worker: Arc<QueueWorker>) -> Self {
        Self {
            worker,
            claimed: None,
            loops: Vec::new(),
            closing: None,
        }
    }

    fn start(&mut self) -> &mut mpsc::UnboundedReceiver<Task<Assignment>> {
        self.claimed.get_or_insert_with(|| {
            // Unbounded, yet bounded: nothing enters it without a slot.
            let (sender, receiver) = mpsc::unbounded_channel();
            *lock(&self.worker.claimed) = Some(sender);
            let (claims, renews) = (self.worker.clone(), self.worker.clone());
            self.loops.push(supervise("claim", move || {
                let worker = claims.clone();
                async move {
                    worker.clone().claim_loop().await;
                    worker.health.claims().end();
                }
            }));
            self.loops.push(supervise("renew", move || {
                let worker = renews.clone();
                async move {
                    worker.clone().renew_loop().await;
                    worker.health.renewals().end();
                }
            }));
            receiver
        })
    }

    /// Gives back what was claimed and not started, and leaves the queue.
    fn close(&mut self) -> BoxFuture<'static, ()> {
        let (worker, mut claimed) = (self.worker.clone(), self.claimed.take());
        let mut loops = std::mem::take(&mut self.loops).into_iter();
        async move {
            worker.shutdown.drain.cancel();
            if let Some(claims) = loops.next() {
                // At most one call to Redis away from its end.
                let _ = claims.await;
            }
            // As are claims beside completions.
            worker.claim_sequence.end().await;
            *lock(&worker.claimed) = None;
            let mut unstarted = Vec::new();
            while let Some(task) = claimed.as_mut().and_then(|tasks| tasks.try_recv().ok()) {
                unstarted.push(task.args.delivery.lease);
            }
            let leave = async {
                worker.broker.release(&unstarted).await?;
                worker.broker.remove_replica().await
            };
            match tokio::time::timeout(LEAVE_TIMEOUT, leave).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "could not leave the queue: the lease will run out"),
                Err(_elapsed) => warn!("could not leave the queue in time: the lease will run out"),
            }
            for lease in &unstarted {
                worker.health.record(Disposition::Released);
                worker.slots.vacate(lease);
            }
            worker.left.cancel();
            for rest in loops {
                let _ = rest.await;
            }
        }
        .boxed()
    }
}

fn lock(claimed: &Mutex<Option<AssignmentSender>>) -> MutexGuard<'_, Option<AssignmentSender>> {
    claimed.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.start().poll_recv(cx).map(|task| task.map(Ok))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        if self.closing.is_none() {
            self.closing = Some(self.close());
        }
        self.closing
            .as_mut()
            .map_or(Poll::Ready(()), |closing| closing.poll_unpin(cx))
            .map(Ok)
    }
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
