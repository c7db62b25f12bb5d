//! A permit allows one call to a provider, and reports to the gate how the call ended.
//!
//! A `PendingPermit` waits for the gate's answer, and becomes a [`Permit`] when it is granted. The permit holds a place
//! within the limits until it is settled with a [`Settlement`]. Both report themselves when they are dropped
//! early, so that neither leaks its place.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{
    decision::Effect,
    fallback::LocalCallRecord,
    provider_gate::ProviderGate,
    settlement::{CallOutcome, Settlement},
};

/// A request for a permit. Redis may grant it although the answer is lost, so one that is dropped without an answer is
/// settled as cancelled.
#[derive(Debug)]
pub(super) struct PendingPermit {
    gate: Arc<ProviderGate>,
    id: Arc<str>,
    is_answered: bool,
}

impl PendingPermit {
    pub(super) fn new(gate: Arc<ProviderGate>, id: Arc<str>) -> Self {
        Self {
            gate,
            id,
            is_answered: false,
        }
    }

    /// Redis has granted it.
    pub(super) fn granted(self, account: LocalCallRecord) -> Permit {
        let permit = self.permit(PermitGrantor::Redis, account);
        permit.gate.keep_alive(&permit.id, &permit.lost);
        permit
    }

    /// Redis does not answer, and this replica grants it by itself.
    pub(super) fn granted_locally(self, account: LocalCallRecord) -> Permit {
        self.permit(PermitGrantor::Replica, account)
    }

    /// Redis has refused it: nothing is left to tell Redis.
    pub(super) fn refused(mut self) {
        self.is_answered = true;
    }

    fn permit(mut self, grantor: PermitGrantor, account: LocalCallRecord) -> Permit {
        self.is_answered = true;
        Permit {
            gate: self.gate.clone(),
            id: self.id.clone(),
            lost: CancellationToken::new(),
            grantor,
            call: CallState::NotSent,
            account: Some(account),
        }
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        if !self.is_answered {
            let cancelled = Settlement::new(CallOutcome::Cancelled);
            self.gate.settle_later(self.id.clone(), cancelled);
        }
    }
}

/// Which side has granted a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PermitGrantor {
    Redis,
    /// Redis did not answer. Its own breaker has to hear how the call ends.
    Replica,
}

/// How far the call of a permit is.
#[derive(Debug, Clone, Copy)]
enum CallState {
    NotSent,
    Sent(Instant),
    /// The call has ended. Redis has not taken the report yet.
    Ended(Settlement),
    /// Redis has taken the report.
    Settled(Settlement),
}

impl CallState {
    /// The report about a call that is left in this state.
    const fn settlement(self) -> Settlement {
        match self {
            Self::NotSent => Settlement::new(CallOutcome::Cancelled),
            Self::Sent(_) => Settlement::new(CallOutcome::Failure),
            Self::Ended(settlement) | Self::Settled(settlement) => settlement,
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
    grantor: PermitGrantor,
    call: CallState,
    /// This replica's local records of the call; `None` once they are given back.
    account: Option<LocalCallRecord>,
}

impl Permit {
    /// Its id, unique over all replicas.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Notes that the request leaves now: from here on it costs, and its end says something about the provider.
    pub fn sent(&mut self) {
        self.call = CallState::Sent(Instant::now());
    }

    /// Resolves when the lease is lost: the slot may be another call's by now, and this one has to stop.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Reports how the call ended. Never fails: with Redis away, the report is kept and delivered later.
    pub async fn settle(mut self, settlement: Settlement) -> Effect {
        let outcome = match (self.call, settlement.outcome) {
            (CallState::NotSent, CallOutcome::Ignored) => CallOutcome::Cancelled,
            (CallState::Sent(sent), CallOutcome::Success) if self.gate.is_slow(sent.elapsed()) => {
                CallOutcome::Failure
            }
            (_, outcome) => outcome,
        };
        let settlement = Settlement {
            outcome,
            ..settlement
        };
        // Stored before the first await: if the caller drops this future midway, `Drop` still reports the right
        // outcome.
        self.call = CallState::Ended(settlement);
        match self.gate.settle_in_redis(&self.id, settlement).await {
            Ok(effect) => {
                self.call = CallState::Settled(settlement);
                effect
            }
            Err(_) => Effect::Queued, // By `Drop`.
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let settlement = self.call.settlement();
        let is_settled = matches!(self.call, CallState::Settled(_));
        if !is_settled {
            self.gate.settle_later(self.id.clone(), settlement);
        }
        if let Some(account) = self.account.take() {
            let tell_breaker = self.grantor == PermitGrantor::Replica || !is_settled;
            self.gate.end(&self.id, account, settlement, tell_breaker);
        }
    }
}
