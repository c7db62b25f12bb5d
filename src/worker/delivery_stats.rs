//! Records facts about a delivery while it runs, and adds them to the metrics when it ends.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use jobs::JobType;

use super::{DeliveryOutcome, claim_pauses::PendingStart};
use crate::{
    deduplication::Part,
    locks::locked,
    queue::EqualJobs,
    telemetry::metrics::{
        QueueCells,
        labels::{CellIndex, JobClass, JobLabel, JobOutcome},
    },
};

/// Facts about a running delivery: its start, its type, whether it was retried.
#[derive(Debug)]
pub struct DeliveryStats {
    claimed: Instant,
    kind: OnceLock<JobType>,
    retried: AtomicBool,
    /// Until its gate has given a verdict.
    starting: Mutex<Option<PendingStart>>,
    /// The jobs that are equal to it, and its part among them.
    equal: Mutex<Option<(EqualJobs, Part)>>,
}

impl Default for DeliveryStats {
    fn default() -> Self {
        Self {
            claimed: Instant::now(),
            kind: OnceLock::new(),
            retried: AtomicBool::new(false),
            starting: Mutex::default(),
            equal: Mutex::default(),
        }
    }
}

impl DeliveryStats {
    /// When it was claimed.
    pub(super) const fn claimed(&self) -> Instant {
        self.claimed
    }

    /// The job's type, once its payload was opened.
    pub(super) fn kind(&self) -> Option<JobType> {
        self.kind.get().copied()
    }

    /// Its payload was opened: it is a job of this type.
    pub fn set_kind(&self, kind: JobType) {
        let _ = self.kind.set(kind); // A delivery is opened once.
    }

    /// It has been claimed, and is on its way to its gate.
    pub(super) fn set_pending_start(&self, starting: PendingStart) {
        *locked(&self.starting) = Some(starting);
    }

    /// Its gate has given a verdict, or it has ended without one.
    pub fn mark_started(&self) {
        locked(&self.starting).take();
    }

    /// It has this part among these equal jobs.
    pub fn is_one_of(&self, equal: EqualJobs, part: Part) {
        *locked(&self.equal) = Some((equal, part));
    }

    /// The jobs that are equal to it, and its part among them.
    pub(super) fn equal(&self) -> Option<(EqualJobs, Part)> {
        locked(&self.equal).clone()
    }

    /// One of its calls is tried again.
    pub fn mark_retried(&self) {
        self.retried.store(true, Ordering::Relaxed);
    }

    /// Counts the end of the delivery; `written` is what was, or should have been, written.
    pub(super) fn count(&self, cells: &QueueCells, outcome: JobOutcome, written: Option<&DeliveryOutcome>) {
        let label = JobLabel(self.kind()).index();
        let class = JobClass(written.and_then(DeliveryOutcome::class));
        cells.jobs[label][outcome.index()][class.index()].add(1);
        cells.seconds[label].observe(self.claimed.elapsed());
        let needed_retries = match outcome {
            JobOutcome::Succeeded | JobOutcome::Failed => self.retried.load(Ordering::Relaxed),
            JobOutcome::Retried => true,
            JobOutcome::Waiting | JobOutcome::Released | JobOutcome::Lost => false,
        };
        if needed_retries {
            cells.retried[label].add(1);
        }
    }
}
