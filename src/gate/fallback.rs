//! Decides for a gate while Redis is away, by a breaker of the replica's own and its share of the limits.
//!
//! The replica updates this state while Redis answers, too. So at the start of an outage it already knows the calls in
//! flight, the use of the last minute and whether the breaker is open. It decides only while Redis is away. The
//! functions read no clock: the caller passes the time.

mod breaker;
mod limits;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jobs::AccountFault;

pub(super) use self::{
    breaker::{BreakerTicket, LocalBreaker, RecoveryRamp},
    limits::{LimitCharge, LocalLimits},
};
use super::{decision::Reason, protocol::SettlementReply, settlement::Settlement};
use crate::locks::locked;

/// Not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalRefusal {
    pub(super) reason: Reason,
    /// `None`: never.
    pub(super) wait: Option<Duration>,
    /// The account's fault that the breaker is not closed for.
    pub(super) fault: Option<AccountFault>,
}

impl LocalRefusal {
    /// A refusal that no fault of the account is behind.
    pub(super) const fn new(reason: Reason, wait: Option<Duration>) -> Self {
        Self {
            reason,
            wait,
            fault: None,
        }
    }
}

/// The local records of a call, which are settled at its end.
#[derive(Debug)]
pub(super) struct LocalCallRecord {
    ticket: BreakerTicket,
    charge: LimitCharge,
}

/// A call that the replica has granted by itself.
#[derive(Debug)]
pub(super) struct LocalGrant {
    pub(super) account: LocalCallRecord,
    /// The breaker became HALF_OPEN by it.
    pub(super) half_opened: bool,
}

/// One provider's limits, and the breaker that it may share with another.
#[derive(Debug)]
pub(super) struct LocalFallback {
    breaker: Arc<Mutex<LocalBreaker>>,
    limits: Mutex<LocalLimits>,
}

impl LocalFallback {
    pub(super) fn new(breaker: Arc<Mutex<LocalBreaker>>, limits: LocalLimits) -> Self {
        Self {
            breaker,
            limits: Mutex::new(limits),
        }
    }

    /// Decides in Redis's place, as one of `replicas`. A refusal consumes nothing.
    pub(super) fn admit(&self, now: Instant, tokens: u64, replicas: u32) -> Result<LocalGrant, LocalRefusal> {
        let (mut breaker, mut limits) = (locked(&self.breaker), locked(&self.limits));
        breaker.check(now)?;
        limits.check(now, tokens, replicas, breaker.caution(now))?;
        let (ticket, half_opened) = breaker.admit(now);
        Ok(LocalGrant {
            account: LocalCallRecord {
                ticket,
                charge: limits.charge(now, tokens),
            },
            half_opened,
        })
    }

    /// Redis has granted a call. One that is no probe says that the breaker is closed.
    pub(super) fn granted(&self, now: Instant, tokens: u64, probe: bool) -> LocalCallRecord {
        let mut breaker = locked(&self.breaker);
        if !probe {
            breaker.is_closed(now);
        }
        LocalCallRecord {
            ticket: breaker.ticket(),
            charge: locked(&self.limits).charge(now, tokens),
        }
    }

    /// Redis has refused a call.
    pub(super) fn refused(&self, now: Instant, refusal: LocalRefusal) {
        match refusal {
            LocalRefusal {
                reason: Reason::Open,
                wait: Some(wait),
                fault,
            } => locked(&self.breaker).is_open(now + wait, fault),
            LocalRefusal {
                reason: Reason::Throttled,
                wait: Some(wait),
                ..
            } => locked(&self.limits).throttle(now + wait),
            _ => {}
        }
    }

    /// A call has ended. The breaker hears of it only where Redis's did not decide.
    pub(super) fn end(
        &self,
        now: Instant,
        account: LocalCallRecord,
        settlement: Settlement,
        tell_breaker: bool,
    ) -> Option<SettlementReply> {
        locked(&self.limits).release(now, account.charge, settlement);
        let mut breaker = locked(&self.breaker);
        if tell_breaker {
            return Some(breaker.settle(now, account.ticket, settlement));
        }
        breaker.give_back(account.ticket);
        None
    }
}

#[cfg(test)]
mod tests;
