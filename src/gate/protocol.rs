//! The requests that a gate sends to Redis, and the replies of its scripts.

use std::{sync::Arc, time::Duration};

use jobs::AccountFault;
use redis::RedisError;

use super::{
    decision::{Effect, Reason, State},
    settlement::Settlement,
};
use crate::spend_ledger::LedgerOpening;

/// Why a gate has no reply from Redis. The replica then decides by itself.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum GateError {
    /// Redis has not answered within the gate's deadline.
    #[error("Redis has not answered in time")]
    TimedOut,
    /// The task that carried the request has ended, because its thread stops.
    #[error("the request was dropped before Redis answered")]
    Interrupted,
    /// The script's reply does not fit the request.
    #[error("Redis has answered something else: {0}")]
    UnexpectedReply(&'static str),
    /// Redis has answered with an error, or the connection is broken.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A request for a permit.
pub(super) struct AdmissionRequest {
    pub(super) id: Arc<str>,
    pub(super) estimated_tokens: u64,
    /// The call is opened in the ledger behind its admission.
    pub(super) opening: Option<LedgerOpening>,
}

/// The end of a call.
pub(super) struct CallEnd {
    pub(super) id: Arc<str>,
    pub(super) settlement: Settlement,
}

/// The answer of `admit.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdmissionReply {
    pub(super) verdict: AdmissionVerdict,
    /// The state of the breaker now.
    pub(super) state: State,
    pub(super) epoch: u64,
    /// Redis's clock, ms.
    pub(super) now: u64,
    /// The state that the breaker was moved to by this call.
    pub(super) moved_to: Option<State>,
}

/// May it pass?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmissionVerdict {
    /// It may.
    Granted {
        /// Its outcome decides about a half-open breaker.
        probe: bool,
        /// When its lease ends, ms of Redis's clock.
        expires: u64,
    },
    /// It may not.
    Refused {
        reason: Reason,
        /// `None`: never.
        wait: Option<Duration>,
        /// The account's fault that the breaker is not closed for.
        fault: Option<AccountFault>,
    },
}

/// The effect of a settlement, local or in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SettlementReply {
    pub(super) effect: Effect,
    /// The state of the breaker now.
    pub(super) state: State,
    /// Failures or successes that count now, if this outcome was counted.
    pub(super) count: u32,
    /// Failures among the last calls, if this was one of a closed breaker.
    pub(super) failed: u32,
    /// How many the last calls are.
    pub(super) of_calls: u32,
}

/// The answer of `breaker_control.lua`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GateReading {
    pub(super) before: State,
    pub(super) state: State,
    pub(super) failures: u32,
    pub(super) successes: u32,
    pub(super) opened_at: Option<u64>,
    pub(super) attempts: u32,
    pub(super) not_closed_since: Option<u64>,
    pub(super) open_until: Option<u64>,
    /// The account's fault that the last counted call failed for, and when.
    pub(super) fault: Option<(AccountFault, u64)>,
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) throttled_until: u64,
    pub(super) now: u64,
}

/// An operator's command to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerControl {
    Status,
    Close,
    Open,
}
