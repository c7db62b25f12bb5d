//! Types for the operator's actions on a queue: pages of jobs, retries of dead letters, removals.

use std::{fmt, str::FromStr, time::Duration};

use redis::{FromRedisValue, ParsingError, Value, from_redis_value};
use serde::Serialize;

use super::{BrokerError, JobState, millis, snapshot::read_history};
use crate::script::ScriptCall;

/// Jobs on one page at most.
const LONGEST_PAGE: usize = 200;
/// Ids that one script reads at most to fill a page, because it blocks Redis for all clients.
const LOOKS: usize = 200;
/// Dead letters that one script puts back, at most: some 25 µs each.
pub(super) const RETRIES: usize = 50;
/// The class of a history line that records a retry by hand; failures use other classes.
const RETRIED: &str = "retried";

/// Which jobs to list.
#[derive(Debug, Clone)]
pub struct ListQuery<'a> {
    /// In which state.
    pub state: JobState,
    /// Of which type; all where none is named.
    pub kind: Option<&'a str>,
    /// Those that have ended no longer than this ago; says nothing about jobs that have not ended.
    pub since: Option<Duration>,
    /// From which place on; the newest first where none is named.
    pub after: Option<&'a ListCursor>,
    /// How many at most, 200 if it is more. An unordered list may give some more.
    pub limit: usize,
}

impl ListQuery<'_> {
    pub(super) fn write(&self, call: &mut ScriptCall<'_>) {
        call.arg(self.state.as_str());
        match self.after {
            Some(place) => call.arg(place.source).arg(&place.at).arg(place.seen),
            None => call.arg(1).arg("").arg(0),
        };
        call.arg(self.limit.clamp(1, LONGEST_PAGE)).arg(LOOKS);
        call.arg(self.kind.unwrap_or_default());
        match self.since {
            Some(since) => call.arg(millis(since)),
            None => call.arg(""),
        };
    }
}

/// A place between two jobs of a list, which holds while others come and go: see `job_pages.lua`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCursor {
    source: u8,
    at: String,
    seen: u64,
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.source, self.at, self.seen)
    }
}

/// The text is no place in a list.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no cursor")]
pub struct InvalidCursor(String);

impl FromStr for ListCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (source, rest) = text.split_once('_')?;
            let (at, seen) = rest.rsplit_once('_')?;
            let known = at.is_empty() || at.parse::<f64>().is_ok_and(|n| !n.is_nan());
            let (source, seen) = (source.parse().ok()?, seen.parse::<u64>().ok()?);
            // Beyond what a script can count there is nothing.
            (known && source > 0 && seen < 1 << 50).then(|| Self {
                source,
                at: at.to_owned(),
                seen,
            })
        };
        read().ok_or_else(|| InvalidCursor(text.to_owned()))
    }
}

/// A job as a list shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedJob {
    /// The job's id.
    pub id: String,
    /// Its type; absent where its payload does not say, or is gone.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Attempts used up.
    pub attempts_made: u32,
    /// When it ended, or is due: ms since 1970 by Redis's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The class of its last failure; absent where its history names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(skip)]
    spot: (u8, String),
}

/// Some jobs of a list.
#[derive(Debug)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<ListedJob>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<ListCursor>,
    /// How many ids were looked at.
    pub seen: u64,
}

impl JobPage {
    /// Where the next page begins once these jobs of this page are no longer in the list.
    pub fn next_without<'a>(&self, gone: impl IntoIterator<Item = &'a ListedJob>) -> Option<ListCursor> {
        let mut next = self.next.clone()?;
        for job in gone {
            if job.spot.0 == next.source && job.spot.1 == next.at {
                next.seen = next.seen.saturating_sub(1);
            }
        }
        Some(next)
    }
}

/// A field of a job. Any Redis client can write to it, so it is untrusted bytes.
type RawText = Option<Vec<u8>>;
/// A job as the scripts list it: id, type, attempts, reason, time, source, score, end of its history.
type ListedRow = (
    Vec<u8>,
    RawText,
    RawText,
    RawText,
    RawText,
    u8,
    String,
    Vec<Vec<u8>>,
);
/// Jobs, the next place, how many ids were looked at.
type ListedRows = (Vec<ListedRow>, Option<(u8, String, u64)>, u64);

pub(super) fn read_page((rows, next, seen): ListedRows) -> Result<JobPage, BrokerError> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let read = |(id, kind, attempts, reason, at, source, score, history): ListedRow| {
        let history: Vec<String> = history.into_iter().map(text).collect();
        let last = read_history(&history).pop().map(|line| line.note.class);
        ListedJob {
            id: text(id),
            kind: kind.map(text).filter(|kind| !kind.is_empty()),
            attempts_made: attempts.and_then(|n| text(n).parse().ok()).unwrap_or(0),
            // A float to u64 saturates.
            at: at.and_then(|n| text(n).parse::<f64>().ok()).map(|n| n as u64),
            class: last.filter(|class| reason.is_some() && class != RETRIED),
            error: reason.map(text),
            spot: (source, score),
        }
    };
    Ok(JobPage {
        jobs: rows.into_iter().map(read).collect(),
        next: next.map(|(source, at, seen)| ListCursor { source, at, seen }),
        seen,
    })
}

/// An order to retry dead letters.
#[derive(Debug, Clone)]
pub struct RetryOrder<'a> {
    /// Unique: the same order, sent again, retries nothing twice.
    pub id: &'a str,
    /// The operator, for the job's history.
    pub by: &'a str,
    /// True if the job gets all of its attempts again; one more otherwise, as BullMQ has it.
    pub reset_attempts: bool,
}

impl RetryOrder<'_> {
    pub(super) fn write(&self, call: &mut ScriptCall<'_>) {
        call.arg(self.id).arg(self.by).arg(u8::from(self.reset_attempts));
    }
}

/// The result of a retry of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryResult {
    /// It went back to the queue, with this sending of the order or an earlier one.
    Done,
    /// The order was carried out before, and the job has failed again since.
    Again,
    /// The job is not a dead letter, or has left the dead letters.
    NotFailed,
    /// There is no job behind the id, or its keys are not what they should be.
    Broken,
}

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalResult {
    /// It is gone, with all that was kept of it.
    Done,
    /// There is none of that id.
    Unknown,
    /// A replica has it.
    Active,
    /// It is the next run of a job scheduler, which would not go on without it.
    Scheduled,
    /// It has children, which would have to go with it.
    Parent,
}

impl FromRedisValue for RetryResult {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        match from_redis_value::<String>(value)?.as_str() {
            "retried" => Ok(Self::Done),
            "again" => Ok(Self::Again),
            "other" => Ok(Self::NotFailed),
            "broken" => Ok(Self::Broken),
            fate => Err(format!("no fate of a retried job: {fate:?}").into()),
        }
    }
}

impl FromRedisValue for RemovalResult {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        match from_redis_value::<String>(value)?.as_str() {
            "removed" => Ok(Self::Done),
            "unknown" => Ok(Self::Unknown),
            "active" => Ok(Self::Active),
            "scheduled" => Ok(Self::Scheduled),
            "parent" => Ok(Self::Parent),
            fate => Err(format!("no fate of a removed job: {fate:?}").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_and_nonsense_refused() {
        for (source, at, seen) in [
            (1, "", 0),
            (2, "1700000000000", 3),
            (1, "-inf", 1),
            (9, "1.5e+300", 7),
        ] {
            let place = ListCursor {
                source,
                at: at.to_owned(),
                seen,
            };
            assert_eq!(place.to_string().parse::<ListCursor>().unwrap(), place);
        }
        for text in [
            "",
            "1",
            "1_",
            "0__0",
            "1_x_0",
            "1_nan_0",
            "1__-1",
            "300__0",
            "1__99999999999999999999",
        ] {
            assert!(text.parse::<ListCursor>().is_err(), "{text}");
        }
    }
}
