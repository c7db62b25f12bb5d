//! Decodes a job's payload, runs its handler, and turns the handler's result into an outcome for the queue.

mod progress;

use std::{collections::HashMap, num::NonZeroU8, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jobs::{FLEX, Failure, FailureClass, JobType, Jobs, MemoryBudget, apart, redaction::conceal};
use tracing::{debug, warn};

use self::progress::ProgressReporter;
use super::{Assignment, DeliveryHandler, DeliveryOutcome, outcome::OutcomeRules, service_tier::TierRules};
use crate::{
    deduplication::{Deduplication, Joined, Part},
    gate::Gates,
    guard::JobGuard,
    queue::{BrokerError, Delivery, EqualJobs, PayloadRefusal, owner_of},
    retry::{LoopBackoff, RetryPolicy},
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
    /// Which jobs use the cheaper tier of their provider.
    pub tiers: TierRules,
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
            let (kind, payload) = closed.opened()?;
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
        let reporter = ProgressReporter::new(assignment, &self.rules.replica);
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
            .of_suspect(assignment.suspect.clone())
            .asking(self.jobs.language_model());
        debug!(%kind, "running");
        // Nothing else holds a large one: the handler drops it as soon as it can, and its room with it.
        delivery.payload = None;
        let queue = assignment.broker.queue();
        let flex = self.tiers.terms(queue, &delivery, assignment.stops.deadline);
        let running = self.jobs.run(kind, payload, &guard);
        let ended = match flex {
            Some(terms) => FLEX.scope(terms, running).await,
            None => running.await,
        };
        match ended {
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

/// Gives the job back to the queue for a moment, so that a worker that serves its type can take it.
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
