//! Sends the gate's requests to Redis: concurrent requests for permits and ends of calls share one script call.
//!
//! Each call has a deadline; a late answer counts as an outage of Redis, and the replica decides by itself.

use std::{sync::Arc, time::Duration};

use jobs::AccountFault;
use redis::{ErrorKind, RedisError};

use super::{
    decision::{Effect, Reason, State},
    permit::Settlement,
    redis_gate::{RedisGate, SettleAndAdmitReply},
};
use crate::{
    deadline::answered_within,
    group_commit::{BatchLimits, Batcher},
};

/// Requests and ends of calls that one script handles at most.
const MOST: BatchLimits = BatchLimits {
    calls: 1,
    requests: 64,
    partial: 64,
    bytes: usize::MAX,
};

/// A request for a permit.
pub(super) struct AdmissionRequest {
    pub(super) id: Arc<str>,
    pub(super) estimated_tokens: u64,
}

/// The end of a call.
pub(super) struct CallEnd {
    pub(super) id: Arc<str>,
    pub(super) settlement: Settlement,
}

/// A request to Redis.
enum GateRequest {
    Admit(AdmissionRequest),
    Settle(CallEnd),
}

/// Redis's answer to a request.
enum GateReply {
    Admitted(Result<AdmissionReply, RedisError>),
    Settled(SettlementReply),
}

/// One gate in Redis.
#[derive(Debug, Clone)]
pub(super) struct BatchedGate {
    pub(super) desk: Arc<RedisGate>,
    /// How long a call waits for its gate, at most: then Redis counts as away.
    deadline: Duration,
    asks: Batcher<GateRequest, Result<GateReply, RedisError>>,
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

/// The answer of `control.lua`.
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

impl BatchedGate {
    pub(super) fn new(desk: RedisGate, deadline: Duration) -> Self {
        let desk = Arc::new(desk);
        let turns = desk.clone();
        let asks = Batcher::new(
            MOST,
            |_| 0,
            move |asks| {
                let desk = turns.clone();
                async move {
                    let count = asks.len();
                    // A call that outlasts its askers' patience must not keep those who come after it waiting.
                    let turn = answered_within(deadline, turn(&desk, asks)).await;
                    match turn.unwrap_or_else(|_elapsed| Err(late())) {
                        Ok(told) => told.into_iter().map(Ok).collect(),
                        Err(error) => vec![error; count].into_iter().map(Err).collect(),
                    }
                }
            },
        );
        Self { desk, deadline, asks }
    }

    /// Asks for a permit, within the deadline.
    pub(super) async fn admit(
        &self,
        id: impl Into<Arc<str>>,
        estimated_tokens: u64,
    ) -> Result<AdmissionReply, RedisError> {
        let request = AdmissionRequest {
            id: id.into(),
            estimated_tokens,
        };
        match self.in_time(GateRequest::Admit(request)).await? {
            GateReply::Admitted(answer) => answer,
            GateReply::Settled(_) => Err(others()),
        }
    }

    /// Settles a permit, within the deadline.
    pub(super) async fn settle(
        &self,
        id: impl Into<Arc<str>>,
        settlement: Settlement,
    ) -> Result<SettlementReply, RedisError> {
        let end = CallEnd {
            id: id.into(),
            settlement,
        };
        match self.in_time(GateRequest::Settle(end)).await? {
            GateReply::Settled(settled) => Ok(settled),
            GateReply::Admitted(_) => Err(others()),
        }
    }

    async fn in_time(&self, ask: GateRequest) -> Result<GateReply, RedisError> {
        match answered_within(self.deadline, self.asks.ask(ask)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err((ErrorKind::Client, "the gate's call died").into()),
            Err(_elapsed) => Err(late()),
        }
    }
}

fn late() -> RedisError {
    (ErrorKind::Io, "no answer in time").into()
}

fn others() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "the answer to another question").into()
}

/// One call to Redis; what it says of each, in the same order.
async fn turn(desk: &RedisGate, asks: Vec<GateRequest>) -> Result<Vec<GateReply>, RedisError> {
    let (mut ends, mut requests, mut order) = (Vec::new(), Vec::new(), Vec::with_capacity(asks.len()));
    for ask in asks {
        order.push(matches!(ask, GateRequest::Settle(_)));
        match ask {
            GateRequest::Settle(end) => ends.push(end),
            GateRequest::Admit(request) => requests.push(request),
        }
    }
    let SettleAndAdmitReply { settled, admitted } = desk.turn(&ends, &requests).await?;
    let mut settled = settled.into_iter().map(GateReply::Settled);
    let mut admitted = admitted.into_iter().map(GateReply::Admitted);
    let told = |settles| if settles { settled.next() } else { admitted.next() };
    Ok(order.into_iter().filter_map(told).collect()) // There is one for each.
}
