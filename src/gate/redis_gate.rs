//! Typed calls of the gate's scripts: builds their keys and arguments, and parses their answers.

use std::{sync::Arc, time::Duration};

use jobs::AccountFault;
use redis::{FromRedisValue, RedisError};

use super::{
    decision::{Effect, Reason, State},
    limit_room::{LimitRoom, SpreadRoom},
    protocol::{
        AdmissionReply, AdmissionRequest, AdmissionVerdict, BreakerControl, CallEnd, GateError, GateReading,
        SettlementReply,
    },
    scripts::GateScripts,
    settings::{GateSettings, LimitSettings},
    settlement::CallOutcome,
};
use crate::{
    connection::Connection,
    keys::{GateKeys, WaitingLine},
    script::{Script, ScriptCall},
    time_format::millis,
};

/// Beyond what any model takes; and what the scripts can count with.
const MOST_TOKENS: u64 = 1_000_000_000;

/// One gate's scripts, keys and numbers.
#[derive(Clone)]
pub(super) struct RedisGate {
    pub(super) connection: Connection,
    pub(super) scripts: Arc<GateScripts>,
    pub(super) keys: GateKeys,
    pub(super) settings: GateSettings,
    pub(super) lease_ttl: Duration,
}

impl std::fmt::Debug for RedisGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("keys", &self.keys)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The answer of `settle_and_admit.lua`.
pub(super) struct SettleAndAdmitReply {
    /// Of each permit that was to be settled.
    pub(super) settled: Vec<SettlementReply>,
    /// Of each request.
    pub(super) admitted: Vec<Result<AdmissionReply, GateError>>,
}

/// The answer of `admit.lua` about one call.
type AdmitRow = (
    State,
    u64,
    u64,
    Option<State>,
    Option<(Reason, i64, String)>,
    Option<(bool, u64)>,
);

/// The answer of `settle.lua` about one permit.
type SettledRow = (Effect, State, u32, u32, u32);

/// The answer of `limit_room.lua`. Calls, ms until more may pass, the reason; calls and ms where they are spread over the
/// minute, ms between two of these, how many may start at once; jobs that wait; ms until the breaker lets a call pass, and
/// how many probes.
type RoomRow = (i64, u64, String, i64, u64, u64, usize, usize, u64, i64);

/// The part of `breaker_control.lua`'s answer about the breaker.
type BreakerRow = (
    State,
    State,
    u32,
    u32,
    Option<u64>,
    u32,
    Option<u64>,
    Option<u64>,
    String,
    Option<u64>,
);

/// The part of `breaker_control.lua`'s answer about the limits.
type LimitsRow = (u64, u64, u64, u64, u64);

fn answer((state, epoch, now, moved_to, refused, granted): AdmitRow) -> Result<AdmissionReply, GateError> {
    let verdict = match (refused, granted) {
        (Some((reason, wait, fault)), _) => AdmissionVerdict::Refused {
            reason,
            wait: u64::try_from(wait).ok().map(Duration::from_millis), // -1: never
            fault: AccountFault::from_word(&fault),
        },
        (None, Some((probe, expires))) => AdmissionVerdict::Granted { probe, expires },
        (None, None) => return Err(GateError::UnexpectedReply("admit.lua neither grants nor refuses")),
    };
    Ok(AdmissionReply {
        verdict,
        state,
        epoch,
        now,
        moved_to,
    })
}

impl RedisGate {
    /// Settles permits, then asks for others, one for each request. What is freed can be granted.
    pub(super) async fn settle_and_admit(
        &self,
        ends: &[CallEnd],
        requests: &[AdmissionRequest],
    ) -> Result<SettleAndAdmitReply, GateError> {
        let breaker = &self.settings.breaker;
        let mut call = self.limited_call(&self.scripts.turn);
        call.arg(breaker.failure_threshold)
            .arg(millis(breaker.window))
            .arg(breaker.share.percent())
            .arg(ends.len());
        for CallEnd { id, settlement } in ends {
            let used = settlement.tokens.map_or(-1, |n| n.min(MOST_TOKENS).cast_signed());
            call.arg(&**id);
            match (settlement.outcome, settlement.fault) {
                (CallOutcome::Failure, Some(fault)) => call.arg(format!("failure:{}", fault.as_str())),
                (outcome, _) => call.arg(outcome.as_str()),
            };
            call.arg(used);
            call.arg(settlement.throttle.map_or(0, millis));
        }
        for request in requests {
            call.arg(&*request.id)
                .arg(request.estimated_tokens.min(MOST_TOKENS));
        }
        let (settled, admitted): (Vec<SettledRow>, Vec<AdmitRow>) = self.resent_once(&call).await?;
        if settled.len() != ends.len() || admitted.len() != requests.len() {
            return Err(GateError::UnexpectedReply("not a reply for each call"));
        }
        let settled = settled
            .into_iter()
            .map(|(effect, state, count, failed, of_calls)| SettlementReply {
                effect,
                state,
                count,
                failed,
                of_calls,
            });
        Ok(SettleAndAdmitReply {
            settled: settled.collect(),
            admitted: admitted.into_iter().map(answer).collect(),
        })
    }

    /// Renews leases, and returns the ids of those that are lost.
    pub(super) async fn renew(&self, ids: &[Arc<str>]) -> Result<Vec<String>, RedisError> {
        let mut call = self.call(&self.scripts.renew);
        for id in ids {
            call.arg(&**id);
        }
        self.connection.invoke(&call).await
    }

    /// Reads the gate, or moves its breaker.
    pub(super) async fn control(&self, control: BreakerControl) -> Result<GateReading, RedisError> {
        let mut call = self.call(&self.scripts.control);
        call.arg(match control {
            BreakerControl::Status => "status",
            BreakerControl::Close => "close",
            BreakerControl::Open => "open",
        });
        call.arg(millis(self.settings.breaker.open_for));
        let (
            (
                before,
                state,
                failures,
                successes,
                opened_at,
                attempts,
                not_closed_since,
                open_until,
                fault,
                fault_at,
            ),
            (in_flight, requests, tokens, throttled_until, now),
        ): (BreakerRow, LimitsRow) = self.connection.invoke(&call).await?;
        Ok(GateReading {
            before,
            state,
            failures,
            successes,
            opened_at,
            attempts,
            not_closed_since,
            open_until,
            fault: AccountFault::from_word(&fault).zip(fault_at),
            in_flight,
            requests,
            tokens,
            throttled_until,
            now,
        })
    }

    /// How many calls of so many tokens the limits would let pass now, and how many jobs wait in these lines.
    pub(super) async fn room(
        &self,
        estimated_tokens: u64,
        lines: &[WaitingLine],
    ) -> Result<LimitRoom, RedisError> {
        let mut call = self.limited_call(&self.scripts.room);
        call.arg(estimated_tokens.min(MOST_TOKENS))
            .arg(self.settings.breaker.failure_threshold);
        for line in lines {
            call.key(&line.key).arg(line.counted_by);
        }
        let (calls, wait, reason, spread, spread_wait, interval, burst, waiting, blocked_for, probes): RoomRow =
            self.connection.invoke(&call).await?;
        let any = |calls: i64| usize::try_from(calls).unwrap_or(usize::MAX); // -1: any number
        Ok(LimitRoom {
            calls: any(calls),
            wait: Duration::from_millis(wait),
            reason: reason.parse().ok(),
            spread: SpreadRoom {
                calls: any(spread),
                wait: Duration::from_millis(spread_wait),
                interval: Duration::from_millis(interval),
                burst,
            },
            waiting,
            blocked_for: Duration::from_millis(blocked_for),
            probes: any(probes),
        })
    }

    /// A call of a script that looks at the limits.
    fn limited_call<'a>(&self, script: &'a Script) -> ScriptCall<'a> {
        let (breaker, limits) = (&self.settings.breaker, &self.settings.limits);
        let LimitSettings {
            requests_per_minute,
            tokens_per_minute,
            max_concurrent,
        } = limits;
        let mut call = self.call(script);
        call.arg(millis(breaker.open_for))
            .arg(breaker.half_open_max)
            .arg(breaker.success_threshold);
        for limit in [requests_per_minute, tokens_per_minute, max_concurrent] {
            call.arg(limit.map_or(0, |n| n.get()));
        }
        call
    }

    fn call<'a>(&self, script: &'a Script) -> ScriptCall<'a> {
        let mut call = script.prepare_invoke();
        for key in self.keys.all() {
            call.key(key);
        }
        match self.settings.breaker.reopen_for {
            Some(reopen_for) => call.arg(format!("{} {}", millis(self.lease_ttl), millis(reopen_for))),
            None => call.arg(millis(self.lease_ttl)),
        };
        call
    }

    /// Sends a call again, once, when the connection breaks under it: it does nothing the second time.
    async fn resent_once<T: FromRedisValue + Send>(&self, call: &ScriptCall<'_>) -> Result<T, RedisError> {
        match self.connection.invoke(call).await {
            Err(error) if error.is_io_error() => self.connection.invoke(call).await,
            answer => answer,
        }
    }
}
