//! Chooses the outcome of a delivery from a handler's result: completed, put off, a dead letter, or given back.

use std::time::Duration;

use jobs::{Culprit, Failure, FailureClass, JobType, Provider, failed_reason, redaction::conceal};

use crate::{
    gate::GatesSettings,
    queue::{Delivery, HistoryNote, QueueBackoff},
    retry::{LONGEST_WAIT_IN_SLOT, RetryPolicy},
    telemetry::metrics::labels::JobOutcome,
};

/// Upper bound of the delay before a job's next attempt, also where a provider asks for a longer wait.
const LONGEST_DELAY: Duration = Duration::from_hours(24);
/// Longest stored text of a failure, characters. The text goes into Redis and the log, and may quote foreign input.
const LONGEST_REASON: usize = 1000;

/// Longest wait after a fault of the account that names no time.
const ACCOUNT_WAIT: Duration = Duration::from_secs(60);

/// The outcome of a delivery, as the worker writes it to the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum DeliveryOutcome {
    /// Done; the result as JSON.
    Completed(String),
    /// Put off.
    Later {
        /// From now.
        delay: Duration,
        /// True if an attempt was used up.
        counts: bool,
        /// Why.
        reason: String,
        /// The provider whose gate delayed the job.
        waits_for: Option<Provider>,
        /// True if the wait counts towards the longest that a job may wait for a breaker or for credit.
        adds_up: bool,
        /// For the history.
        note: Option<HistoryNote>,
    },
    /// Dead letter.
    Failed {
        /// Why.
        reason: String,
        /// For the history.
        note: Option<HistoryNote>,
    },
    /// Refused by a limit before anything was sent: back to its place in the line.
    Limited {
        /// The provider with the exhausted limit.
        provider: Provider,
        /// When the limit may let it pass, from now.
        wait: Duration,
        /// Why.
        reason: String,
    },
    /// Given back as it was.
    Released,
}

impl DeliveryOutcome {
    /// Its name in metrics and traces.
    pub const fn job_outcome(&self) -> JobOutcome {
        match self {
            Self::Completed(_) => JobOutcome::Succeeded,
            Self::Later { counts: true, .. } => JobOutcome::Retried,
            Self::Later { counts: false, .. } => JobOutcome::Waiting,
            Self::Failed { .. } => JobOutcome::Failed,
            Self::Limited { .. } | Self::Released => JobOutcome::Released,
        }
    }

    /// The class of the failure behind it, if there was one.
    pub fn class(&self) -> Option<FailureClass> {
        match self {
            Self::Completed(_) | Self::Released => None,
            Self::Later { note: Some(note), .. } | Self::Failed { note: Some(note), .. } => FailureClass::ALL
                .into_iter()
                .find(|class| class.as_str() == note.class),
            Self::Limited { .. } => Some(FailureClass::Blocked),
            // A call that was never sent leaves no note.
            Self::Later { waits_for, .. } => waits_for.map(|_| FailureClass::Blocked),
            Self::Failed { note: None, .. } => None,
        }
    }
}

impl DeliveryOutcome {
    /// The outcome as the queue keeps it: the reason of a failed attempt starts with a sentence for the student.
    pub(super) fn with_student_sentence(mut self, kind: Option<JobType>) -> Self {
        let class = self.class();
        if let Some(class) = class
            && let Self::Failed { reason, .. }
            | Self::Later {
                reason, counts: true, ..
            } = &mut self
        {
            *reason = failed_reason(class, kind, reason);
        }
        self
    }
}

/// The rules that turn a failure into an outcome.
#[derive(Debug, Clone)]
pub struct OutcomeRules {
    /// Waits between the queue's attempts.
    pub retry: RetryPolicy,
    /// How long a job may be made to wait in all by an open breaker, or for credit; zero fails it at once. Limits never
    /// fail a job.
    pub max_wait: Duration,
    /// How soon jobs ask again after a fault of their provider's account.
    pub account_waits: AccountWaits,
    /// True if this worker's back-off spaces retries of jobs whose producer names none. Otherwise such retries start at
    /// once, as in BullMQ.
    pub spreads_retries: bool,
    /// Names this replica in histories.
    pub replica: String,
}

/// How soon a job asks again after a fault of its provider's account: no credit, a refused key, a missing model. No
/// later than the breaker lets a probe pass.
#[derive(Debug, Clone, Copy)]
pub struct AccountWaits {
    waits: [Duration; Provider::ALL.len()],
    /// Without breakers nothing bounds the calls of jobs that wait for a key, a model or a parameter, and nothing
    /// alerts: such jobs fail at once.
    has_breakers: bool,
}

impl AccountWaits {
    /// As long as each provider's breaker stays open the first time, and a minute at most.
    pub fn of(gates: Option<&GatesSettings>) -> Self {
        let wait = |provider| {
            gates.map_or(ACCOUNT_WAIT, |gates| {
                gates.of(provider).breaker.open_for().min(ACCOUNT_WAIT)
            })
        };
        Self {
            waits: Provider::ALL.map(wait),
            has_breakers: gates.is_some(),
        }
    }

    fn wait(self, provider: Option<Provider>) -> Duration {
        let at = Provider::ALL
            .into_iter()
            .position(|known| Some(known) == provider);
        at.and_then(|at| self.waits.get(at).copied())
            .unwrap_or(ACCOUNT_WAIT)
    }
}

impl Default for AccountWaits {
    /// Behind breakers, a minute each.
    fn default() -> Self {
        Self {
            has_breakers: true,
            ..Self::of(None)
        }
    }
}

impl OutcomeRules {
    /// Chooses the outcome of a failure after `tries` provider calls.
    pub fn of(&self, failure: &Failure, delivery: &Delivery, tries: u8) -> DeliveryOutcome {
        match failure.class() {
            FailureClass::Cancelled => DeliveryOutcome::Released,
            FailureClass::Blocked if failure.is_limited() => self.limited(failure),
            // However long it takes: an operator or the calendar gives way.
            FailureClass::Blocked if failure.lacks_money() => {
                let delay = failure.retry_after().unwrap_or(LONGEST_WAIT_IN_SLOT);
                self.later(delay, failure, delivery, tries)
            }
            // Out of quota: the job is good, and runs once someone has paid. Until then it waits behind the breaker
            // that such failures open.
            FailureClass::Blocked | FailureClass::OutOfQuota => self
                .wait(failure, delivery, tries)
                .unwrap_or_else(|| self.waited_long_enough(failure, delivery, tries)),
            // The provider refuses the account, not the job: the job runs once the key, the model or the request is
            // right. A fault that no provider has named is this worker's own, and waiting does not remove it.
            FailureClass::Deployment
                if failure.account_fault().is_some() && self.account_waits.has_breakers =>
            {
                self.wait(failure, delivery, tries)
                    .unwrap_or_else(|| self.waited_long_enough(failure, delivery, tries))
            }
            // The provider names a time: the job waits for it, however often, without losing an attempt.
            FailureClass::Transient | FailureClass::RateLimited
                if failure.retry_after().is_some_and(|t| t > LONGEST_WAIT_IN_SLOT) =>
            {
                let delay = failure.retry_after().unwrap_or_default().min(LONGEST_DELAY);
                self.later(delay, failure, delivery, tries)
            }
            FailureClass::Transient | FailureClass::RateLimited => self.again(failure, delivery, tries),
            FailureClass::Deployment
            | FailureClass::Permanent
            | FailureClass::OverBudget
            | FailureClass::OverAllowance => self.dead_letter(excerpt(failure), failure, delivery, tries),
        }
    }

    /// The queue's next attempt, while they last.
    fn again(&self, failure: &Failure, delivery: &Delivery, tries: u8) -> DeliveryOutcome {
        if delivery.attempt >= delivery.max_attempts {
            return self.dead_letter(excerpt(failure), failure, delivery, tries);
        }
        let delay = self.delay(failure, delivery);
        let note = self.note(failure, delivery, tries, Some(delay));
        DeliveryOutcome::Later {
            delay,
            counts: true,
            reason: excerpt(failure),
            waits_for: None,
            adds_up: false,
            note: Some(note),
        }
    }

    /// The wait before the queue's next attempt: the producer's where it names one, else ours, but never less than what
    /// the provider asks for. Without any wait, an outage of a second would use up all attempts.
    fn delay(&self, failure: &Failure, delivery: &Delivery) -> Duration {
        let as_bullmq = (delivery.kind.is_some() && !self.spreads_retries).then_some(QueueBackoff::NONE);
        if let Some(backoff) = delivery.backoff.or(as_bullmq) {
            let asked = failure.retry_after().unwrap_or_default().min(LONGEST_DELAY);
            return backoff.delay(delivery.attempt, &mut rand::rng()).max(asked);
        }
        let nth = u8::try_from(delivery.attempt).unwrap_or(u8::MAX);
        let delay = self.retry.delay(nth, failure, &mut rand::rng()).total();
        delay.min(LONGEST_DELAY)
    }

    /// A wait for a breaker or for credit, which costs no attempt, unless the job has waited for as long as it may in
    /// all.
    fn wait(&self, failure: &Failure, delivery: &Delivery, tries: u8) -> Option<DeliveryOutcome> {
        let unknown = if failure.culprit() == Culprit::Account {
            self.account_waits.wait(failure.provider())
        } else {
            LONGEST_WAIT_IN_SLOT
        };
        // The breaker may close sooner than it says, when someone resets it: the last wait is cut, not skipped.
        let left = self.max_wait.saturating_sub(delivery.waited);
        let delay = failure.retry_after().unwrap_or(unknown).min(left);
        (!left.is_zero()).then(|| self.later(delay, failure, delivery, tries))
    }

    fn later(&self, delay: Duration, failure: &Failure, delivery: &Delivery, tries: u8) -> DeliveryOutcome {
        // A call that was never sent does not count as a failed attempt, and leaves no line in the history.
        let sent = failure.class() != FailureClass::Blocked;
        let note = sent.then(|| self.note(failure, delivery, tries, Some(delay)));
        DeliveryOutcome::Later {
            delay,
            counts: false,
            reason: excerpt(failure),
            waits_for: failure.provider(),
            adds_up: matches!(failure.class(), FailureClass::Blocked | FailureClass::OutOfQuota)
                && !failure.lacks_money(),
            note,
        }
    }

    /// The job keeps its place in the line. A failure that does not say whose limit it was waits like for a breaker.
    fn limited(&self, failure: &Failure) -> DeliveryOutcome {
        match failure.provider() {
            Some(provider) => DeliveryOutcome::Limited {
                provider,
                wait: failure.retry_after().unwrap_or(LONGEST_WAIT_IN_SLOT),
                reason: excerpt(failure),
            },
            None => DeliveryOutcome::Released,
        }
    }

    /// Fails a job whose total wait is over. The reason gives that wait; the failure's own text gives the last
    /// obstacle.
    fn waited_long_enough(&self, failure: &Failure, delivery: &Delivery, tries: u8) -> DeliveryOutcome {
        let reason = match (self.max_wait.is_zero(), failure.class()) {
            (true, _) => excerpt(failure),
            (false, FailureClass::OutOfQuota) => format!(
                "waited {} s in all for credit (CIRCUIT_MAX_WAIT): {}",
                delivery.waited.as_secs(),
                excerpt(failure)
            ),
            (false, _) => format!(
                "waited {} s in all: {}",
                delivery.waited.as_secs(),
                excerpt(failure)
            ),
        };
        self.dead_letter(reason, failure, delivery, tries)
    }

    fn dead_letter(
        &self,
        reason: String,
        failure: &Failure,
        delivery: &Delivery,
        tries: u8,
    ) -> DeliveryOutcome {
        DeliveryOutcome::Failed {
            reason,
            note: Some(self.note(failure, delivery, tries, None)),
        }
    }

    fn note(
        &self,
        failure: &Failure,
        delivery: &Delivery,
        tries: u8,
        delay: Option<Duration>,
    ) -> HistoryNote {
        HistoryNote {
            attempt: delivery.attempt,
            r#try: u32::from(tries),
            class: failure.class().as_str().to_owned(),
            cause: excerpt(failure),
            delay_ms: delay.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            replica: self.replica.clone(),
        }
    }
}

/// The failure's text, cut to what may be kept of it.
pub(super) fn excerpt(failure: &Failure) -> String {
    let text = failure.to_string();
    let text = conceal(&text).into_owned();
    match text.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
