//! Records the progress of the loops and the outcomes of jobs, for health checks and the last log line of a replica.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    locks::locked,
    telemetry::metrics::{QueueCells, labels::JobOutcome},
    watchdog::LoopProgress,
};

/// A loop without progress for this long counts as dead. An idle loop makes progress every fifteen seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// An outage of Redis of this length makes the replica unhealthy. A restart of Redis is shorter and raises no alarm.
pub(crate) const REDIS_ABSENCE: Duration = Duration::from_secs(5);

/// Signs of life of one queue's worker.
#[derive(Debug)]
pub struct WorkerHealth {
    claims: Arc<LoopProgress>,
    renewals: Arc<LoopProgress>,
    away_since: Mutex<Option<Instant>>,
    cells: QueueCells,
}

/// How the deliveries of one or more workers ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeTotals {
    /// Completed.
    pub succeeded: u64,
    /// Dead letters.
    pub failed: u64,
    /// Put off, to be tried again.
    pub put_off: u64,
    /// Given back untouched.
    pub released: u64,
    /// Lost to another replica.
    pub lost: u64,
}

impl OutcomeTotals {
    /// Jobs that came to an end here, well or not.
    pub const fn processed(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// The sums of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            succeeded: self.succeeded + other.succeeded,
            failed: self.failed + other.failed,
            put_off: self.put_off + other.put_off,
            released: self.released + other.released,
            lost: self.lost + other.lost,
        }
    }
}

impl Default for WorkerHealth {
    fn default() -> Self {
        Self {
            claims: Arc::default(),
            renewals: Arc::default(),
            away_since: Mutex::new(None),
            cells: QueueCells::default(),
        }
    }
}

impl WorkerHealth {
    /// The progress of the claim loop.
    pub const fn claims(&self) -> &Arc<LoopProgress> {
        &self.claims
    }

    /// The progress of the renew loop.
    pub const fn renewals(&self) -> &Arc<LoopProgress> {
        &self.renewals
    }

    /// Records whether Redis answered.
    pub fn record_redis(&self, answered: bool) {
        let mut since = locked(&self.away_since);
        if answered {
            *since = None;
        } else {
            since.get_or_insert_with(Instant::now);
        }
    }

    /// The counters for metrics.
    pub const fn cells(&self) -> &QueueCells {
        &self.cells
    }

    /// How long Redis has been away, as far as the loops can tell.
    pub fn redis_away_for(&self) -> Option<Duration> {
        let since = *locked(&self.away_since);
        since.map(|since| since.elapsed())
    }

    /// The outcomes so far, out of the counters for metrics.
    pub fn outcome_totals(&self) -> OutcomeTotals {
        let ended = |outcome| self.cells.ended(outcome, |_| true);
        OutcomeTotals {
            succeeded: ended(JobOutcome::Succeeded),
            failed: ended(JobOutcome::Failed),
            put_off: ended(JobOutcome::Retried) + ended(JobOutcome::Waiting),
            released: ended(JobOutcome::Released),
            lost: ended(JobOutcome::Lost),
        }
    }

    /// The reason why this worker is unhealthy, if it is.
    pub fn problem(&self) -> Option<String> {
        if let Some(away) = self.redis_away_for().filter(|away| *away > REDIS_ABSENCE) {
            return Some(format!("Redis has been away for {} s", away.as_secs()));
        }
        [("claim", &self.claims), ("renew", &self.renewals)]
            .into_iter()
            .map(|(name, pulse)| (name, pulse.silence()))
            .find(|(_, silence)| *silence > SILENCE)
            .map(|(name, silence)| format!("the {name} loop has been silent for {} s", silence.as_secs()))
    }
}
