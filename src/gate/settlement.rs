//! The report about a call's end, which the breaker and the limits count.

use std::time::Duration;

use jobs::{AccountFault, Culprit, Failure, FailureClass, ProviderReply};

/// Pause after a provider asks to slow down without a duration.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(5);
/// Upper bound of a pause that a provider asks for.
const LONGEST_THROTTLE: Duration = Duration::from_hours(24);

/// How a call ended, as the breaker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// A usable answer.
    Success,
    /// The provider failed.
    Failure,
    /// The request was sent; how it ended says nothing about the provider.
    Ignored,
    /// The request was never sent: all it was charged is refunded.
    Cancelled,
}

/// The report about a call's end to its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// How it ended.
    pub outcome: CallOutcome,
    /// Tokens that the call used; `None` keeps the estimate.
    pub tokens: Option<u64>,
    /// How long the whole fleet pauses calls to the provider.
    pub throttle: Option<Duration>,
    /// The fault of the account that a failure is due to.
    pub fault: Option<AccountFault>,
}

impl Settlement {
    /// Only an outcome: no tokens, no throttle.
    pub const fn new(outcome: CallOutcome) -> Self {
        Self {
            outcome,
            tokens: None,
            throttle: None,
            fault: None,
        }
    }

    /// Derives the report from a call's result. The culprit decides whether the breaker counts it.
    pub fn of(result: &Result<ProviderReply, Failure>) -> Self {
        let failure = match result {
            Ok(reply) => {
                return Self {
                    tokens: reply.tokens,
                    ..Self::new(CallOutcome::Success)
                };
            }
            Err(failure) => failure,
        };
        match (failure.class(), failure.culprit()) {
            (FailureClass::Blocked, _) => Self::new(CallOutcome::Cancelled),
            (FailureClass::RateLimited, _) => {
                let throttle = failure
                    .retry_after()
                    .unwrap_or(DEFAULT_THROTTLE)
                    .min(LONGEST_THROTTLE);
                Self {
                    throttle: Some(throttle),
                    ..Self::new(CallOutcome::Ignored)
                }
            }
            (_, Culprit::Provider | Culprit::Account) => Self {
                fault: failure.account_fault(),
                ..Self::new(CallOutcome::Failure)
            },
            (_, Culprit::Job | Culprit::NoFault) => Self::new(CallOutcome::Ignored),
        }
    }
}

impl CallOutcome {
    /// Its word in the scripts.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Ignored => "ignored",
            Self::Cancelled => "cancelled",
        }
    }
}
