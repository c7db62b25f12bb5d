//! Counts the outcomes of the fleet's jobs by the minute, in one hash in Redis. From it come rates over all replicas,
//! and the time since which a rate holds. A replica adds its counts every few seconds, and only if they have changed,
//! so no job needs an extra call.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use redis::RedisError;
use tokio::sync::Mutex;

use crate::{
    connection::Connection,
    gate::counters::COUNTERS,
    keys::FLEET_MINUTES,
    script::Script,
    telemetry::metrics::labels::{JobClass, JobOutcome},
    worker::QueueWorker,
};

static ADD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("add_outcomes.lua")));

/// Minutes that are kept: the longest window, and as much again to tell since when it has been so.
const KEEP: u64 = 120;
/// How many counts a minute has.
const COUNTS: usize = 6;

/// Outcomes of jobs in a span of time. The order of the fields is that of the counts in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// Completed.
    pub succeeded: u64,
    /// Dead letters.
    pub failed: u64,
    /// Of them, those that were wrong themselves.
    pub permanent: u64,
    /// Deliveries that completed, failed or used up an attempt.
    pub tried: u64,
    /// Of them, those that needed another try.
    pub retried: u64,
    /// Moves of breakers.
    pub transitions: u64,
}

impl OutcomeCounts {
    const fn to_array(self) -> [u64; COUNTS] {
        [
            self.succeeded,
            self.failed,
            self.permanent,
            self.tried,
            self.retried,
            self.transitions,
        ]
    }

    const fn from_array([succeeded, failed, permanent, tried, retried, transitions]: [u64; COUNTS]) -> Self {
        Self {
            succeeded,
            failed,
            permanent,
            tried,
            retried,
            transitions,
        }
    }

    /// Everything since this process started.
    fn here(workers: &[Arc<QueueWorker>]) -> Self {
        let mut all = Self {
            transitions: COUNTERS.fleet_transitions(),
            ..Self::default()
        };
        for cells in workers.iter().map(|worker| worker.health().cells()) {
            let (succeeded, failed) = (
                cells.ended(JobOutcome::Succeeded, |_| true),
                cells.ended(JobOutcome::Failed, |_| true),
            );
            let permanent = |class: JobClass| class.0 == Some(jobs::FailureClass::Permanent);
            all.succeeded += succeeded;
            all.failed += failed + cells.recovered[1].get();
            all.permanent += cells.ended(JobOutcome::Failed, permanent);
            all.tried += succeeded + failed + cells.ended(JobOutcome::Retried, |_| true);
            all.retried += cells.retried.iter().map(|counter| counter.get()).sum::<u64>();
        }
        all
    }
}

/// The fleet's minutes, by number (since 1970), as far as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MinuteCounts(BTreeMap<u64, [u64; COUNTS]>);

impl MinuteCounts {
    /// Outcomes of the jobs in the `length` minutes up to and with `last`.
    pub fn window(&self, last: u64, length: u64) -> OutcomeCounts {
        let first = (last + 1).saturating_sub(length);
        let mut sum = [0u64; COUNTS];
        for counts in self.0.range(first..=last).map(|(_, counts)| counts) {
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum = sum.saturating_add(*count);
            }
        }
        OutcomeCounts::from_array(sum)
    }

    /// Adds to one minute.
    #[cfg(test)]
    pub(super) fn add(&mut self, minute: u64, came: OutcomeCounts) {
        let sum = self.0.entry(minute).or_default();
        for (sum, count) in sum.iter_mut().zip(came.to_array()) {
            *sum += count;
        }
    }

    /// Parses the fields of the hash, and skips fields of another format.
    fn read(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut minutes = Self::default();
        for (field, count) in fields {
            let place = field
                .split_once(':')
                .and_then(|(minute, place)| Some((minute.parse().ok()?, place.parse::<usize>().ok()?)));
            if let (Some((minute, place)), Ok(count)) = (place, count.parse())
                && place < COUNTS
            {
                minutes.0.entry(minute).or_default()[place] = count;
            }
        }
        minutes
    }
}

/// Reports what this replica's jobs come to.
#[derive(Debug)]
pub struct OutcomeReporter {
    connection: Connection,
    replica: String,
    told: Mutex<ReportedCounts>,
}

#[derive(Debug, Default)]
struct ReportedCounts {
    /// The counts in Redis.
    counted: OutcomeCounts,
    /// A report that may or may not have arrived: it is sent again as it was, before anything newer.
    sent: Option<OutcomeCounts>,
    number: u64,
}

impl OutcomeReporter {
    /// A reporter for `replica`, whose name no other one bears.
    pub fn new(connection: Connection, replica: &str) -> Self {
        Self {
            connection,
            replica: replica.to_owned(),
            told: Mutex::default(),
        }
    }

    /// Tells Redis what has happened since the last report, if anything has.
    ///
    /// # Errors
    /// Redis's; the report is kept.
    pub async fn report(&self, workers: &[Arc<QueueWorker>]) -> Result<(), RedisError> {
        let mut told = self.told.lock().await;
        // Two rounds at most: one that was sent before, and what is new.
        for _ in 0..2 {
            let total = match told.sent {
                Some(total) => total,
                None => {
                    let total = OutcomeCounts::here(workers);
                    if total == told.counted {
                        return Ok(());
                    }
                    told.number += 1;
                    told.sent = Some(total);
                    total
                }
            };
            let mut call = ADD.prepare_invoke();
            call.key(self.connection.named(FLEET_MINUTES))
                .arg(&self.replica)
                .arg(told.number)
                .arg(KEEP);
            for (total, counted) in total.to_array().into_iter().zip(told.counted.to_array()) {
                call.arg(total.saturating_sub(counted));
            }
            self.connection.invoke::<u8>(&call).await?;
            told.counted = total;
            told.sent = None;
        }
        Ok(())
    }

    /// The fleet's minutes, and the time by Redis's clock, ms.
    ///
    /// # Errors
    /// Redis's.
    pub async fn read(&self) -> Result<(MinuteCounts, u64), RedisError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").hgetall(self.connection.named(FLEET_MINUTES));
        let ((seconds, micros), fields): ((u64, u64), Vec<(String, String)>) =
            self.connection.query(&pipeline).await?;
        Ok((MinuteCounts::read(fields), seconds * 1000 + micros / 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_its_minutes_and_no_other() {
        let field = |field: &str, count: &str| (field.to_owned(), count.to_owned());
        let minutes = MinuteCounts::read([
            field("100:0", "5"),
            field("101:0", "7"),
            field("101:5", "2"),
            field("102:1", "1"),
            field("101:6", "9"),
            field("last:r", "1 101"),
            field("x:y:z", "1"),
            field("102:0", "many"),
        ]);
        let came = minutes.window(101, 1);
        assert_eq!((came.succeeded, came.transitions, came.failed), (7, 2, 0));
        assert_eq!(minutes.window(102, 3).succeeded, 12);
        assert_eq!(minutes.window(102, 3).failed, 1);
        assert_eq!(minutes.window(0, 60), OutcomeCounts::default());
    }

    #[test]
    fn counts_keep_their_places() {
        let came = OutcomeCounts::from_array([1, 2, 3, 4, 5, 6]);
        assert_eq!(came.to_array(), [1, 2, 3, 4, 5, 6]);
    }
}
