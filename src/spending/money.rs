//! Amounts of money, in whole billionths of a US dollar: sums are exact.

use std::{fmt, iter::Sum, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Billionths of a dollar in one dollar.
const NANOS: u64 = 1_000_000_000;
/// Digits behind the point.
const DIGITS: usize = 9;
/// The largest amount that is read, in dollars: sums of such amounts are far from overflowing, in Redis too.
const MOST_DOLLARS: u64 = 1_000_000;

/// An amount in US dollars, in steps of a billionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

/// The text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount in USD from 0 to {MOST_DOLLARS}, with up to {DIGITS} digits behind the point")]
pub struct InvalidAmount;

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many billionths of a dollar.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The amount in billionths of a dollar.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The sum; the largest amount where there is none.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The amount as a JSON number or a plot takes it: it can be off by a part in 10^15.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }

    /// The share of `whole` in percent, rounded down; 100 where `whole` is nothing.
    pub fn percent_of(self, whole: Self) -> u64 {
        let percent = u128::from(self.0)
            .saturating_mul(100)
            .checked_div(u128::from(whole.0));
        u64::try_from(percent.unwrap_or(100)).unwrap_or(u64::MAX)
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for Usd {
    /// At least two digits behind the point, and as many as the amount has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:09}", self.0 % NANOS);
        let digits = fraction.trim_end_matches('0').len().max(2);
        f.pad(&format!(
            "{}.{}",
            self.0 / NANOS,
            fraction.get(..digits).unwrap_or("00")
        ))
    }
}

impl FromStr for Usd {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let (dollars, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if dollars.is_empty() || !is_number(dollars) || !is_number(fraction) || text.ends_with('.') {
            return Err(InvalidAmount);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > DIGITS {
            return Err(InvalidAmount);
        }
        let dollars: u64 = dollars.parse().map_err(|_| InvalidAmount)?;
        let nanos: u64 = format!("{fraction:0<DIGITS$}")
            .parse()
            .map_err(|_| InvalidAmount)?;
        if dollars > MOST_DOLLARS || (dollars == MOST_DOLLARS && nanos > 0) {
            return Err(InvalidAmount);
        }
        Ok(Self(dollars * NANOS + nanos))
    }
}

impl Serialize for Usd {
    /// A JSON number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    /// Text, so that it stays exact.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        for (text, nanos) in [
            ("0", 0),
            ("0.15", 150_000_000),
            ("0.000000001", 1),
            ("5", 5_000_000_000),
            ("1000000", 1_000_000_000_000_000),
            ("1.500000000000", 1_500_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Usd::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "0.0000000001",
            "1000000.01",
            "NaN",
            "1 ",
            "٣",
        ] {
            assert_eq!(text.parse::<Usd>(), Err(InvalidAmount), "{text:?}");
        }
    }

    #[test]
    fn a_share_is_rounded_down() {
        let usd = Usd::from_nanos;
        assert_eq!(usd(799).percent_of(usd(1000)), 79);
        assert_eq!(usd(1).percent_of(Usd::ZERO), 100);
        assert_eq!(usd(u64::MAX).percent_of(usd(1)), u64::MAX);
    }

    proptest! {
        #[test]
        fn an_amount_reads_as_it_is_written(nanos in 0..=MOST_DOLLARS * NANOS) {
            let amount = Usd::from_nanos(nanos);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }

        #[test]
        fn no_text_is_misread(text in "[0-9.eE+ -]{0,14}") {
            if let Ok(amount) = text.parse::<Usd>() {
                let near = text.parse::<f64>().unwrap();
                prop_assert!((amount.dollars() - near).abs() < 1e-6 * near.max(1.0));
            }
        }
    }
}
