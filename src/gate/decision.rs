//! The gate's vocabulary: states of a breaker, reasons for a refusal, effects of a reported outcome.

use std::{fmt, time::Duration};

use jobs::{AccountFault, Failure, FailureClass, Provider};
use redis::{FromRedisValue, ParsingError, Value};

/// Words that the scripts say and the logs repeat: an enum, its words, and the way back from Redis.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$about])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its word, in the scripts, in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromRedisValue for $name {
            fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
                match String::from_redis_value(value)?.as_str() {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!("{other:?} is no {}", stringify!($name)).into()),
                }
            }
        }
    };
}

words! {
    /// The state of a breaker.
    State {
        /// Calls pass.
        Closed = "CLOSED",
        /// No call passes.
        Open = "OPEN",
        /// A few probes pass: they decide.
        HalfOpen = "HALF_OPEN",
    }
}

words! {
    /// Why a call may not pass.
    Reason {
        /// The breaker is open.
        Open = "open",
        /// The breaker is half open, and enough probes are out.
        HalfOpen = "half_open",
        /// The provider has asked the fleet to slow down (429).
        Throttled = "throttled",
        /// As many calls as allowed are in flight.
        Concurrency = "concurrency",
        /// As many requests as allowed were made in the last minute.
        Rpm = "rpm",
        /// As many tokens as allowed were used in the last minute.
        Tpm = "tpm",
        /// The call needs more tokens than a minute may ever use.
        TooLarge = "too_large",
    }
}

words! {
    /// The effect of a settlement.
    Effect {
        /// The breaker has counted it, and stays as it is.
        Recorded = "recorded",
        /// It opened the breaker: CLOSED → OPEN.
        Opened = "opened",
        /// It opened the breaker again: HALF_OPEN → OPEN.
        Reopened = "reopened",
        /// It closed the breaker: HALF_OPEN → CLOSED.
        Closed = "closed",
        /// It says nothing about the provider.
        Ignored = "ignored",
        /// The breaker has moved on since the call was admitted.
        Stale = "stale",
        /// The permit's lease had run out.
        Expired = "expired",
        /// It was settled before, or given up: nothing was done.
        Unknown = "unknown",
        /// Redis is away: it is delivered later.
        Queued = "queued",
    }
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
