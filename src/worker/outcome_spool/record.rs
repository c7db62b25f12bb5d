//! An outcome as a file holds it, and how it is written to its queue.

use std::time::Duration;

use jobs::Provider;
use serde::{Deserialize, Serialize};

use crate::{
    deduplication::Part,
    queue::{
        Answered, BrokerError, Completion, CompletionResults, EqualJobs, HistoryNote, Lease, OutcomeWriter,
        Postponement, WriteResult,
    },
    time_format::millis,
    worker::DeliveryOutcome,
};

/// An outcome, and the claim that it belongs to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct SpooledOutcome {
    /// The layout of its queue, by name.
    pub layout: String,
    /// Its queue.
    pub queue: String,
    /// The key of the job's page in the ledger, which tells queues of one name under different prefixes apart.
    pub ledger_key: String,
    /// The replica that claimed the job.
    pub worker: String,
    /// The job's id.
    pub id: String,
    /// The claim's token.
    pub token: String,
    /// The outcome of the job.
    pub outcome: KeptOutcome,
}

/// The outcomes that are worth a file. A job that only goes back to its queue is recovered without one.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptOutcome {
    /// Done.
    Completed {
        /// JSON.
        result: String,
        /// The jobs that are equal to it.
        equal: Option<KeptEqual>,
    },
    /// Dead letter.
    Failed {
        /// Why.
        reason: String,
        /// For the history.
        note: Option<HistoryNote>,
    },
    /// Put off.
    Later {
        /// From when the outcome is written.
        delay_ms: u64,
        /// True if an attempt was used up.
        counts: bool,
        /// Why.
        reason: String,
        /// The gate that it waits for.
        gate: Option<String>,
        /// True if the wait counts towards the longest that a job may wait.
        adds_up: bool,
        /// For the history.
        note: Option<HistoryNote>,
    },
}

/// Shows the kind alone, because results and reasons hold a student's text.
impl std::fmt::Debug for KeptOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Completed { .. } => "Completed",
            Self::Failed { .. } => "Failed",
            Self::Later { .. } => "Later",
        })
    }
}

/// The part of a completion that concerns equal jobs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptEqual {
    result_key: String,
    prefix: String,
    keep_ms: u64,
    answered: String,
}

impl KeptEqual {
    fn of((equal, answered): &(EqualJobs, Answered)) -> Self {
        Self {
            result_key: equal.result_key.to_string(),
            prefix: equal.prefix.to_string(),
            keep_ms: millis(equal.keep_for),
            answered: answered.as_str().to_owned(),
        }
    }

    /// `None` for a word that this version does not know: the job is completed without its equals.
    fn told(&self) -> Option<(EqualJobs, Answered)> {
        let answered = Answered::named(&self.answered)?;
        let equal = EqualJobs {
            result_key: self.result_key.as_str().into(),
            prefix: self.prefix.as_str().into(),
            keep_for: Duration::from_millis(self.keep_ms),
        };
        Some((equal, answered))
    }
}

impl SpooledOutcome {
    /// The record of an outcome; `None` where a file would save nothing.
    pub(crate) fn of(
        broker: &(impl OutcomeWriter + ?Sized),
        lease: &Lease,
        outcome: &DeliveryOutcome,
        equal: Option<&(EqualJobs, Part)>,
    ) -> Option<Self> {
        let outcome = match outcome {
            DeliveryOutcome::Completed(result) => KeptOutcome::Completed {
                result: result.clone(),
                equal: Part::answered(equal).as_ref().map(KeptEqual::of),
            },
            DeliveryOutcome::Failed { reason, note } => KeptOutcome::Failed {
                reason: reason.clone(),
                note: note.clone(),
            },
            DeliveryOutcome::Later { .. } if matches!(equal, Some((_, Part::Waits))) => return None,
            DeliveryOutcome::Later {
                delay,
                counts,
                reason,
                waits_for,
                adds_up,
                note,
            } => KeptOutcome::Later {
                delay_ms: millis(*delay),
                counts: *counts,
                reason: reason.clone(),
                gate: waits_for.map(|provider| Provider::as_str(provider).to_owned()),
                adds_up: *adds_up,
                note: note.clone(),
            },
            DeliveryOutcome::Limited { .. } | DeliveryOutcome::Released => return None,
        };
        Some(Self {
            layout: broker.layout().to_string(),
            queue: broker.queue().to_owned(),
            ledger_key: broker.ledger_key(&lease.id),
            worker: broker.proof_of(lease).worker,
            id: lease.id.to_string(),
            token: lease.token.to_string(),
            outcome,
        })
    }

    /// Writes the outcome to its queue, fenced by the claim's token.
    pub(super) async fn write_to(
        &self,
        broker: &(impl OutcomeWriter + ?Sized),
    ) -> Result<WriteResult, BrokerError> {
        let lease = Lease {
            id: self.id.as_str().into(),
            token: self.token.as_str().into(),
        };
        match &self.outcome {
            KeptOutcome::Completed { result, equal } => {
                let completion = Completion {
                    lease,
                    result: result.clone(),
                    equal: equal.as_ref().and_then(KeptEqual::told),
                };
                let CompletionResults { mut settled, .. } = broker.complete_all(&[completion], None).await;
                settled.pop().unwrap_or(Ok(WriteResult::Lost)) // There is one for each.
            }
            KeptOutcome::Failed { reason, note } => broker.fail(&lease, reason, note.as_ref()).await,
            KeptOutcome::Later {
                delay_ms,
                counts,
                reason,
                gate,
                adds_up,
                note,
            } => {
                let later = Postponement {
                    delay: Duration::from_millis(*delay_ms),
                    counts: *counts,
                    reason,
                    gate: gate.as_deref(),
                    note: note.as_ref(),
                };
                match adds_up {
                    true => broker.retry_at(&lease, later).await,
                    false => broker.put_off(&lease, later).await,
                }
            }
        }
    }
}
