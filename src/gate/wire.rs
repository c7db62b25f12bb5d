//! The way to Redis: calls that come together are asked for, and settled, together, and nobody waits for long.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError};

use super::{
    desk::Desk,
    permit::Settlement,
    verdict::{Effect, Reason, State},
};
use crate::batch::{Batch, Load};

/// Permits, or ends of calls, that one script handles at most.
const MOST: Load = Load {
    requests: 64,
    bytes: usize::MAX,
};

/// A request for a permit.
pub(super) struct Request {
    pub(super) id: Arc<str>,
    pub(super) estimated_tokens: u64,
}

/// The end of a call.
pub(super) struct End {
    pub(super) id: Arc<str>,
    pub(super) settlement: Settlement,
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
