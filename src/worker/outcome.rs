//! What a delivery comes to. The rules are the table "Outcomes" of the documentation.

use std::time::Duration;

use jobs::{Class, Failure};

use crate::{
    queue::{Delivery, Note},
    retry::{LONGEST_WAIT_IN_SLOT, RetryPolicy},
};

/// What a delivery comes to, and so what is written to the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done; the result as JSON.
    Completed(String),
    /// Put off.
    Later {
        /// From now.
        delay: Duration,
        /// Whether an attempt was used up.
        counts: bool,
        /// Why.
        reason: String,
        /// For the history.
        note: Option<Note>,
    },
    /// Dead letter.
    Failed {
        /// Why.
        reason: String,
        /// For the history.
        note: Option<Note>,
    },
    /// Given back as it was.
    Released,
}

/// The rules that turn a failure into an outcome.
#[derive(Debug, Clone)]
pub struct OutcomeRules {
    /// Waits between the queue's attempts.
    pub retry: RetryPolicy,
    /// How long a job may be made to wait by limits and breakers in all; zero fails it at once.
    pub max_wait: Duration,
    /// Names this replica in histories.
    pub replica: String,
}

impl OutcomeRules {
    /// What a failure after `tries` provider calls comes to.
    pub fn of(&self, failure: &Failure, delivery: &Delivery, tries: u8) -> Outcome {
        match failure.class() {
            Class::Cancelled => Outcome::Released,
            Class::Blocked => self.wait_for_gate(failure, delivery, tries),
            // The provider names a time: the job waits for it like for a gate, without losing an attempt.
            Class::RateLimited if failure.retry_after().is_some_and(|t| t > LONGEST_WAIT_IN_SLOT) => {
                self.wait_for_gate(failure, delivery, tries)
            }
            Class::Transient | Class::RateLimited if delivery.attempt < delivery.max_attempts => {
                let delay = self.delay(failure, delivery);
                let note = self.note(failure, delivery, tries, Some(delay));
                Outcome::Later {
                    delay,
                    counts: true,
                    reason: failure.to_string(),
                    note: Some(note),
                }
            }
            Class::Transient
            | Class::RateLimited
            | Class::OutOfQuota
            | Class::Deployment
            | Class::Permanent => Outcome::Failed {
                reason: failure.to_string(),
                note: Some(self.note(failure, delivery, tries, None)),
            },
        }
    }

    /// The wait before the queue's next attempt: the producer's where it names one, but never less than what the
    /// provider asks for.
    fn delay(&self, failure: &Failure, delivery: &Delivery) -> Duration {
        if let Some(backoff) = &delivery.backoff {
            let asked = failure.retry_after().unwrap_or_default();
            return backoff.delay(delivery.attempt, &mut rand::rng()).max(asked);
        }
        let nth = u8::try_from(delivery.attempt).unwrap_or(u8::MAX);
        let delay = self.retry.delay(nth, failure, &mut rand::rng()).total();
        delay.min(self.longest_delay())
    }

    fn wait_for_gate(&self, failure: &Failure, delivery: &Delivery, tries: u8) -> Outcome {
        let left = self.max_wait.saturating_sub(delivery.waited);
        if left.is_zero() {
            let reason = if self.max_wait.is_zero() {
                failure.to_string()
            } else {
                format!("waited {} s in all: {failure}", delivery.waited.as_secs())
            };
            return Outcome::Failed {
                reason,
                note: Some(self.note(failure, delivery, tries, None)),
            };
        }
        let delay = failure.retry_after().unwrap_or(LONGEST_WAIT_IN_SLOT).min(left);
        // What was never sent is no failed attempt, and leaves no line in the history.
        let note =
            (failure.class() != Class::Blocked).then(|| self.note(failure, delivery, tries, Some(delay)));
        Outcome::Later {
            delay,
            counts: false,
            reason: failure.to_string(),
            note,
        }
    }

    /// A provider that asks for a day does not get it: the job looks again after the longest wait that is allowed.
    fn longest_delay(&self) -> Duration {
        self.max_wait.max(Duration::from_secs(600))
    }

    fn note(&self, failure: &Failure, delivery: &Delivery, tries: u8, delay: Option<Duration>) -> Note {
        Note {
            attempt: delivery.attempt,
            r#try: u32::from(tries),
            class: failure.class().as_str().to_owned(),
            cause: failure.to_string(),
            delay_ms: delay.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            replica: self.replica.clone(),
        }
    }
}
