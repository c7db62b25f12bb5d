//! What onlookers read: counts, and one job.

use std::collections::HashMap;

use redis::RedisResult;
use serde_json::Value;

use super::{ApalisBroker, scripts};
use crate::queue::{BrokerError, Counts, JobView, State, WaitingFor, view::read_history};

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

    pub(super) async fn find_job(&self, id: &str) -> Result<Option<JobView>, BrokerError> {
        let keys = &self.keys;
        let mut pipeline = redis::pipe();
        pipeline
            .hexists(&keys.data, id)
            .zscore(&keys.scheduled, id)
            .hgetall(keys.meta(id));
        pipeline.lrange(keys.history(id), 0, -1);
        type Reading = (
            RedisResult<bool>,
            RedisResult<Option<f64>>,
            RedisResult<HashMap<String, String>>,
            RedisResult<Vec<String>>,
        );
        let (known, scheduled, meta, history): Reading =
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
            state,
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
