//! Decodes a job's payload, runs its handler, and turns the handler's result into an outcome for the queue.

use std::{
    collections::HashMap,
    num::NonZeroU8,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jobs::{Failure, FailureClass, JobType, Jobs, MemoryBudget, apart, redaction::conceal};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Assignment, DeliveryHandler, DeliveryOutcome, outcome::OutcomeRules, supervisor::LoopBackoff};
use crate::{
    deduplication::{Deduplication, Joined, Part},
    gate::{Gates, ProviderGate},
    guard::{CallObserver, JobGuard},
    queue::{BrokerError, Delivery, EqualJobs, HistoryNote, WriteResult, apalis::TaskEnvelope, owner_of},
    retry::{BackoffDelay, RetryPolicy},
    spend_ledger::SpendLedger,
    spending::Payer,
};

/// The rule for jobs whose type this worker does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownTypes {
    /// It fails.
    Fail,
    /// It goes back, for another worker that serves the queue too.
    GiveBack,
}

/// How long a job of another worker's type stays away, the first time and at most.
const GIVE_BACK_DELAY: Duration = Duration::from_secs(2);
const LONGEST_GIVE_BACK: Duration = Duration::from_secs(60);

/// Runs deliveries with the handlers of the `jobs` crate.
pub struct Dispatcher {
    /// The handlers.
    pub jobs: Jobs,
    /// The gates before the providers; `None` with the breakers and limits switched off.
    pub gates: Option<Arc<Gates>>,
    /// Room for payloads that claims leave out.
    pub payloads: MemoryBudget,
    /// The ledger of paid calls; `None` when it is switched off.
    pub ledger: Option<Arc<SpendLedger>>,
    /// Finds jobs that ask for the same.
    pub deduplication: Deduplication,
    /// The payload's field that names the student.
    pub student_field: Arc<str>,
    /// How provider calls are retried.
    pub retry: RetryPolicy,
    /// Tries of the job types that differ from `retry`.
    pub tries_by_type: HashMap<JobType, NonZeroU8>,
    /// The rules that turn failures into outcomes.
    pub rules: OutcomeRules,
    /// The rule for unknown types.
    pub unknown_types: UnknownTypes,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl DeliveryHandler for Dispatcher {
    async fn handle(&self, assignment: &Assignment) -> DeliveryOutcome {
        let mut delivery = assignment.delivery.clone();
        if delivery.payload.is_none() {
            match self.load(assignment).await {
                Ok(payload) => delivery.payload = payload,
                Err(failure) => return self.rules.of(&failure, &delivery, 0),
            }
        }
        let (size, closed) = (delivery.payload.as_ref().map_or(0, Bytes::len), delivery.clone());
        let student_field = self.student_field.clone();
        let opening = move || {
            let (kind, payload) = opened(&closed)?;
            let student = Arc::from(owner_of(&payload, &student_field));
            Ok((kind, payload, student))
        };
        let (kind, payload, student) = match apart(size, opening).await {
            Ok(opened) => opened,
            Err(PayloadRefusal::Failure(failure)) => return self.rules.of(&failure, &delivery, 0),
            Err(PayloadRefusal::Unknown(failure)) if self.unknown_types == UnknownTypes::Fail => {
                return self.rules.of(&failure, &delivery, 0);
            }
            Err(PayloadRefusal::Unknown(failure)) => return give_back(&failure, &delivery),
        };
        let reporter = ProgressReporter {
            assignment,
            replica: &self.rules.replica,
            shown: Mutex::default(),
            followed_until: Mutex::default(),
        };
        assignment.claim_pauses.record_provider(kind.provider());
        assignment.stats.set_kind(kind);
        let equal = match self.join(assignment, &delivery, kind, &payload, &student).await {
            Ok(equal) => equal,
            Err(outcome) => return outcome,
        };
        let stops = assignment.stops.clone();
        let page = match &self.ledger {
            Some(ledger) => {
                let key = assignment.broker.ledger_key(&delivery.lease.id);
                Some(ledger.page(key, &delivery, Payer { student, kind }).await)
            }
            None => None,
        };
        let (policy, gates) = (self.policy_for(kind, &delivery), self.gates.as_deref());
        // A job that was already lost once must not wait in its slot: if this replica dies during the wait, the job
        // would count towards poison without having run.
        let guard = JobGuard::new(policy, gates, page, stops, &reporter)
            .waiting_in_slot(delivery.lost == 0)
            .of_suspect(assignment.suspect.clone());
        debug!(%kind, "running");
        // Nothing else holds a large one: the handler drops it as soon as it can, and its room with it.
        delivery.payload = None;
        match self.jobs.run(kind, payload, &guard).await {
            Ok(mut result) => {
                if let Some(equal) = equal.filter(|_| !kind.is_reusable(&result)) {
                    assignment.stats.is_one_of(equal, Part::Alone);
                }
                guard.cost().write_into(&mut result);
                DeliveryOutcome::Completed(conceal(&result.to_string()).into_owned())
            }
            Err(failure) => self.rules.of(&failure, &delivery, guard.tries()),
        }
    }
}

/// Memory for each byte of a payload: the byte itself, and the values parsed from it.
const PAYLOAD_FACTOR: u64 = 2;

impl Dispatcher {
    /// Reads a payload that the claim has left out, once there is room for it. Redis may be away for a while.
    async fn load(&self, assignment: &Assignment) -> Result<Option<Bytes>, Failure> {
        let Assignment {
            delivery,
            broker,
            stops,
            ..
        } = assignment;
        let id = &delivery.lease.id;
        let most = self.payloads.capacity();
        let load = async {
            let mut pause = LoopBackoff::new(Duration::from_millis(100), Duration::from_secs(2));
            loop {
                let loaded = async {
                    let size = broker.payload_size(id).await?;
                    if size > most {
                        return Ok(Err(too_large(size, most)));
                    }
                    let room = self.payloads.room(size.saturating_mul(PAYLOAD_FACTOR)).await;
                    Ok::<_, BrokerError>(Ok(broker.payload(id).await?.map(|payload| room.hold(payload))))
                };
                match loaded.await {
                    Ok(payload) => return payload,
                    Err(error) => warn!(%error, "the job's payload cannot be read yet"),
                }
                pause.wait().await;
            }
        };
        let cancelled = |why: &str| Err(Failure::new(FailureClass::Cancelled, why));
        tokio::select! {
            biased;
            () = stops.abort.cancelled() => cancelled("the replica has to let go of the job"),
            () = stops.drain.cancelled() => cancelled("the replica is stopping"),
            payload = load => payload,
        }
    }

    /// Looks for jobs that are equal to this one. `Err` is the job's outcome where it need not run; `Ok` its equals
    /// where it leads them.
    async fn join(
        &self,
        assignment: &Assignment,
        delivery: &Delivery,
        kind: JobType,
        payload: &Bytes,
        student: &str,
    ) -> Result<Option<EqualJobs>, DeliveryOutcome> {
        let (broker, course) = (&*assignment.broker, &assignment.stats);
        let equal = self
            .deduplication
            .equals_of(broker, delivery, kind, payload, student);
        let Some(equal) = equal.await else {
            return Ok(None);
        };
        match self.deduplication.join(broker, delivery, kind, &equal).await {
            Joined::Leads => {
                course.is_one_of(equal.clone(), Part::Leads);
                Ok(Some(equal))
            }
            Joined::Unknown => Ok(None),
            Joined::Reuses(result) => {
                course.is_one_of(equal, Part::Reuses);
                Err(DeliveryOutcome::Completed(
                    conceal(&result.to_string()).into_owned(),
                ))
            }
            Joined::Waits(delay) => {
                course.is_one_of(equal, Part::Waits);
                Err(DeliveryOutcome::Later {
                    delay,
                    counts: false,
                    reason: "an equal job runs, and this one gets its result".to_owned(),
                    waits_for: None,
                    adds_up: false,
                    note: None,
                })
            }
        }
    }

    /// The first attempt of a job gets all tries, each further one a single try: the layers add up, they do not
    /// multiply (three attempts of three tries would be nine paid calls).
    fn policy_for(&self, kind: JobType, delivery: &Delivery) -> RetryPolicy {
        match delivery.attempt {
            ..=1 => RetryPolicy {
                tries: self.tries_by_type.get(&kind).copied().unwrap_or(self.retry.tries),
                ..self.retry
            },
            _ => RetryPolicy {
                tries: NonZeroU8::MIN,
                ..self.retry
            },
        }
    }
}

/// Refuses a payload that would take more memory than all jobs together may.
fn too_large(size: u64, most: u64) -> Failure {
    Failure::permanent(format!(
        "payload has {size} bytes, and MEDIA_MEMORY has room for {most}: send files by their addresses, or raise MEDIA_MEMORY"
    ))
}

/// Gives the job back to the queue with a growing delay, because perhaps no other worker serves its type.
fn give_back(failure: &Failure, delivery: &Delivery) -> DeliveryOutcome {
    if delivery.waited.is_zero() {
        warn!("{failure}: given back for another worker");
    }
    let delay = delivery.waited.clamp(GIVE_BACK_DELAY, LONGEST_GIVE_BACK);
    DeliveryOutcome::Later {
        delay,
        counts: false,
        reason: failure.to_string(),
        waits_for: None,
        adds_up: false,
        note: None,
    }
}

pub(super) enum PayloadRefusal {
    /// Another worker may know what to do with it.
    Unknown(Failure),
    /// No worker can open it.
    Failure(Failure),
}

/// The job's type and data, which lies within its payload.
fn opened(delivery: &Delivery) -> Result<(JobType, Bytes), PayloadRefusal> {
    let (kind, data) = open(delivery)?;
    let whole = delivery.payload.as_ref();
    Ok((kind, whole.map_or_else(Bytes::new, |whole| whole.slice_ref(data))))
}

/// The job's type and data.
pub(super) fn open(delivery: &Delivery) -> Result<(JobType, &[u8]), PayloadRefusal> {
    let Some(payload) = &delivery.payload else {
        return Err(PayloadRefusal::Failure(Failure::permanent(
            "the queue holds no payload for this job",
        )));
    };
    let known = |kind: &str| {
        kind.parse::<JobType>()
            .map_err(|unknown| PayloadRefusal::Unknown(Failure::permanent(unknown.to_string())))
    };
    if let Some(kind) = &delivery.kind {
        return Ok((known(kind)?, payload));
    }
    let envelope: TaskEnvelope<'_> = serde_json::from_slice(payload).map_err(|error| {
        // Where, and not what: the parser's own words would repeat the payload.
        let place = format!("line {}, column {}", error.line(), error.column());
        let fault = Failure::permanent(format!("payload is no {{\"type\": …, \"data\": …}} ({place})"));
        if error.is_data() {
            PayloadRefusal::Unknown(fault)
        } else {
            PayloadRefusal::Failure(fault)
        }
    })?;
    Ok((known(&envelope.kind)?, envelope.data.get().as_bytes()))
}

/// Progress is written to Redis this often at most. A retry always writes, because it adds to the job's history.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Reports retries and progress to the job's queue.
struct ProgressReporter<'a> {
    assignment: &'a Assignment,
    replica: &'a str,
    shown: Mutex<ShownProgress>,
    /// A client follows the job, as far as it is known.
    followed_until: Mutex<Option<Instant>>,
}

/// How long a job that is followed is taken to be followed without another look.
const LOOK_FOR_FOLLOWERS_EVERY: Duration = Duration::from_secs(15);

/// The progress that the queue shows.
#[derive(Default)]
struct ShownProgress {
    percent: u8,
    written: Option<Instant>,
}

impl ShownProgress {
    /// The percentage to write for a report of `percent`: progress never falls.
    fn raise(&mut self, percent: u8) -> u8 {
        self.percent = self.percent.max(percent.min(95));
        self.written = Some(Instant::now());
        self.percent
    }

    /// The same for a report that is only worth a write when it shows more, and not too often.
    fn raise_if_due(&mut self, percent: u8) -> Option<u8> {
        let is_due = percent.min(95) > self.percent.max(10)
            && self
                .written
                .is_none_or(|written| written.elapsed() >= PROGRESS_EVERY);
        is_due.then(|| self.raise(percent))
    }
}

impl ProgressReporter<'_> {
    fn shown(&self) -> MutexGuard<'_, ShownProgress> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_followed(&self) -> bool {
        let known = || self.followed_until.lock().unwrap_or_else(PoisonError::into_inner);
        if known().is_some_and(|until| Instant::now() < until) {
            return true;
        }
        let Assignment { delivery, broker, .. } = self.assignment;
        let is_followed = broker.partial_results().is_followed(&delivery.lease.id).await;
        *known() = is_followed.then(|| Instant::now() + LOOK_FOR_FOLLOWERS_EVERY);
        is_followed
    }

    async fn write(&self, percent: u8, note: Option<&HistoryNote>) {
        let Assignment {
            delivery,
            broker,
            stops,
            ..
        } = self.assignment;
        match broker.progress(&delivery.lease, percent, note).await {
            Ok(WriteResult::Applied) => {}
            Ok(WriteResult::Lost) => {
                warn!("the job's lease is lost: it is stopped");
                stops.abort.cancel();
            }
            // The job goes on: progress is a courtesy, the result is not.
            Err(error) => warn!(%error, "progress is not reported"),
        }
    }
}

#[async_trait]
impl CallObserver for ProgressReporter<'_> {
    async fn retrying(&self, nth: u8, failure: &Failure, delay: BackoffDelay) {
        let Assignment { delivery, stats, .. } = self.assignment;
        stats.mark_retried();
        let note = HistoryNote {
            attempt: delivery.attempt,
            r#try: u32::from(nth),
            class: failure.class().as_str().to_owned(),
            cause: conceal(&failure.to_string()).into_owned(),
            delay_ms: Some(u64::try_from(delay.total().as_millis()).unwrap_or(u64::MAX)),
            replica: self.replica.to_owned(),
        };
        let percent = self.shown().raise(10u8.saturating_add(nth.saturating_mul(5)));
        self.write(percent, Some(&note)).await;
    }

    async fn progressed(&self, percent: u8) {
        let due = self.shown().raise_if_due(percent);
        if let Some(percent) = due {
            self.write(percent, None).await;
        }
    }

    async fn has_parts(&self, write: &(dyn Fn() -> String + Sync)) {
        let Assignment { delivery, broker, .. } = self.assignment;
        if self.is_followed().await {
            let parts = write();
            broker
                .partial_results()
                .show(&delivery.lease.id, &conceal(&parts))
                .await;
        }
    }

    fn asked(&self, gate: &Arc<ProviderGate>, refused: Option<Duration>) {
        self.assignment.stats.mark_started();
        // The owner of a job counts only where a limit makes jobs wait.
        if gate.limits_requests()
            && let Some(owner) = self.assignment.broker.owner(&self.assignment.delivery)
        {
            self.assignment.claim_pauses.record_owner(owner, gate);
        }
        if let Some(wait) = refused {
            self.assignment.claim_pauses.pause_for_limit(gate, wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_never_falls_and_is_written_once_a_second_at_most() {
        let mut shown = ShownProgress::default();
        assert_eq!(shown.raise(20), 20);
        assert_eq!(shown.raise(15), 20, "the first retry of a second call");
        assert_eq!(shown.raise_if_due(50), None, "too early");
        tokio::time::advance(PROGRESS_EVERY).await;
        assert_eq!(shown.raise_if_due(20), None);
        assert_eq!(shown.raise_if_due(255), Some(95));
        assert_eq!(
            ShownProgress::default().raise_if_due(10),
            None,
            "shown since the start"
        );
    }

    fn delivery(payload: Option<&str>) -> Delivery {
        Delivery::first_of(None, payload.map(|text| text.to_owned().into()))
    }

    #[test]
    fn a_type_beside_the_payload_leaves_the_payload_as_it_is() {
        let beside = |kind: &str| Delivery {
            kind: Some(kind.to_owned()),
            ..delivery(Some("{\"type\":1}"))
        };
        assert!(matches!(
            open(&beside("process-image")),
            Ok((JobType::ProcessImage, b"{\"type\":1}"))
        ));
        assert!(matches!(open(&beside("x")), Err(PayloadRefusal::Unknown(_))));
    }

    #[test]
    fn a_payload_is_opened_or_says_what_is_wrong_with_it() {
        let good = delivery(Some(r#"{"type":"process-image","data":{"imageUrl":"x"}}"#));
        assert!(matches!(
            open(&good),
            Ok((JobType::ProcessImage, br#"{"imageUrl":"x"}"#))
        ));
        for payload in [None, Some(""), Some("{"), Some("\u{1}")] {
            let Err(PayloadRefusal::Failure(failure)) = open(&delivery(payload)) else {
                panic!("{payload:?} opened")
            };
            assert_eq!(failure.class(), FailureClass::Permanent);
        }
        // Well-formed payloads of unknown types, perhaps for another worker. The message must not quote their content.
        for payload in [
            r#"{"type":"process-image"}"#,
            r#"{"type":7,"data":{}}"#,
            r#""hunter2""#,
            "[]",
        ] {
            let Err(PayloadRefusal::Unknown(failure)) = open(&delivery(Some(payload))) else {
                panic!("{payload:?} opened")
            };
            assert!(failure.to_string().contains("line 1, column"), "{failure}");
            assert!(!failure.to_string().contains("hunter2"));
        }
        let Err(PayloadRefusal::Unknown(failure)) = open(&delivery(Some(r#"{"type":"x","data":{}}"#))) else {
            panic!("an unknown type opened")
        };
        assert_eq!(failure.to_string(), "Unknown job type: x");
    }
}
