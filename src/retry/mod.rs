//! Retrying: when another try is worth it, and how long to wait for it. No Redis, no jobs.

mod backoff;
mod loop_backoff;

use std::{num::NonZeroU8, time::Duration};

pub use backoff::{Backoff, BackoffDelay, InvalidBackoff};
use jobs::{Failure, FailureClass};
pub(crate) use loop_backoff::LoopBackoff;
use rand::Rng;

/// The longest that a job may wait in its slot. A longer wait gives the slot to another job.
pub const LONGEST_WAIT_IN_SLOT: Duration = Duration::from_secs(15);

/// How a provider call is retried.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub tries: NonZeroU8,
    /// Waits between them.
    pub backoff: Backoff,
}

/// The next step after a failed try.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetryDecision {
    /// Wait, then try again.
    Retry(BackoffDelay),
    /// The provider asks for more patience than a slot is given for: the job comes back later.
    HandBack,
    /// The tries are used up.
    Exhausted,
    /// Another try cannot help.
    Hopeless,
}

impl RetryPolicy {
    /// Judges the failure of the `nth` try (from 1).
    pub fn judge(&self, nth: u8, failure: &Failure, rng: &mut impl Rng) -> RetryDecision {
        if !failure.class().is_retryable() {
            return RetryDecision::Hopeless;
        }
        if failure
            .retry_after()
            .is_some_and(|wait| wait > LONGEST_WAIT_IN_SLOT)
        {
            return RetryDecision::HandBack;
        }
        if nth >= self.tries.get() {
            return RetryDecision::Exhausted;
        }
        RetryDecision::Retry(self.delay(nth, failure, rng))
    }

    /// The wait after the `nth` try: doubled when the provider asks to slow down, and never shorter than it asks.
    pub fn delay(&self, nth: u8, failure: &Failure, rng: &mut impl Rng) -> BackoffDelay {
        let backoff = match failure.class() {
            FailureClass::RateLimited => self.backoff.doubled(),
            _ => self.backoff,
        };
        backoff
            .delay(nth, rng)
            .at_least(failure.retry_after().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn policy(tries: u8) -> RetryPolicy {
        let backoff = Backoff::new(Duration::from_secs(2), 2.0, Duration::from_secs(10), 0.25).unwrap();
        RetryPolicy {
            tries: NonZeroU8::new(tries).unwrap(),
            backoff,
        }
    }

    fn rng() -> impl Rng {
        rand::rngs::SmallRng::seed_from_u64(7)
    }

    #[test]
    fn only_what_may_pass_is_retried() {
        for class in [
            FailureClass::Permanent,
            FailureClass::Deployment,
            FailureClass::OutOfQuota,
            FailureClass::Blocked,
            FailureClass::Cancelled,
        ] {
            assert_eq!(
                policy(3).judge(1, &Failure::new(class, "x"), &mut rng()),
                RetryDecision::Hopeless,
                "{class}"
            );
        }
        for class in [FailureClass::Transient, FailureClass::RateLimited] {
            let failure = Failure::new(class, "x");
            assert!(
                matches!(policy(3).judge(2, &failure, &mut rng()), RetryDecision::Retry(_)),
                "{class}"
            );
            assert_eq!(
                policy(3).judge(3, &failure, &mut rng()),
                RetryDecision::Exhausted,
                "{class}"
            );
        }
    }

    #[test]
    fn a_rate_limit_waits_twice_as_long_or_as_long_as_it_is_told() {
        let limited = Failure::new(FailureClass::RateLimited, "x");
        let wait = policy(3).delay(1, &limited, &mut rng()).total();
        assert!((3000..=5000).contains(&wait.as_millis()), "{wait:?}");
        let told = limited.with_retry_after(Some(Duration::from_secs(9)));
        assert_eq!(
            policy(3).delay(1, &told, &mut rng()).total(),
            Duration::from_secs(9)
        );
    }

    #[test]
    fn a_long_wait_gives_the_slot_back() {
        let told = Failure::transient("x").with_retry_after(Some(Duration::from_secs(16)));
        assert_eq!(policy(3).judge(1, &told, &mut rng()), RetryDecision::HandBack);
    }
}
