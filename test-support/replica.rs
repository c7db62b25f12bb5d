//! A replica in the test's process, with a handler that the test writes.

use std::{
    num::NonZeroU8,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use backend_worker::{
    queue::{Broker, WorkerQueue},
    retry::{Backoff, RetryPolicy},
    watchdog::WEDGED_AFTER,
    worker::{
        Assignment, DeliveryHandler, DeliveryOutcome, QueueWorker, Runtime, RuntimeOptions,
        outcome::{AccountWaits, OutcomeRules},
        worker_health::OutcomeTotals,
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::eventually;

/// What a test's handler has been called with.
#[derive(Debug, Default)]
pub struct Calls {
    started: Mutex<Vec<String>>,
    finished: AtomicUsize,
}

impl Calls {
    /// Ids of the jobs, in the order in which they were started.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.started.lock().unwrap().len()
    }

    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    pub async fn until_started(&self, count: usize) {
        eventually(&format!("{count} jobs started"), async || {
            (self.count() >= count).then_some(())
        })
        .await;
    }

    pub async fn until_finished(&self, count: usize) {
        eventually(&format!("{count} jobs finished"), async || {
            (self.finished() >= count).then_some(())
        })
        .await;
    }
}

type Act = dyn Fn(Assignment) -> futures_util::future::BoxFuture<'static, DeliveryOutcome> + Send + Sync;

/// A handler made of a closure.
pub struct Script {
    act: Box<Act>,
    pub calls: Arc<Calls>,
}

impl Script {
    pub fn new<F>(act: impl Fn(Assignment) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = DeliveryOutcome> + Send + 'static,
    {
        Arc::new(Self {
            act: Box::new(move |assignment| Box::pin(act(assignment))),
            calls: Arc::default(),
        })
    }

    /// Completes every job at once, with its payload as the result.
    pub fn echo() -> Arc<Self> {
        Self::new(async |assignment| done(&assignment))
    }

    /// Completes each job after the gate has been opened.
    pub fn behind(gate: CancellationToken) -> Arc<Self> {
        Self::new(move |assignment| {
            let gate = gate.clone();
            async move {
                gate.cancelled().await;
                done(&assignment)
            }
        })
    }
}

/// The job's payload as its result.
fn done(assignment: &Assignment) -> DeliveryOutcome {
    let payload = assignment.delivery.payload.clone().unwrap_or_default();
    DeliveryOutcome::Completed(String::from_utf8(payload.to_vec()).unwrap_or_else(|_| "null".to_owned()))
}

#[async_trait]
impl DeliveryHandler for Script {
    async fn handle(&self, assignment: &Assignment) -> DeliveryOutcome {
        self.calls
            .started
            .lock()
            .unwrap()
            .push(assignment.delivery.lease.id.to_string());
        let outcome = (self.act)(assignment.clone()).await;
        self.calls.finished.fetch_add(1, Ordering::SeqCst);
        outcome
    }
}

/// Short waits, so that tests are quick; everything else as in production.
pub fn options() -> RuntimeOptions {
    let backoff = Backoff::new(Duration::from_millis(20), 2.0, Duration::from_millis(100), 0.25).unwrap();
    let retry = RetryPolicy {
        tries: NonZeroU8::new(3).unwrap(),
        backoff,
    };
    RuntimeOptions {
        rules: OutcomeRules {
            retry,
            max_wait: Duration::from_secs(600),
            account_waits: AccountWaits::default(),
            spreads_retries: false,
            replica: "test".to_owned(),
        },
        spool: None,
        deadline: Duration::from_secs(300),
        drain: Duration::from_secs(30),
        renew_every: Duration::from_secs(5),
        idle_rest: Duration::ZERO,
        wedged_after: WEDGED_AFTER,
        other_loops: Vec::new(),
    }
}

/// A replica that runs in a task.
pub struct RunningReplica {
    pub workers: Vec<Arc<QueueWorker>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<OutcomeTotals>>,
}

impl RunningReplica {
    /// Tells it to stop, without waiting for it.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops it, and returns its closing counts.
    pub async fn stop(self) -> OutcomeTotals {
        self.stop.cancel();
        tokio::time::timeout(crate::PATIENCE, self.task)
            .await
            .expect("the replica stops")
            .unwrap()
            .unwrap()
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

/// Starts a replica over one queue.
pub fn replica(
    broker: Arc<dyn Broker>,
    concurrency: usize,
    handler: Arc<dyn DeliveryHandler>,
    options: &RuntimeOptions,
) -> RunningReplica {
    let runtime = Runtime::new([(broker as Arc<dyn WorkerQueue>, concurrency)], handler, options);
    let (stop, workers) = (CancellationToken::new(), runtime.workers().to_vec());
    let task = tokio::spawn(runtime.run(stop.clone().cancelled_owned(), std::future::pending()));
    RunningReplica { workers, stop, task }
}
