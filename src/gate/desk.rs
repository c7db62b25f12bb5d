//! The scripts, typed: what goes into them, and what comes out.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, FromRedisValue, RedisError, Script, ScriptInvocation};

use super::{
    scripts::Scripts,
    settings::{GateSettings, LimitSettings, millis},
    verdict::{Effect, Reason, State},
    wire::{Answer, Control, End, Reading, Request, Settled, Verdict},
};
use crate::{connection::Connection, keys::GateKeys};

/// Beyond what any model takes; and what the scripts can count with.
const MOST_TOKENS: u64 = 1_000_000_000;

/// One gate's scripts, keys and numbers.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) connection: Connection,
    pub(super) scripts: Arc<Scripts>,
    pub(super) keys: GateKeys,
    pub(super) settings: GateSettings,
    pub(super) lease_ttl: Duration,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("keys", &self.keys)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What `admit.lua` says of one call.
type Row = (
    State,
    u64,
    u64,
    Option<State>,
    Option<(Reason, i64)>,
    Option<(bool, u64)>,
);

fn answer((state, epoch, now, moved_to, refused, granted): Row) -> Result<Answer, RedisError> {
    let verdict = match (refused, granted) {
        (Some((reason, wait)), _) => Verdict::Refused {
            reason,
            wait: u64::try_from(wait).ok().map(Duration::from_millis), // -1: never
        },
        (None, Some((probe, expires))) => Verdict::Granted { probe, expires },
        (None, None) => return Err((ErrorKind::Parse, "admit.lua neither grants nor refuses").into()),
    };
    Ok(Answer {
        verdict,
        state,
        epoch,
        now,
        moved_to,
    })
}

impl Desk {
    /// Asks for permits, one for each request.
    pub(super) async fn admit(
        &self,
        requests: &[Request],
    ) -> Result<Vec<Result<Answer, RedisError>>, RedisError> {
        let (breaker, limits) = (&self.settings.breaker, &self.settings.limits);
        let LimitSettings {
            requests_per_minute,
            tokens_per_minute,
            max_concurrent,
            pace,
        } = limits;
        let mut call = self.call(&self.scripts.admit);
        call.arg(millis(breaker.open_for))
            .arg(breaker.half_open_max)
            .arg(breaker.success_threshold);
        for limit in [requests_per_minute, tokens_per_minute, max_concurrent] {
            call.arg(limit.map_or(0, |n| n.get()));
        }
        call.arg(pace.map_or(0, |p| millis(p.interval)))
            .arg(pace.map_or(1, |p| p.burst.get()));
        for request in requests {
            call.arg(&*request.id)
                .arg(request.estimated_tokens.min(MOST_TOKENS));
        }
        let rows: Vec<Row> = self.resent_once(&call).await?;
        Ok(rows.into_iter().map(answer).collect())
    }

    /// Settles permits.
    pub(super) async fn settle(&self, ends: &[End]) -> Result<Vec<Result<Settled, RedisError>>, RedisError> {
        let breaker = &self.settings.breaker;
        let mut call = self.call(&self.scripts.settle);
        call.arg(breaker.failure_threshold)
            .arg(breaker.success_threshold)
            .arg(millis(breaker.window));
        for End { id, settlement } in ends {
            let used = settlement.tokens.map_or(-1, |n| n.min(MOST_TOKENS).cast_signed());
            call.arg(&**id).arg(settlement.outcome.as_str()).arg(used);
            call.arg(settlement.throttle.map_or(0, millis));
        }
        let rows: Vec<(Effect, State, u32)> = self.resent_once(&call).await?;
        let settled = |(effect, state, count)| Ok(Settled { effect, state, count });
        Ok(rows.into_iter().map(settled).collect())
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
    pub(super) async fn control(&self, control: Control) -> Result<Reading, RedisError> {
        let mut call = self.call(&self.scripts.control);
        call.arg(match control {
            Control::Status => "status",
            Control::Close => "close",
            Control::Open => "open",
        });
        let (
            (before, state, failures, successes, opened_at, attempts, not_closed_since),
            (in_flight, requests, tokens, throttled_until, now),
        ) = self.connection.invoke(&call).await?;
        Ok(Reading {
            before,
            state,
            failures,
            successes,
            opened_at,
            attempts,
            not_closed_since,
            in_flight,
            requests,
            tokens,
            throttled_until,
            now,
        })
    }

    fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for key in self.keys.all() {
            call.key(key);
        }
        call.arg(millis(self.lease_ttl));
        call
    }

    /// Sends a call again, once, when the connection breaks under it. Both scripts that are called so do nothing the
    /// second time.
    async fn resent_once<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        match self.connection.invoke(call).await {
            Err(error) if error.is_io_error() => self.connection.invoke(call).await,
            answer => answer,
        }
    }
}
