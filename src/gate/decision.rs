//! The gate's vocabulary: states of a breaker, reasons for a refusal, effects of a reported outcome.

#![allow(
    missing_docs,
    reason = "the method into_str that strum derives has no documentation"
)]

use std::{fmt, str::FromStr, time::Duration};

use jobs::{AccountFault, Failure, FailureClass, Provider};
use redis::{FromRedisValue, ParsingError, Value};
use strum::{Display, EnumCount, EnumString, IntoStaticStr, VariantArray};

/// The state of a breaker.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumCount, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(const_into_str)]
pub enum State {
    /// Calls pass.
    #[strum(to_string = "CLOSED")]
    Closed,
    /// No call passes.
    #[strum(to_string = "OPEN")]
    Open,
    /// A few probes pass: they decide.
    #[strum(to_string = "HALF_OPEN")]
    HalfOpen,
}

impl FromRedisValue for State {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        parse_word(value)
    }
}

/// Why a call may not pass.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumCount, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(const_into_str)]
pub enum Reason {
    /// The breaker is open.
    #[strum(to_string = "open")]
    Open,
    /// The breaker is half open, and enough probes are out.
    #[strum(to_string = "half_open")]
    HalfOpen,
    /// The provider has asked the fleet to slow down (429).
    #[strum(to_string = "throttled")]
    Throttled,
    /// As many calls as allowed are in flight.
    #[strum(to_string = "concurrency")]
    Concurrency,
    /// As many requests as allowed were made in the last minute.
    #[strum(to_string = "rpm")]
    Rpm,
    /// As many tokens as allowed were used in the last minute.
    #[strum(to_string = "tpm")]
    Tpm,
    /// The call needs more tokens than a minute may ever use.
    #[strum(to_string = "too_large")]
    TooLarge,
}

impl FromRedisValue for Reason {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        parse_word(value)
    }
}

/// The effect of a settlement.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Display, EnumCount, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(const_into_str)]
pub enum Effect {
    /// The breaker has counted it, and stays as it is.
    #[strum(to_string = "recorded")]
    Recorded,
    /// It opened the breaker: CLOSED → OPEN.
    #[strum(to_string = "opened")]
    Opened,
    /// It opened the breaker again: HALF_OPEN → OPEN.
    #[strum(to_string = "reopened")]
    Reopened,
    /// It closed the breaker: HALF_OPEN → CLOSED.
    #[strum(to_string = "closed")]
    Closed,
    /// It says nothing about the provider.
    #[strum(to_string = "ignored")]
    Ignored,
    /// The breaker has moved on since the call was admitted.
    #[strum(to_string = "stale")]
    Stale,
    /// The permit's lease had run out.
    #[strum(to_string = "expired")]
    Expired,
    /// It was settled before, or given up: nothing was done.
    #[strum(to_string = "unknown")]
    Unknown,
    /// Redis is away: it is delivered later.
    #[strum(to_string = "queued")]
    Queued,
}

impl FromRedisValue for Effect {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        parse_word(value)
    }
}

/// Reads a word of the scripts.
fn parse_word<T: FromStr<Err = strum::ParseError>>(value: Value) -> Result<T, ParsingError> {
    let word = String::from_redis_value(value)?;
    word.parse()
        .map_err(|_| format!("the gate's scripts answered {word:?}, which is not a known word").into())
}

impl Reason {
    /// Returns true if a limit refused the call, not the breaker. After a limit the job keeps its place in the line.
    pub const fn is_limit(self) -> bool {
        !matches!(self, Self::Open | Self::HalfOpen)
    }
}

/// A call that may not be made now. Nothing was consumed.
///
/// Its text is what the job's owner reads; the breaker's is that of the earlier Node worker, to the letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The provider of the gate.
    pub provider: Provider,
    /// Its breaker.
    pub breaker: String,
    /// Why the call may not pass.
    pub reason: Reason,
    /// When to ask again; `None` when it is never going to pass.
    pub retry_after: Option<Duration>,
    /// The account's fault that keeps the breaker from closing, where one does.
    pub fault: Option<AccountFault>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            provider, breaker, ..
        } = self;
        match self.reason {
            Reason::Open => write!(f, "Circuit breaker is OPEN for {breaker}"),
            Reason::HalfOpen => write!(
                f,
                "Circuit breaker is HALF_OPEN for {breaker}: enough probes are out"
            ),
            Reason::Throttled => write!(f, "{provider} has asked for a pause"),
            Reason::Concurrency => write!(f, "Limit of concurrent calls reached for {provider}"),
            Reason::Rpm => write!(f, "Limit of requests a minute reached for {provider}"),
            Reason::Tpm => write!(f, "Limit of tokens a minute reached for {provider}"),
            Reason::TooLarge => write!(
                f,
                "The call needs more tokens than the limit of a minute for {provider}"
            ),
        }?;
        match self.retry_after {
            Some(wait) => write!(f, ". Retry in {}s", wait.as_millis().div_ceil(1000)),
            None => Ok(()),
        }?;
        match self.fault {
            Some(fault) if matches!(self.reason, Reason::Open | Reason::HalfOpen) => {
                write!(f, ": {}", fault.in_words())
            }
            _ => Ok(()),
        }
    }
}

impl From<Rejection> for Failure {
    /// Blocked until its time; for a call that can never pass, the job is wrong.
    fn from(rejection: Rejection) -> Self {
        let class = if rejection.retry_after.is_some() {
            FailureClass::Blocked
        } else {
            FailureClass::Permanent
        };
        let failure = Self::new(class, rejection.to_string())
            .by(rejection.provider)
            .with_retry_after(rejection.retry_after);
        match rejection.reason.is_limit() && class == FailureClass::Blocked {
            true => failure.with_limit(),
            false => failure,
        }
    }
}
