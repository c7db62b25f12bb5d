//! The parts that a job's result has so far, for the clients that follow the job, on whichever replica they are.
//!
//! A follower leaves a mark in Redis, and a worker that finds one writes the parts, as one string that replaces the last. The
//! claim's token fences the write: a replica that has lost a job overwrites no parts of the replica that runs it now.
//! Both keys expire by themselves. A job without followers writes nothing. Parts that are lost cost a view only, because
//! the result holds all of them. Progress wakes the followers, so that no follower polls.

use std::{sync::LazyLock, time::Duration};

use redis::{FromRedisValue, Pipeline, RedisError};
use tracing::debug;

use super::ClaimProof;
use crate::script::Script;
use crate::{connection::Connection, deadline::answered_within, time_format::millis};

pub(super) static SHOW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("show_parts.lua")));

/// How long a follower's mark stays; the follower renews it.
pub const FOLLOWED_FOR: Duration = Duration::from_secs(60);
/// How long parts stay that are not replaced.
const SHOWN_FOR: Duration = Duration::from_secs(120);
/// Longest wait for Redis.
const DEADLINE: Duration = Duration::from_millis(500);
/// Longest parts, bytes. Longer ones are not shown before the result.
const LONGEST: usize = 256 * 1024;

/// The partial results of one queue's jobs.
#[derive(Debug, Clone)]
pub struct PartialResults {
    connection: Connection,
    /// The part of the keys in front of a job's id.
    prefix: String,
}

impl PartialResults {
    /// The partial results of the queue whose keys begin with `prefix`.
    pub(super) fn new(connection: Connection, prefix: &str) -> Self {
        Self {
            connection,
            prefix: format!("{prefix}parts:"),
        }
    }

    fn parts(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    fn mark(&self, id: &str) -> String {
        format!("{}{id}:followed", self.prefix)
    }

    /// Marks a job as followed, for [`FOLLOWED_FOR`].
    pub async fn follow(&self, id: &str) {
        let mut call = redis::pipe();
        call.cmd("SET").arg(self.mark(id)).arg(1);
        call.arg("PX").arg(millis(FOLLOWED_FOR)).ignore();
        let _: Option<()> = self.ask(&call).await;
    }

    /// Returns true if a client follows the job.
    pub async fn is_followed(&self, id: &str) -> bool {
        let mut call = redis::pipe();
        call.exists(self.mark(id));
        self.ask::<(bool,)>(&call)
            .await
            .is_some_and(|(followed,)| followed)
    }

    /// Replaces the parts of a job's result, a JSON array, as long as `claim` holds the job.
    pub async fn show(&self, id: &str, claim: &ClaimProof, parts: &str) {
        if parts.len() > LONGEST {
            return;
        }
        let mut call = SHOW.prepare_invoke();
        call.key(self.parts(id)).key(&claim.claim);
        call.arg(&*claim.token)
            .arg(u8::from(!claim.leases.is_empty()))
            .arg(parts)
            .arg(millis(SHOWN_FOR));
        if answered(self.connection.invoke(&call)).await == Some(false) {
            debug!(
                id,
                "the parts of a result are not shown: another claim holds the job"
            );
        }
    }

    /// The parts of a job's result so far; `None` while there are none, or Redis is away.
    pub async fn shown(&self, id: &str) -> Option<String> {
        let mut call = redis::pipe();
        call.get(self.parts(id));
        self.ask::<(Option<String>,)>(&call).await?.0
    }

    async fn ask<T: FromRedisValue>(&self, call: &Pipeline) -> Option<T> {
        answered(self.connection.query::<T>(call)).await
    }
}

/// The answer of Redis; `None` without one in time.
async fn answered<T>(asked: impl Future<Output = Result<T, RedisError>>) -> Option<T> {
    match answered_within(DEADLINE, asked).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            debug!(%error, "the parts of a result are not shown: Redis refused");
            None
        }
        Err(_elapsed) => None,
    }
}
