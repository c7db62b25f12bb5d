//! The scripts, typed: what goes into them, and what comes out.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, FromRedisValue, RedisError, Script, ScriptInvocation};

use super::{
    permit::Settlement,
    scripts::Scripts,
    settings::{GateSettings, LimitSettings, millis},
    verdict::{Effect, Reason, State},
};
use crate::{
    batch::{Batch, Load},
    connection::Connection,
    keys::GateKeys,
};

/// Beyond what any model takes; and what the scripts can count with.
const MOST_TOKENS: u64 = 1_000_000_000;

/// Permits, or ends of calls, that one script handles at most.
const MOST: Load = Load {
    requests: 64,
    bytes: usize::MAX,
};

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

/// A request for a permit.
struct Request {
    id: Arc<str>,
    estimated_tokens: u64,
}

/// The end of a call.
struct End {
    id: Arc<str>,
    settlement: Settlement,
}

/// One gate in Redis. Calls that come together are asked for, and settled, together.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) desk: Arc<Desk>,
    /// How long a call waits for its gate, at most: then Redis counts as away.
    deadline: Duration,
    requests: Batch<Request, Result<Answer, RedisError>>,
    ends: Batch<End, Result<Settled, RedisError>>,
}

/// What `admit.lua` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
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
pub(super) enum Verdict {
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
    },
}

/// What settling did, here or in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) effect: Effect,
    /// The state of the breaker now.
    pub(super) state: State,
    /// Failures or successes that count now, if this outcome was counted.
    pub(super) count: u32,
}

/// What `control.lua` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) before: State,
    pub(super) state: State,
    pub(super) failures: u32,
    pub(super) successes: u32,
    pub(super) opened_at: Option<u64>,
    pub(super) attempts: u32,
    pub(super) not_closed_since: Option<u64>,
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) throttled_until: u64,
    pub(super) now: u64,
}

/// What an operator wants of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Status,
    Close,
    Open,
}

impl Wire {
    pub(super) fn new(desk: Desk, deadline: Duration) -> Self {
        let desk = Arc::new(desk);
        let (admits, settles) = (desk.clone(), desk.clone());
        // A call that outlasts its askers' patience must not keep those who come after it waiting.
        Self {
            desk,
            deadline,
            requests: Batch::new(
                MOST,
                |_| 0,
                move |requests| {
                    let desk = admits.clone();
                    async move {
                        let answers = tokio::time::timeout(deadline, desk.admit(&requests)).await;
                        one_each(requests.len(), answers.unwrap_or_else(|_| Err(late())))
                    }
                },
            ),
            ends: Batch::new(
                MOST,
                |_| 0,
                move |ends| {
                    let desk = settles.clone();
                    async move {
                        let answers = tokio::time::timeout(deadline, desk.settle(&ends)).await;
                        one_each(ends.len(), answers.unwrap_or_else(|_| Err(late())))
                    }
                },
            ),
        }
    }

    /// Asks for a permit, within the deadline.
    pub(super) async fn admit(
        &self,
        id: impl Into<Arc<str>>,
        estimated_tokens: u64,
    ) -> Result<Answer, RedisError> {
        let id = id.into();
        self.in_time(self.requests.ask(Request { id, estimated_tokens }))
            .await
    }

    /// Settles a permit, within the deadline.
    pub(super) async fn settle(
        &self,
        id: impl Into<Arc<str>>,
        settlement: Settlement,
    ) -> Result<Settled, RedisError> {
        let id = id.into();
        self.in_time(self.ends.ask(End { id, settlement })).await
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Option<Result<T, RedisError>>>,
    ) -> Result<T, RedisError> {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err((ErrorKind::Client, "the gate's call died").into()),
            Err(_elapsed) => Err(late()),
        }
    }
}

fn late() -> RedisError {
    (ErrorKind::Io, "no answer in time").into()
}

/// An answer for each of `count` that asked together.
fn one_each<T: Clone>(
    count: usize,
    answers: Result<Vec<Result<T, RedisError>>, RedisError>,
) -> Vec<Result<T, RedisError>> {
    let error = match answers {
        Ok(answers) if answers.len() == count => return answers,
        Ok(_) => (ErrorKind::UnexpectedReturnType, "not an answer for each call").into(),
        Err(error) => error,
    };
    vec![Err(error); count]
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
    async fn admit(&self, requests: &[Request]) -> Result<Vec<Result<Answer, RedisError>>, RedisError> {
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

    async fn settle(&self, ends: &[End]) -> Result<Vec<Result<Settled, RedisError>>, RedisError> {
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
