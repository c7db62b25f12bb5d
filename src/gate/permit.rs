//! A permit allows one call to a provider, and reports to the gate how the call ended.
//!
//! [`Permit`] holds a place within the limits until it is settled; [`Settlement`] is the report. A permit that is
//! dropped early reports itself, so that it cannot leak its place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jobs::{AccountFault, Culprit, Failure, FailureClass, ProviderReply};
use tokio_util::sync::CancellationToken;

use super::{decision::Effect, fallback::LocalCallRecord, provider_gate::ProviderGate};

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
            // The job has what it needs of a cut answer. The provider has failed nevertheless.
            Ok(reply) => {
                let outcome = match reply.is_cut {
                    true => CallOutcome::Failure,
                    false => CallOutcome::Success,
                };
                return Self {
                    tokens: reply.tokens,
                    ..Self::new(outcome)
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

/// The right to make one call. Its lease is renewed while it lives.
///
/// [`Self::settle`] reports how the call ended. A permit that is dropped instead is settled as well, by
/// [`Gates::run`](super::Gates::run): as cancelled when the request was never [sent](Self::sent), else as a failure.
#[derive(Debug)]
#[must_use = "a permit that is dropped counts as cancelled"]
pub struct Permit {
    gate: Arc<ProviderGate>,
    id: Arc<str>,
    lost: CancellationToken,
    sent: Option<Instant>,
    settlement: Option<Settlement>,
    /// This replica's local records of the call; `None` before it is granted.
    account: Option<LocalCallRecord>,
    /// Granted by this replica itself: its own breaker has to hear of the end.
    local: bool,
    /// Nothing is left to tell Redis: it has refused the call, or settled it.
    over: bool,
}

impl Permit {
    /// Creates a permit before the request to Redis. Redis may grant it although the answer is lost, so every drop from
    /// here on settles it.
    pub(super) fn asked(gate: Arc<ProviderGate>, id: Arc<str>) -> Self {
        let lost = CancellationToken::new();
        Self {
            gate,
            id,
            lost,
            sent: None,
            settlement: None,
            account: None,
            local: false,
            over: false,
        }
    }

    pub(super) fn granted(mut self, account: LocalCallRecord) -> Self {
        self.gate.keep_alive(&self.id, &self.lost);
        self.account = Some(account);
        self
    }

    pub(super) fn granted_locally(mut self, account: LocalCallRecord) -> Self {
        self.local = true;
        self.account = Some(account);
        self
    }

    pub(super) fn refused(mut self) {
        self.over = true;
    }

    /// Its id, unique over all replicas.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Notes that the request leaves now: from here on it costs, and its end says something about the provider.
    pub fn sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// Resolves when the lease is lost: the slot may be another call's by now, and this one has to stop.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Reports how the call ended. Never fails: with Redis away, the report is kept and delivered later.
    pub async fn settle(mut self, settlement: Settlement) -> Effect {
        let outcome = match (self.sent, settlement.outcome) {
            (None, CallOutcome::Ignored) => CallOutcome::Cancelled,
            (Some(sent), CallOutcome::Success) if self.gate.is_slow(sent.elapsed()) => CallOutcome::Failure,
            (_, outcome) => outcome,
        };
        let settlement = Settlement {
            outcome,
            ..settlement
        };
        // Stored before the first await: if the caller drops this future midway, `Drop` still reports the right
        // outcome.
        self.settlement = Some(settlement);
        let effect = self.gate.settle_in_redis(&self.id, settlement).await.ok();
        self.over = effect.is_some();
        effect.unwrap_or(Effect::Queued)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let otherwise = Settlement::new(if self.sent.is_some() {
            CallOutcome::Failure
        } else {
            CallOutcome::Cancelled
        });
        let settlement = self.settlement.unwrap_or(otherwise);
        if !self.over {
            self.gate.settle_later(self.id.clone(), settlement);
        }
        if let Some(account) = self.account.take() {
            self.gate
                .end(&self.id, account, settlement, self.local || !self.over);
        }
    }
}
