//! Read-only views of a queue in this layout: counts, lists, one job, and its place in the line.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use redis::RedisResult;
use serde::Deserialize;
use serde_json::Value;

use super::{ApalisBroker, scripts};
use crate::{
    keys::WaitingLine,
    queue::{
        BrokerError, INLINE_BYTES, JobPage, JobSnapshot, JobState, LinePosition, ListQuery, ListedJob,
        QueueCounts, QueueInspector, WaitingFor, admin::read_page, fair::standing, snapshot::read_history,
    },
};

/// TIME, the first of active, the first of scheduled.
type LineHeads = ((u64, u32), Option<Vec<u8>>, Vec<(redis::Value, f64)>);

/// A job's meta hash. Any Redis client can write to it, so every field is untrusted bytes.
pub(super) type MetaFields = HashMap<Vec<u8>, Vec<u8>>;

const A_YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// Bytes of payloads after which a list reads no further job.
const LIST_BYTES: usize = 1024 * 1024;

/// The fields of a payload that a list reads.
#[derive(Deserialize)]
struct TypeAndSource {
    #[serde(rename = "type")]
    kind: String,
}

#[async_trait]
impl QueueInspector for ApalisBroker {
    fn waiting_lines(&self) -> Vec<WaitingLine> {
        vec![WaitingLine {
            key: self.keys.active.clone(),
            counted_by: "LLEN",
        }]
    }

    async fn counts(&self) -> Result<QueueCounts, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::COUNTS.prepare_invoke();
        call.key(&keys.workers).key(&keys.active).key(&keys.done);
        call.key(&keys.dead).key(&keys.scheduled).key(&keys.ended_dead);
        call.key(&keys.paused).arg(&keys.inflight_prefix);
        type Reading = (u64, u64, u64, u64, u64, Option<u64>, bool);
        let (waiting, active, completed, failed, delayed, oldest_failed_ms, paused): Reading =
            self.connection.invoke(&call).await?;
        Ok(QueueCounts {
            paused,
            waiting,
            active,
            completed,
            failed,
            delayed,
            oldest_failed_ms,
        })
    }

    /// In this layout only an id that is a ULID, as apalis creates them, shows when a job was added. A due job that is
    /// not yet promoted shows it by its due time.
    async fn oldest_waiting(&self) -> Result<Duration, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").lindex(&self.keys.active, 0);
        pipeline.zrange_withscores(&self.keys.scheduled, 0, 0);
        let ((seconds, micros), next, due): LineHeads = self.connection.query(&pipeline).await?;
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
        // An id that parses as a ULID of another year is some other text of that length.
        Ok(ages.filter(|age| *age < A_YEAR).max().unwrap_or_default())
    }

    async fn line_position(&self, id: &str) -> Result<LinePosition, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::LINE_POSITION.prepare_invoke();
        call.key(&keys.active)
            .key(&keys.data)
            .key(&keys.scheduled)
            .key(&keys.fair);
        call.arg(id).arg(self.fairness()).arg(&keys.meta_prefix);
        Ok(standing(self.connection.invoke(&call).await?))
    }

    async fn find(&self, id: &str) -> Result<Option<JobSnapshot>, BrokerError> {
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
            RedisResult<MetaFields>,
            RedisResult<Vec<Vec<u8>>>,
            RedisResult<Option<f64>>,
            RedisResult<Option<f64>>,
        );
        let (known, scheduled, meta, history, done, dead): Reading =
            self.connection.query(pipeline.ignore_errors()).await?;
        // The job's own keys may be of a wrong type: what else is known of it is still told.
        let (known, scheduled) = (known?, scheduled?);
        let (meta, history) = (meta.unwrap_or_default(), history.unwrap_or_default());
        if !known && meta.is_empty() {
            return Ok(None);
        }
        let ended = EndTimes {
            done: done.ok().flatten(),
            dead: dead.ok().flatten(),
        };
        Ok(Some(view(id, scheduled, &ended, &meta, &history)))
    }

    async fn kind(&self, id: &str) -> Result<Option<String>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget(&self.keys.data, id);
        let (payload,): (Option<Vec<u8>>,) = self.connection.query(&pipeline).await?;
        Ok(payload.and_then(|payload| Some(serde_json::from_slice::<TypeAndSource>(&payload).ok()?.kind)))
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::LIST.prepare_invoke();
        call.key(&keys.active).key(&keys.scheduled).key(&keys.done);
        call.key(&keys.dead).key(&keys.ended_done).key(&keys.ended_dead);
        call.key(&keys.data).key(&keys.leases).key(&keys.workers);
        query.write(&mut call);
        call.arg(&keys.meta_prefix)
            .arg(&keys.history_prefix)
            .arg(&keys.inflight_prefix)
            .arg(LIST_BYTES)
            .arg(INLINE_BYTES);
        let mut page = read_page(self.connection.invoke(&call).await?)?;
        self.read_large(&mut page).await?;
        if let Some(kind) = query.kind {
            page.jobs.retain(|job| job.kind.as_deref() == Some(kind));
        }
        Ok(page)
    }
}

impl ApalisBroker {
    /// Tells the type of those jobs whose payloads are too large for a script.
    async fn read_large(&self, page: &mut JobPage) -> Result<(), BrokerError> {
        let unknown: Vec<&mut ListedJob> = page.jobs.iter_mut().filter(|job| job.kind.is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for job in &unknown {
            pipeline.cmd("HSTRLEN").arg(&self.keys.data).arg(&job.id);
        }
        let sizes: Vec<usize> = self.connection.query(&pipeline).await?;
        for (job, size) in unknown.into_iter().zip(sizes) {
            if size > INLINE_BYTES {
                job.kind = self.kind(&job.id).await?;
            }
        }
        Ok(())
    }
}

/// When a job ended, ms, as the lists of ended jobs have it.
#[derive(Debug, Default)]
pub(super) struct EndTimes {
    pub(super) done: Option<f64>,
    pub(super) dead: Option<f64>,
}

/// A job as it was found: when it is due, when it ended, its meta, its history.
pub(super) fn view(
    id: &str,
    scheduled: Option<f64>,
    ended: &EndTimes,
    meta: &MetaFields,
    history: &[Vec<u8>],
) -> JobSnapshot {
    let text = |field: &str| {
        meta.get(field.as_bytes())
            .map(|bytes| String::from_utf8_lossy(bytes))
    };
    let number = |field: &str| text(field).and_then(|text| text.parse::<u64>().ok());
    let state = match text("status").as_deref() {
        Some("Done") => JobState::Completed,
        Some("Failed" | "Killed") => JobState::Failed,
        Some("Running") => JobState::Active,
        _ if scheduled.is_some() => JobState::Delayed,
        _ => JobState::Waiting,
    };
    let outcome = text("result").and_then(|text| serde_json::from_str::<Result<Value, String>>(&text).ok());
    let (result, failed) = match outcome {
        Some(Ok(result)) => (Some(result), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    // A job that ended well keeps no word of what once went wrong.
    let last_error = text("error")
        .filter(|_| state != JobState::Completed)
        .map(Cow::into_owned);
    let waiting_for = scheduled
        .filter(|_| state == JobState::Delayed)
        .map(|due| WaitingFor {
            gate: text("gate").filter(|gate| !gate.is_empty()).map(Cow::into_owned),
            reason: last_error.clone(),
            // A float to u64 saturates.
            until: (due.max(0.0) * 1000.0) as u64,
        });
    let history: Vec<_> = history
        .iter()
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    JobSnapshot {
        id: id.to_owned(),
        kind: text("type").map(Cow::into_owned),
        state,
        added_at: id.parse::<ulid::Ulid>().ok().map(|id| id.timestamp_ms()),
        // A float to u64 saturates.
        ended_at: match state {
            JobState::Completed => ended.done.map(|at| at as u64),
            JobState::Failed => ended.dead.map(|at| at as u64),
            JobState::Waiting | JobState::Delayed | JobState::Active => None,
        },
        progress: number("progress").map_or(0, |n| n.min(100) as u8),
        attempts_made: number("attempts")
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        result,
        error: failed.or(last_error),
        waiting_for,
        line: None,
        history: read_history(&history),
    }
}
