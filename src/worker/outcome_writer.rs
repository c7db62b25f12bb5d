//! Writes the outcome of a delivery to its queue, again and again until Redis answers.

use std::time::Duration;

use jobs::Provider;
use tracing::{debug, error, info, warn};

use super::{
    DeliveryOutcome, QueueWorker,
    completer::Completer,
    outcome_spool::{SpooledFile, record::SpooledOutcome},
};
use crate::{
    deduplication::Part,
    queue::{BrokerError, EqualJobs, Lease, Postponement, WriteResult},
    retry::LoopBackoff,
    telemetry::metrics::labels::JobOutcome,
};

/// Refusals by Redis after which an outcome is given up: the recovery will hand the job out again.
const MAX_REFUSALS: u32 = 5;

/// Shortest pause before a try that follows the success of another outcome: a large one is sent each time.
const SUCCESS_PAUSE: Duration = Duration::from_millis(200);

/// The copy of an outcome in the spool.
enum SpooledCopy {
    NotTried,
    Kept(SpooledFile),
    /// There is no spool, the outcome is not worth a file, or the file could not be written.
    None,
}

impl QueueWorker {
    /// Pauses the queue's claims as an outcome says, and decides how a job waits that a limit has refused.
    pub(super) fn hold(&self, outcome: DeliveryOutcome) -> DeliveryOutcome {
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

    /// Marks a job that was lost before as started, because it may have killed its replica. Returns false if it is
    /// another replica's by now.
    pub(super) async fn mark_started(&self, lease: &Lease) -> bool {
        match self.broker.mark_started(lease).await {
            Ok(settled) => settled == WriteResult::Applied,
            // If it is lost once more, its next delivery tries to mark it again.
            Err(error) => {
                warn!(%error, "the job is not marked as started: it runs, and a further loss may not count towards poison");
                true
            }
        }
    }

    /// Writes an outcome, and returns how the delivery ended. An outcome of `None` means that another replica has the job.
    pub(super) async fn write_outcome(
        &self,
        completions: &Completer,
        lease: &Lease,
        outcome: Option<&DeliveryOutcome>,
        equal: Option<&(EqualJobs, Part)>,
    ) -> JobOutcome {
        let Some(outcome) = outcome else {
            warn!("the job was lost to another replica: its outcome is dropped");
            return JobOutcome::Lost;
        };
        let mut pause = LoopBackoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut refusals = 0;
        let mut spooled = SpooledCopy::NotTried;
        let ended = loop {
            match self.try_write(completions, lease, outcome, equal).await {
                Ok(WriteResult::Applied) => {
                    self.outcome_taken.notify_waiters();
                    self.hand_over(outcome, equal).await;
                    log_written(outcome);
                    break outcome.job_outcome();
                }
                Ok(WriteResult::Lost) => {
                    warn!("the job was lost to another replica: its outcome is dropped");
                    break JobOutcome::Lost;
                }
                Err(error) => {
                    refusals += u32::from(error.is_refusal());
                    warn!(%error, "the outcome is not written yet");
                    if self.shutdown.drain.is_cancelled() && matches!(spooled, SpooledCopy::NotTried) {
                        spooled = self.spool(lease, outcome, equal).await;
                    }
                    // An outcome with a file is safe: Redis may take it until the process ends.
                    let is_last_try = self.shutdown.abort.is_cancelled()
                        && pause.is_longest()
                        && !matches!(spooled, SpooledCopy::Kept(_));
                    if refusals >= MAX_REFUSALS || is_last_try {
                        error!(%error, "the outcome cannot be written: the job will be recovered and run again");
                        break JobOutcome::Lost;
                    }
                    // An outcome that Redis refuses for its content gains nothing from the success of another one.
                    let may_be_taken = !error.is_refusal();
                    tokio::select! {
                        () = pause.wait() => {}
                        () = self.another_is_taken(), if may_be_taken => {}
                        () = self.shutdown.drain.cancelled(), if matches!(spooled, SpooledCopy::NotTried) => {}
                    }
                }
            }
        };
        if let SpooledCopy::Kept(file) = spooled {
            file.remove().await;
        }
        ended
    }

    /// Resolves when Redis takes the outcome of another job. After an outage of seconds all pauses are long, and a replica that
    /// dies in one has paid for nothing.
    async fn another_is_taken(&self) {
        let taken = self.outcome_taken.notified();
        tokio::join!(taken, tokio::time::sleep(SUCCESS_PAUSE));
    }

    /// Writes a copy of an outcome to the spool, for the case that the process ends before Redis takes it.
    async fn spool(
        &self,
        lease: &Lease,
        outcome: &DeliveryOutcome,
        equal: Option<&(EqualJobs, Part)>,
    ) -> SpooledCopy {
        let Some(spool) = &self.spool else {
            return SpooledCopy::None;
        };
        let Some(record) = SpooledOutcome::of(&*self.broker, lease, outcome, equal) else {
            return SpooledCopy::None;
        };
        match spool.keep(record).await {
            Ok(file) => {
                info!(
                    file = %file.path().display(),
                    "the outcome is in SPOOL_DIR: the next start writes it, unless Redis takes it before"
                );
                SpooledCopy::Kept(file)
            }
            Err(error) => {
                error!(%error, "the outcome is not in SPOOL_DIR: the job runs again unless Redis takes it before this replica ends");
                SpooledCopy::None
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

    async fn try_write(
        &self,
        completions: &Completer,
        lease: &Lease,
        outcome: &DeliveryOutcome,
        equal: Option<&(EqualJobs, Part)>,
    ) -> Result<WriteResult, BrokerError> {
        match outcome {
            DeliveryOutcome::Completed(result) => {
                completions.write(lease, result, Part::answered(equal)).await
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

/// Logs an outcome that Redis has taken.
fn log_written(outcome: &DeliveryOutcome) {
    match outcome {
        DeliveryOutcome::Completed(_) => {
            debug!("completed");
        }
        DeliveryOutcome::Later {
            delay,
            counts,
            reason,
            ..
        } => {
            let delay_ms = delay.as_millis();
            info!(delay_ms, counts, "the job comes again in {delay_ms}ms: {reason}");
        }
        DeliveryOutcome::Failed { reason, .. } => {
            error!("the job failed: {reason}");
        }
        DeliveryOutcome::Limited { reason, .. } => {
            debug!("the job is back in its place in the line: {reason}");
        }
        DeliveryOutcome::Released => {
            info!("given back to the queue");
        }
    }
}
