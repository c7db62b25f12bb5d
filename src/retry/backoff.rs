//! Exponential backoff with jitter, as a type that cannot be built wrong.

use std::{fmt, time::Duration};

use rand::{Rng, RngExt};

/// Waits that grow by a factor up to a cap, each spread by a share of itself so that callers do not march in step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    factor: f64,
    max: Duration,
    jitter: f64,
}

/// Why a [`Backoff`] cannot be what was asked.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum InvalidBackoff {
    /// No wait at all would hammer the provider.
    #[error("the base delay must be more than 0 ms")]
    NoBase,
    /// The cap must not cut the first wait.
    #[error("the longest delay ({max:?}) must not be shorter than the base delay ({base:?})")]
    MaxBelowBase {
        /// The base.
        base: Duration,
        /// The cap.
        max: Duration,
    },
    /// Longer than any deadline.
    #[error("the longest delay ({0:?}) must not exceed one day")]
    MaxTooLong(Duration),
    /// Waits must not shrink.
    #[error("the factor ({0}) must be a number from 1 to 10")]
    Factor(f64),
    /// A share of the wait.
    #[error("the jitter ({0}) must be a share from 0 to 1")]
    Jitter(f64),
}

/// 2 s, 4 s, 8 s, 10 s, …, each ± 25 %.
impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(2),
            factor: 2.0,
            max: Duration::from_secs(10),
            jitter: 0.25,
        }
    }
}

impl Backoff {
    /// `base · factorⁿ⁻¹`, capped at `max`, then spread by ± `jitter` (a share of it).
    ///
    /// # Errors
    /// When the numbers make no sense, naming which.
    pub fn new(base: Duration, factor: f64, max: Duration, jitter: f64) -> Result<Self, InvalidBackoff> {
        if base.is_zero() {
            return Err(InvalidBackoff::NoBase);
        }
        if max < base {
            return Err(InvalidBackoff::MaxBelowBase { base, max });
        }
        if max > Duration::from_secs(24 * 3600) {
            return Err(InvalidBackoff::MaxTooLong(max));
        }
        if !(1.0..=10.0).contains(&factor) {
            return Err(InvalidBackoff::Factor(factor));
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(InvalidBackoff::Jitter(jitter));
        }
        Ok(Self {
            base,
            factor,
            max,
            jitter,
        })
    }

    /// Twice the base, the cap as it is (or the new base, if that is more).
    #[must_use]
    pub fn doubled(self) -> Self {
        let base = self.base * 2;
        Self {
            base,
            max: self.max.max(base),
            ..self
        }
    }

    /// The wait after the `nth` failure, from 1.
    pub fn delay(&self, nth: u8, rng: &mut impl Rng) -> BackoffDelay {
        let exponent = i32::from(nth.max(1)) - 1;
        // In f64: the power may well exceed what a Duration holds, and infinity is capped like any other number.
        let grown = (self.base.as_secs_f64() * self.factor.powi(exponent)).min(self.max.as_secs_f64());
        let spread = if self.jitter > 0.0 {
            rng.random_range(-self.jitter..=self.jitter)
        } else {
            0.0
        };
        BackoffDelay {
            base: Duration::from_secs_f64(grown),
            total: Duration::from_secs_f64((grown * (1.0 + spread)).max(0.0)),
        }
    }
}

/// One wait, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffDelay {
    base: Duration,
    total: Duration,
}

impl BackoffDelay {
    /// No wait.
    pub(crate) const NONE: Self = Self {
        base: Duration::ZERO,
        total: Duration::ZERO,
    };

    /// How long to wait.
    pub const fn total(self) -> Duration {
        self.total
    }

    /// The wait before jitter.
    pub const fn base(self) -> Duration {
        self.base
    }

    /// The jitter, ms, negative when it shortens the wait.
    pub fn jitter_ms(self) -> i128 {
        self.total.as_millis().cast_signed() - self.base.as_millis().cast_signed()
    }

    /// This wait, or `floor` if that is longer: what a provider asks for is no subject to jitter.
    #[must_use]
    pub fn at_least(self, floor: Duration) -> Self {
        if floor > self.total {
            Self {
                base: floor,
                total: floor,
            }
        } else {
            self
        }
    }
}

impl fmt::Display for BackoffDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.total.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_documented_waits() {
        let backoff = Backoff::new(2000 * MS, 2.0, 10_000 * MS, 0.0).unwrap();
        let rng = &mut rand::rngs::SmallRng::seed_from_u64(1);
        let waits: Vec<u128> = (1..=5)
            .map(|n| backoff.delay(n, rng).total().as_millis())
            .collect();
        assert_eq!(waits, [2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn nonsense_is_refused() {
        let new = |base, factor, max, jitter| Backoff::new(base, factor, max, jitter).unwrap_err();
        assert_eq!(new(Duration::ZERO, 2.0, MS, 0.0), InvalidBackoff::NoBase);
        assert_eq!(
            new(2 * MS, 2.0, MS, 0.0),
            InvalidBackoff::MaxBelowBase {
                base: 2 * MS,
                max: MS
            }
        );
        assert_eq!(new(MS, 0.5, MS, 0.0), InvalidBackoff::Factor(0.5));
        assert!(matches!(new(MS, f64::NAN, MS, 0.0), InvalidBackoff::Factor(_)));
        assert_eq!(new(MS, 2.0, MS, 1.5), InvalidBackoff::Jitter(1.5));
        assert_eq!(
            new(MS, 2.0, Duration::MAX, 0.0),
            InvalidBackoff::MaxTooLong(Duration::MAX)
        );
    }

    proptest! {
        #[test]
        fn stays_within_the_jitter_of_the_capped_power(
            base_ms in 1u64..60_000, factor in 1.0f64..=10.0, room_ms in 0u64..3_600_000, jitter in 0.0f64..=1.0,
            nth in 0u8..=255, seed: u64,
        ) {
            let (base, max) = (base_ms as u32 * MS, (base_ms + room_ms) as u32 * MS);
            let backoff = Backoff::new(base, factor, max, jitter).unwrap();
            let delay = backoff.delay(nth, &mut rand::rngs::SmallRng::seed_from_u64(seed));
            prop_assert!(delay.base() >= base.min(max) && delay.base() <= max);
            let (base, total) = (delay.base().as_secs_f64(), delay.total().as_secs_f64());
            prop_assert!(total >= base * (1.0 - jitter) - 1e-6 && total <= base * (1.0 + jitter) + 1e-6);
        }

        #[test]
        fn never_shrinks_with_the_attempt(base_ms in 1u64..60_000, factor in 1.0f64..=10.0, nth in 1u8..254) {
            let backoff = Backoff::new(base_ms as u32 * MS, factor, 3_600_000 * MS, 0.0).unwrap();
            let rng = &mut rand::rngs::SmallRng::seed_from_u64(0);
            prop_assert!(backoff.delay(nth, rng).total() <= backoff.delay(nth + 1, rng).total());
        }

        #[test]
        fn the_jitter_is_what_the_total_adds_to_the_base(seed: u64, nth in 1u8..10) {
            let backoff = Backoff::new(2000 * MS, 2.0, 10_000 * MS, 0.25).unwrap();
            let delay = backoff.delay(nth, &mut rand::rngs::SmallRng::seed_from_u64(seed));
            let sum = delay.base().as_millis().cast_signed() + delay.jitter_ms();
            prop_assert_eq!(sum, delay.total().as_millis().cast_signed());
        }
    }
}
