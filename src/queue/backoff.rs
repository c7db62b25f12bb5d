//! A producer's back-off between the attempts of its job.

use std::time::Duration;

use rand::{Rng, RngExt};

/// A producer's wish cannot hold a job for longer: a delay that overflows a time would lose it.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Waits between a job's attempts, as BullMQ computes them: ready for numbers of any kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueBackoff {
    /// The first wait, ms.
    pub delay_ms: f64,
    /// True if it doubles with each attempt.
    pub exponential: bool,
    /// Share of each wait, from 0 to 1, that is left to chance: it shortens the wait.
    pub jitter: f64,
}

impl QueueBackoff {
    /// No wait at all: what BullMQ does where the producer names none.
    pub const NONE: Self = Self {
        delay_ms: 0.0,
        exponential: false,
        jitter: 0.0,
    };

    /// The wait after the `nth` attempt has failed, from 1.
    pub fn delay(&self, nth: u32, rng: &mut impl Rng) -> Duration {
        let doublings = if self.exponential {
            i32::try_from(nth.saturating_sub(1)).unwrap_or(i32::MAX)
        } else {
            0
        };
        // In f64 throughout: infinity is capped like any other number, and what is no number counts as nothing.
        let grown = (self.delay_ms * 2f64.powi(doublings)).round();
        let jitter = self.jitter.clamp(0.0, 1.0);
        let ms = if jitter > 0.0 {
            (rng.random::<f64>() * grown * jitter + grown * (1.0 - jitter)).floor()
        } else {
            grown
        };
        let longest = LONGEST.as_secs_f64() * 1000.0;
        // `max` first: it turns NaN, which `clamp` would keep, into 0.
        Duration::from_millis(ms.max(0.0).min(longest) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff(delay_ms: f64, exponential: bool, jitter: f64) -> QueueBackoff {
        QueueBackoff {
            delay_ms,
            exponential,
            jitter,
        }
    }

    #[test]
    fn waits_are_those_of_bullmq() {
        let waits = |b: QueueBackoff| [1, 2, 3].map(|n| b.delay(n, &mut rand::rng()).as_millis());
        assert_eq!(waits(backoff(1000.0, false, 0.0)), [1000, 1000, 1000]);
        assert_eq!(waits(backoff(1000.0, true, 0.0)), [1000, 2000, 4000]);
        assert_eq!(
            waits(backoff(0.6, true, 0.0)),
            [1, 1, 2],
            "rounded, as Node rounds"
        );
        assert_eq!(waits(QueueBackoff::NONE), [0, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_number_makes_a_wait(delay in any::<f64>(), exponential in any::<bool>(), jitter in any::<f64>(), nth in any::<u32>()) {
            prop_assert!(backoff(delay, exponential, jitter).delay(nth, &mut rand::rng()) <= LONGEST);
        }

        #[test]
        fn jitter_only_shortens(delay in 0.0..1e6f64, jitter in 0.0..=1.0f64) {
            let wait = backoff(delay, false, jitter).delay(1, &mut rand::rng()).as_millis() as f64;
            prop_assert!(wait <= delay.round());
            prop_assert!(wait >= (delay.round() * (1.0 - jitter)).floor());
        }
    }
}
