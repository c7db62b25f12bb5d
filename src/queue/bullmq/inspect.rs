//! Read-only views of a queue in this layout: counts, lists, one job, and its place in the line.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{BullmqBroker, scripts};
use crate::{
    keys::WaitingLine,
    queue::{
        BrokerError, INLINE_BYTES, JobPage, JobSnapshot, JobState, LinePosition, ListQuery, QueueCounts,
        QueueInspector, WaitingFor,
        admin::read_page,
        fair::standing,
        snapshot::{age, read_history},
    },
};

/// A job as `find.lua` returns it: state, progress, attempts made, result, failed reason, why it waits, for which gate,
/// until when, log, name, when it was added and ended.
pub(super) type JobRow = (
    String,
    RawText,
    RawText,
    RawText,
    RawText,
    RawText,
    RawText,
    Option<u64>,
    Vec<Vec<u8>>,
    RawText,
    RawText,
    RawText,
);
/// A field of a job. Any Redis client can write to it, so it is untrusted bytes.
type RawText = Option<Vec<u8>>;

#[async_trait]
impl QueueInspector for BullmqBroker {
    fn waiting_lines(&self) -> Vec<WaitingLine> {
        let [wait, _paused, prioritized] = &self.keys.waiting;
        [(wait, "LLEN"), (prioritized, "ZCARD")]
            .map(|(key, counted_by)| WaitingLine {
                key: key.clone(),
                counted_by,
            })
            .to_vec()
    }

    async fn counts(&self) -> Result<QueueCounts, BrokerError> {
        let keys = &self.keys;
        let [wait, held, prioritized] = &keys.waiting;
        let [delayed, parents] = &keys.delayed;
        let mut pipeline = redis::pipe();
        pipeline.llen(wait).llen(held).zcard(prioritized);
        pipeline
            .llen(&keys.active)
            .zcard(&keys.completed)
            .zcard(&keys.failed);
        pipeline
            .zcard(delayed)
            .zcard(parents)
            .hexists(&keys.meta, "paused");
        pipeline.zrange_withscores(&keys.failed, 0, 0).cmd("TIME");
        type Reading = (
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            bool,
            Vec<(Vec<u8>, f64)>,
            (u64, u64),
        );
        let (wait, held, prioritized, active, completed, failed, delayed, parents, paused, oldest, now): Reading =
            self.connection.query(&pipeline).await?;
        Ok(QueueCounts {
            paused,
            waiting: wait + held + prioritized,
            active,
            completed,
            failed,
            delayed: delayed + parents,
            oldest_failed_ms: age(&oldest, now),
        })
    }

    async fn oldest_waiting(&self) -> Result<Duration, BrokerError> {
        let mut call = scripts::OLDEST_WAITING.prepare_invoke();
        call.key(&self.keys.prefix);
        Ok(Duration::from_millis(self.connection.invoke(&call).await?))
    }

    async fn line_position(&self, id: &str) -> Result<LinePosition, BrokerError> {
        let mut call = self.prepare(&scripts::LINE_POSITION);
        call.arg(id).arg(self.fairness());
        Ok(standing(self.connection.invoke(&call).await?))
    }

    async fn find(&self, id: &str) -> Result<Option<JobSnapshot>, BrokerError> {
        let mut call = scripts::FIND.prepare_invoke();
        call.key(&self.keys.prefix).arg(id).arg(INLINE_BYTES);
        let Some((mut row, apart)) = self.connection.invoke::<Option<(JobRow, bool)>>(&call).await? else {
            return Ok(None);
        };
        if apart {
            row.3 = self.field(id.as_bytes(), "returnvalue").await?;
        }
        Ok(Some(view(id, row)))
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError> {
        let mut call = self.prepare(&scripts::LIST);
        query.write(&mut call);
        read_page(self.connection.invoke(&call).await?)
    }
}

/// A job as it was found.
pub(super) fn view(id: &str, row: JobRow) -> JobSnapshot {
    let (state, progress, attempts, result, failed, waits, gate, due, log, name, added, ended) = row;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let number = |bytes: Vec<u8>| std::str::from_utf8(&bytes).ok()?.parse::<u64>().ok();
    let (failed, waits) = (failed.map(text), waits.map(text));
    let state = match state.as_str() {
        "completed" => JobState::Completed,
        "failed" => JobState::Failed,
        "delayed" => JobState::Delayed,
        "active" => JobState::Active,
        _ => JobState::Waiting,
    };
    let (result, error) = match state {
        JobState::Completed => (result.and_then(|json| serde_json::from_slice(&json).ok()), None),
        JobState::Failed => (None, failed),
        _ => (None, waits.or(failed)),
    };
    let waiting_for = due
        .filter(|_| state == JobState::Delayed)
        .map(|until| WaitingFor {
            gate: gate.map(text).filter(|gate| !gate.is_empty()),
            reason: error.clone(),
            until,
        });
    JobSnapshot {
        id: id.to_owned(),
        kind: name.map(text),
        state,
        added_at: added.and_then(number),
        // A job that was retried by hand has the time of its last end still.
        ended_at: ended
            .filter(|_| matches!(state, JobState::Completed | JobState::Failed))
            .and_then(number),
        progress: progress.map_or(0, |json| percent(&json)),
        attempts_made: attempts.and_then(|n| text(n).parse().ok()).unwrap_or(0),
        result,
        error,
        waiting_for,
        line: None,
        history: read_history(&log.into_iter().map(text).collect::<Vec<_>>()),
    }
}

/// Progress is JSON of any kind in this layout: what is no percentage reads as none.
pub(super) fn percent(json: &[u8]) -> u8 {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    // A float to u8 saturates.
    (value.as_f64().unwrap_or(0.0).clamp(0.0, 100.0)) as u8
}
