//! Read-only views of a queue: counts, and single jobs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{EnumCount, VariantArray};

use super::HistoryNote;

/// How many jobs a queue holds in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueCounts {
    /// True if the queue is paused: workers claim none of its jobs.
    pub paused: bool,
    /// Ready to run.
    pub waiting: u64,
    /// Claimed.
    pub active: u64,
    /// Ended well, and still kept.
    pub completed: u64,
    /// Dead letters.
    pub failed: u64,
    /// Waiting for a time.
    pub delayed: u64,
    /// How long ago the oldest dead letter failed, ms by Redis's clock.
    #[serde(rename = "oldestFailedMs", skip_serializing_if = "Option::is_none")]
    pub oldest_failed_ms: Option<u64>,
}

/// How long ago a time of Redis's clock was, of which `first` is the id and ms of a zset's first entry.
pub(super) fn age(first: &[(Vec<u8>, f64)], (seconds, micros): (u64, u64)) -> Option<u64> {
    let (_, at) = first.first()?;
    // A float to u64 saturates: a score may be anything.
    Some((seconds * 1000 + micros / 1000).saturating_sub(*at as u64))
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, EnumCount, VariantArray)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Ready to run.
    Waiting,
    /// Waiting for a time.
    Delayed,
    /// Claimed by a replica.
    Active,
    /// Ended well.
    Completed,
    /// Dead letter.
    Failed,
}

impl JobState {
    /// All of them.
    #[allow(clippy::expect_used, reason = "the compiler evaluates it")]
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().expect("there are as many");

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delayed => "delayed",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no state.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no state (waiting, delayed, active, completed, failed)")]
pub struct UnknownState(String);

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| UnknownState(name.to_owned()))
    }
}

/// A job as an onlooker sees it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSnapshot {
    /// The job's id.
    pub id: String,
    /// Its type, where a field beside the payload holds it; [`QueueInspector::kind`](super::QueueInspector::kind) reads the payload,
    /// too.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where it stands.
    pub state: JobState,
    /// When it was added, ms since 1970, where the layout or its id shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_at: Option<u64>,
    /// When it ended, ms since 1970 by Redis's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// 0 to 100.
    pub progress: u8,
    /// Attempts used up.
    pub attempts_made: u32,
    /// The result of a completed job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why the job failed, or went wrong the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The reason for which a delayed job waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// Position of a waiting job in its line, where it was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<LineView>,
    /// Failed attempts so far, oldest first.
    pub history: Vec<HistoryLine>,
}

/// Position of a job in the line of waiting jobs: an estimate, since other jobs join the line and leave it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinePosition {
    /// How many jobs are taken before it, where that can be told.
    pub ahead: Option<u64>,
    /// How many jobs wait.
    pub waiting: u64,
    /// Owners of these, as far as they were counted.
    pub owners: u64,
}

/// A waiting job's position in its line, and the limit that the line waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LineView {
    /// Its place in the order in which jobs start, from 1: an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// How many jobs wait in the line.
    pub waiting: u64,
    /// The limit that the line waits for, in words, where one is exhausted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// When it is expected to start, ms since 1970 by Redis's clock, where a limit of requests sets the pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_start: Option<u64>,
}

/// The reason for which a delayed job waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitingFor {
    /// The gate, by its provider's name; absent for a retry, or a job that is not due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when, ms since 1970 by Redis's clock.
    pub until: u64,
}

/// A [`HistoryNote`] with its time.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryLine {
    /// When, ms since 1970 by Redis's clock; of what happened several times, the last.
    pub at: u64,
    /// How often it happened in a row, where that is more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// When it first happened, where it did more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The failed attempt, or the retry by hand.
    #[serde(flatten)]
    pub note: HistoryNote,
}

/// Fields that the scripts add to a repeated note.
#[derive(Debug, Default, Deserialize)]
struct NoteRepeats {
    times: Option<u64>,
    since: Option<u64>,
}

/// Reads a history back: `<ms> <note as JSON>`. Lines of another make are left out.
pub(super) fn read_history(lines: &[String]) -> Vec<HistoryLine> {
    let read = |line: &String| {
        let (at, note) = line.split_once(' ')?;
        let NoteRepeats { times, since } = serde_json::from_str(note).unwrap_or_default();
        Some(HistoryLine {
            at: at.parse().ok()?,
            times,
            since,
            note: serde_json::from_str::<HistoryNote>(note).ok()?,
        })
    };
    lines.iter().filter_map(read).collect()
}
