//! What onlookers read: counts, and one job.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use redis::RedisResult;
use serde_json::Value;

use super::{ApalisBroker, scripts};
use crate::queue::{BrokerError, Counts, JobView, State, WaitingFor, view::read_history};

/// TIME, the first of active, the first of scheduled.
type Waiting = ((u64, u32), Option<Vec<u8>>, Vec<(redis::Value, f64)>);

const A_YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl ApalisBroker {
    pub(super) async fn count_jobs(&self) -> Result<Counts, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::COUNTS.prepare_invoke();
        call.key(&keys.workers).key(&keys.active).key(&keys.done);
        call.key(&keys.dead).key(&keys.scheduled).key(&keys.ended_dead);
        call.arg(&keys.inflight_prefix);
        type Reading = (u64, u64, u64, u64, u64, Option<u64>);
        let (waiting, active, completed, failed, delayed, oldest_failed_ms): Reading =
            self.connection.invoke(&call).await?;
        Ok(Counts {
            waiting,
            active,
            completed,
            failed,
            delayed,
            oldest_failed_ms,
        })
    }

    /// Nothing in this layout tells when a job was added but its id, where that is a ULID, as apalis makes them. What
    /// is due and not yet promoted tells by its time.
    pub(super) async fn age_of_next(&self) -> Result<Duration, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").lindex(&self.keys.active, 0);
        pipeline.zrange_withscores(&self.keys.scheduled, 0, 0);
        let ((seconds, micros), next, due): Waiting = self.connection.query(&pipeline).await?;
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros.into());
        let added = next
            .and_then(|id| std::str::from_utf8(&id).ok()?.parse::<ulid::Ulid>().ok())
            .and_then(|id| id.datetime().duration_since(UNIX_EPOCH).ok());
        let due = due
            .first()
            .and_then(|(_, at)| Duration::try_from_secs_f64(*at).ok());
        let ages = added
            .into_iter()
            .chain(due)
            .map(|since| now.saturating_sub(since));
        // What looks like a ULID of another year is some other text of that length.
        Ok(ages.filter(|age| *age < A_YEAR).max().unwrap_or_default())
    }

    pub(super) async fn find_job(&self, id: &str) -> Result<Option<JobView>, BrokerError> {
        let keys = &self.keys;
        let mut pipeline = redis::pipe();
        pipeline
            .hexists(&keys.data, id)
            .zscore(&keys.scheduled, id)
            .hgetall(keys.meta(id));
        pipeline.lrange(keys.history(id), 0, -1);
        pipeline.zscore(&keys.ended_done, id).zscore(&keys.ended_dead, id);
        type Reading = (
            RedisResult<bool>,
            RedisResult<Option<f64>>,
            RedisResult<HashMap<String, String>>,
            RedisResult<Vec<String>>,
            RedisResult<Option<f64>>,
            RedisResult<Option<f64>>,
        );
        let (known, scheduled, meta, history, done, dead): Reading =
            self.connection.query(pipeline.ignore_errors()).await?;
        // The job's own keys may be of a wrong type: what else is known of it is still told.
        let (known, scheduled) = (known?, scheduled?);
        let (mut meta, history) = (meta.unwrap_or_default(), history.unwrap_or_default());
        if !known && meta.is_empty() {
            return Ok(None);
        }
        let state = match meta.get("status").map(String::as_str) {
            Some("Done") => State::Completed,
            Some("Failed" | "Killed") => State::Failed,
            Some("Running") => State::Active,
            _ if scheduled.is_some() => State::Delayed,
            _ => State::Waiting,
        };
        let outcome = meta
            .remove("result")
            .and_then(|text| serde_json::from_str::<Result<Value, String>>(&text).ok());
        let (result, failed) = match outcome {
            Some(Ok(result)) => (Some(result), None),
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        // A job that ended well keeps no word of what once went wrong.
        let last_error = if state == State::Completed {
            None
        } else {
            meta.remove("error")
        };
        let waiting_for = scheduled
            .filter(|_| state == State::Delayed)
            .map(|due| WaitingFor {
                gate: meta.remove("gate").filter(|gate| !gate.is_empty()),
                reason: last_error.clone(),
                until: (due.max(0.0) * 1000.0) as u64,
            });
        Ok(Some(JobView {
            id: id.to_owned(),
            kind: None,
            state,
            added_at: id.parse::<ulid::Ulid>().ok().map(|id| id.timestamp_ms()),
            // A float to u64 saturates.
            ended_at: match state {
                State::Completed => done.ok().flatten().map(|at| at as u64),
                State::Failed => dead.ok().flatten().map(|at| at as u64),
                State::Waiting | State::Delayed | State::Active => None,
            },
            progress: number(&meta, "progress")
                .and_then(|n| u8::try_from(n).ok())
                .unwrap_or(0)
                .min(100),
            attempts_made: number(&meta, "attempts")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0),
            result,
            error: failed.or(last_error),
            waiting_for,
            history: read_history(&history),
        }))
    }
}

fn number(meta: &HashMap<String, String>, field: &str) -> Option<u64> {
    meta.get(field)?.parse().ok()
}
