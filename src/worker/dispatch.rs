//! From a raw payload to its handler, and from the handler's verdict to an outcome.

use std::{num::NonZeroU8, time::Duration};

use async_trait::async_trait;
use jobs::{Failure, JobType, Jobs};
use tracing::{debug, warn};

use super::{Assignment, Handle, Outcome, outcome::OutcomeRules};
use crate::{
    guard::{JobGuard, Reporter},
    queue::{Delivery, Note, Settled, apalis::Envelope},
    retry::{Delay, RetryPolicy},
};

/// What becomes of a job whose type this worker does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownTypes {
    /// It fails.
    Fail,
    /// It goes back, for another worker that serves the queue too.
    GiveBack,
}

/// How long a job of another worker's type stays away.
const GIVE_BACK_DELAY: Duration = Duration::from_secs(2);

/// Runs deliveries with the handlers of the `jobs` crate.
pub struct Dispatcher {
    /// The handlers.
    pub jobs: Jobs,
    /// How provider calls are retried.
    pub retry: RetryPolicy,
    /// What failures come to.
    pub rules: OutcomeRules,
    /// What becomes of unknown types.
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
impl Handle for Dispatcher {
    async fn handle(&self, assignment: &Assignment) -> Outcome {
        let delivery = &assignment.delivery;
        let (kind, data) = match open(delivery) {
            Ok(opened) => opened,
            Err(Unopened::Failure(failure)) => return self.rules.of(&failure, delivery, 0),
            Err(Unopened::Unknown(failure)) if self.unknown_types == UnknownTypes::Fail => {
                return self.rules.of(&failure, delivery, 0);
            }
            Err(Unopened::Unknown(failure)) => {
                warn!("{failure}: given back for another worker");
                let reason = failure.to_string();
                return Outcome::Later {
                    delay: GIVE_BACK_DELAY,
                    counts: false,
                    reason,
                    note: None,
                };
            }
        };
        let reporter = ProgressReporter {
            assignment,
            replica: &self.rules.replica,
        };
        let guard = JobGuard::new(self.policy_for(delivery), assignment.stops.clone(), &reporter);
        debug!(%kind, "running");
        match self.jobs.run(kind, data, &guard).await {
            Ok(result) => Outcome::Completed(result.to_string()),
            Err(failure) => self.rules.of(&failure, delivery, guard.tries()),
        }
    }
}

impl Dispatcher {
    /// The first attempt of a job gets all tries, each further one a single try: the layers add up, they do not
    /// multiply (three attempts of three tries would be nine paid calls).
    fn policy_for(&self, delivery: &Delivery) -> RetryPolicy {
        match delivery.attempt {
            ..=1 => self.retry,
            _ => RetryPolicy {
                tries: NonZeroU8::MIN,
                ..self.retry
            },
        }
    }
}

enum Unopened {
    Unknown(Failure),
    Failure(Failure),
}

/// The job's type and data.
fn open(delivery: &Delivery) -> Result<(JobType, &[u8]), Unopened> {
    let Some(payload) = &delivery.payload else {
        return Err(Unopened::Failure(Failure::permanent(
            "the queue holds no payload for this job",
        )));
    };
    let known = |kind: &str| {
        kind.parse::<JobType>()
            .map_err(|unknown| Unopened::Unknown(Failure::permanent(unknown.to_string())))
    };
    if let Some(kind) = &delivery.kind {
        return Ok((known(kind)?, payload));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(payload).map_err(|error| {
        Unopened::Failure(Failure::permanent("payload is no {\"type\": …, \"data\": …}").caused_by(error))
    })?;
    Ok((known(&envelope.kind)?, envelope.data.get().as_bytes()))
}

/// Reports retries to the job's queue.
struct ProgressReporter<'a> {
    assignment: &'a Assignment,
    replica: &'a str,
}

#[async_trait]
impl Reporter for ProgressReporter<'_> {
    async fn retrying(&self, nth: u8, failure: &Failure, delay: Delay) {
        let Assignment {
            delivery,
            broker,
            stops,
        } = self.assignment;
        let note = Note {
            attempt: delivery.attempt,
            r#try: u32::from(nth),
            class: failure.class().as_str().to_owned(),
            cause: failure.to_string(),
            delay_ms: Some(u64::try_from(delay.total().as_millis()).unwrap_or(u64::MAX)),
            replica: self.replica.to_owned(),
        };
        let percent = 10u8.saturating_add(nth.saturating_mul(5)).min(95);
        match broker.progress(&delivery.lease, percent, Some(&note)).await {
            Ok(Settled::Applied) => {}
            Ok(Settled::Lost) => {
                warn!("the job's lease is lost: it is stopped");
                stops.now.cancel();
            }
            // The job goes on: progress is a courtesy, the result is not.
            Err(error) => warn!(%error, "progress is not reported"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobs::Class;

    use crate::queue::Lease;

    fn delivery(payload: Option<&str>) -> Delivery {
        Delivery {
            lease: Lease {
                id: "1".into(),
                token: "t".into(),
            },
            kind: None,
            payload: payload.map(|p| p.to_owned().into()),
            attempt: 1,
            max_attempts: 3,
            backoff: None,
            waited: Duration::ZERO,
        }
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
        assert!(matches!(open(&beside("x")), Err(Unopened::Unknown(_))));
    }

    #[test]
    fn a_payload_is_opened_or_says_what_is_wrong_with_it() {
        let good = delivery(Some(r#"{"type":"process-image","data":{"imageUrl":"x"}}"#));
        assert!(matches!(
            open(&good),
            Ok((JobType::ProcessImage, br#"{"imageUrl":"x"}"#))
        ));
        for (payload, part) in [
            (None, "no payload"),
            (Some(""), "EOF"),
            (Some("{"), "EOF"),
            (Some(r#"{"type":"process-image"}"#), "missing field `data`"),
            (Some(r#"{"type":7,"data":{}}"#), "invalid type"),
            (Some("\u{1}"), "line 1"),
        ] {
            let Err(Unopened::Failure(failure)) = open(&delivery(payload)) else {
                panic!("{payload:?} opened")
            };
            assert_eq!(failure.class(), Class::Permanent);
            assert!(failure.to_string().contains(part), "{failure}");
        }
        let Err(Unopened::Unknown(failure)) = open(&delivery(Some(r#"{"type":"x","data":{}}"#))) else {
            panic!("an unknown type opened")
        };
        assert_eq!(failure.to_string(), "Unknown job type: x");
    }
}
