//! The ack layer: runs each job in a task of its own, then writes its outcome and retries until Redis answers.
//!
//! The task is spawned, so a job and its ack continue even if the apalis worker that called it ends. The service never
//! returns an error: apalis would end the worker at an error, and with it every job in flight.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis::layers::catch_panic::PanicError;
use apalis::prelude::{BoxDynError, Task};
use futures_util::future::{BoxFuture, OptionFuture};
use jobs::{Failure, Provider};
use tower::{Layer, Service};
use tracing::{Instrument, debug, error, info, warn};

use super::{
    Assignment, DeliveryOutcome, completer::Completer, runtime::QueueWorker, supervisor::LoopBackoff,
    suspects::Suspect, worker_health::Disposition,
};
use crate::{
    deduplication::Part,
    queue::{Answered, BrokerError, EqualJobs, Lease, Postponement, WriteResult},
    telemetry::{
        panics::describe_end,
        trace::{self, SpanEnd},
    },
};

/// Refusals by Redis after which an outcome is given up: the recovery will hand the job out again.
const MAX_REFUSALS: u32 = 5;

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
        let Assignment {
            delivery,
            stops,
            stats: course,
            suspect,
            ..
        } = task.args.clone();
        let (worker, completions) = (self.worker.clone(), self.completions.clone());
        let span = tracing::info_span!(parent: &worker.span, "job", id = %delivery.lease.id,
            attempt = delivery.attempt, max_attempts = delivery.max_attempts);
        trace::continue_from(&span, delivery.trace.as_ref());
        trace::note(&span, "messaging.system", worker.broker.layout().as_str());
        trace::note(&span, "messaging.destination.name", worker.broker.queue());
        let (running, traced) = (self.inner.call(task), span.clone());
        let job = async move {
            let end = SpanEnd::of(&traced);
            let _vacate = SlotRelease(&worker, &delivery.lease);
            // Of suspects that run together none is blamed for a death.
            let takes_blame = suspect.as_ref().is_some_and(Suspect::runs_alone);
            let may_run = !takes_blame || worker.begin(&delivery.lease).await;
            let is_too_slow = OptionFuture::from(suspect.as_ref().map(Suspect::is_too_slow));
            let outcome = tokio::select! {
                biased;
                () = std::future::ready(()), if !may_run => None,
                outcome = running => Some(outcome.map_err(Into::into).unwrap_or_else(|error| {
                    worker.rules.of(&failure_of(&error), &delivery, 0)
                })),
                () = stops.abort.cancelled() => None,
                Some(()) = is_too_slow => {
                    info!("other jobs wait for this one: it goes back to the queue");
                    Some(DeliveryOutcome::Released)
                }
            };
            // A job stops at once at the end of the drain time, or when this replica has lost it. The handler may have
            // noticed by itself.
            let outcome = match outcome {
                None | Some(DeliveryOutcome::Released) if stops.abort.is_cancelled() => worker
                    .shutdown
                    .abort
                    .is_cancelled()
                    .then_some(DeliveryOutcome::Released),
                outcome => outcome,
            };
            course.mark_started();
            let outcome = outcome.map(|outcome| worker.hold(outcome.with_student_sentence(course.kind())));
            let equal = course.equal();
            let ending = worker
                .settle(&completions, &delivery.lease, outcome.as_ref(), equal.as_ref())
                .await;
            worker.health.record(ending);
            course.count(worker.health.cells(), ending, outcome.as_ref());
            trace::note(&traced, "backend_worker.outcome", ending.as_str());
            end.set(ending == Disposition::Failed);
        };
        let task = tokio::spawn(job.instrument(span));
        Box::pin(async move {
            if let Err(ended) = task.await {
                error!("a job's task died: {}", describe_end(ended));
            }
            Ok(())
        })
    }
}

/// Frees a job's slot when its task ends, however it ends.
struct SlotRelease<'a>(&'a QueueWorker, &'a Lease);

impl Drop for SlotRelease<'_> {
    fn drop(&mut self) {
        self.0.slots.vacate(self.1);
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

impl QueueWorker {
    /// Holds the queue as an outcome says, and decides how a job waits that a limit has refused.
    fn hold(&self, outcome: DeliveryOutcome) -> DeliveryOutcome {
        match outcome {
            DeliveryOutcome::Later {
                delay,
                waits_for: Some(provider),
                ..
            } => self.claim_pauses.pause(provider, delay),
            DeliveryOutcome::Limited {
                provider,
                wait,
                ref reason,
            } if self.claim_pauses.park(provider, wait, self.slots.capacity()) => {
                return DeliveryOutcome::Later {
                    delay: wait,
                    counts: false,
                    reason: reason.clone(),
                    waits_for: Some(provider),
                    adds_up: false,
                    note: None,
                };
            }
            _ => {}
        }
        outcome
    }

    /// Notes that a job runs which was lost before, and may have killed its replica. Says whether it is still ours to
    /// run.
    async fn begin(&self, lease: &Lease) -> bool {
        match self.broker.mark_started(lease).await {
            Ok(settled) => settled == WriteResult::Applied,
            // Should it be lost once more, its next delivery tries to note it again.
            Err(error) => {
                warn!(%error, "it is not noted that the job runs");
                true
            }
        }
    }

    /// Writes an outcome, and says how the delivery ended; `None` says that the job is not ours.
    async fn settle(
        &self,
        completions: &Completer,
        lease: &Lease,
        outcome: Option<&DeliveryOutcome>,
        equal: Option<&(EqualJobs, Part)>,
    ) -> Disposition {
        let Some(outcome) = outcome else {
            warn!("the job was lost to another replica: its outcome is dropped");
            return Disposition::Lost;
        };
        let mut pause = LoopBackoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut refusals = 0;
        loop {
            match self.write(completions, lease, outcome, equal).await {
                Ok(WriteResult::Applied) => {
                    self.hand_over(outcome, equal).await;
                    return report(outcome);
                }
                Ok(WriteResult::Lost) => {
                    warn!("the job was lost to another replica: its outcome is dropped");
                    return Disposition::Lost;
                }
                Err(error) => {
                    refusals += u32::from(error.is_refusal());
                    if refusals >= MAX_REFUSALS || (self.shutdown.abort.is_cancelled() && pause.is_longest())
                    {
                        error!(%error, "the outcome cannot be written: the job will be recovered and run again");
                        return Disposition::Lost;
                    }
                    warn!(%error, "the outcome is not written yet");
                    pause.wait().await;
                }
            }
        }
    }

    /// After a leader has failed, the next of its equals runs.
    async fn hand_over(&self, outcome: &DeliveryOutcome, equal: Option<&(EqualJobs, Part)>) {
        if let (DeliveryOutcome::Failed { .. }, Some((equal, Part::Leads))) = (outcome, equal)
            && let Err(error) = self.broker.wake_equal(equal).await
        {
            warn!(%error, "jobs that wait for this one are not woken: they come by themselves within half a minute");
        }
    }

    async fn write(
        &self,
        completions: &Completer,
        lease: &Lease,
        outcome: &DeliveryOutcome,
        equal: Option<&(EqualJobs, Part)>,
    ) -> Result<WriteResult, BrokerError> {
        match outcome {
            DeliveryOutcome::Completed(result) => {
                let equal = equal.and_then(|(equal, part)| {
                    let answered = match part {
                        Part::Leads => Answered::New,
                        Part::Alone => Answered::Unusable,
                        Part::Reuses => Answered::Reused,
                        Part::Waits => return None,
                    };
                    Some((equal.clone(), answered))
                });
                completions.write(lease, result, equal).await
            }
            DeliveryOutcome::Later { delay, reason, .. } if let Some((equal, Part::Waits)) = equal => {
                self.broker.await_equal(lease, *delay, reason, equal).await
            }
            DeliveryOutcome::Later {
                delay,
                counts,
                reason,
                waits_for,
                adds_up,
                note,
            } => {
                let later = Postponement {
                    delay: *delay,
                    counts: *counts,
                    reason,
                    gate: waits_for.map(Provider::as_str),
                    note: note.as_ref(),
                };
                match adds_up {
                    true => self.broker.retry_at(lease, later).await,
                    false => self.broker.put_off(lease, later).await,
                }
            }
            DeliveryOutcome::Failed { reason, note } => self.broker.fail(lease, reason, note.as_ref()).await,
            DeliveryOutcome::Limited { .. } | DeliveryOutcome::Released => self.releases.write(lease).await,
        }
    }
}

/// Says what was written.
fn report(outcome: &DeliveryOutcome) -> Disposition {
    match outcome {
        DeliveryOutcome::Completed(_) => {
            debug!("completed");
            Disposition::Succeeded
        }
        DeliveryOutcome::Later {
            delay,
            counts,
            reason,
            ..
        } => {
            let delay_ms = delay.as_millis();
            info!(delay_ms, counts, "the job comes again in {delay_ms}ms: {reason}");
            Disposition::PutOff
        }
        DeliveryOutcome::Failed { reason, .. } => {
            error!("the job failed: {reason}");
            Disposition::Failed
        }
        DeliveryOutcome::Limited { reason, .. } => {
            debug!("the job is back in its place in the line: {reason}");
            Disposition::Released
        }
        DeliveryOutcome::Released => {
            info!("given back to the queue");
            Disposition::Released
        }
    }
}
