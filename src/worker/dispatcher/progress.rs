//! Reports retries and progress to the job's queue.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use jobs::{Failure, redaction::conceal};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    gate::DeploymentGates,
    guard::CallObserver,
    locks::locked,
    queue::{HistoryNote, WriteResult},
    retry::BackoffDelay,
    worker::Assignment,
};

/// Progress is written to Redis this often at most. A retry always writes, because it adds to the job's history.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Reports retries and progress to the job's queue.
pub(super) struct ProgressReporter<'a> {
    assignment: &'a Assignment,
    replica: &'a str,
    shown: Mutex<ShownProgress>,
    /// A client follows the job, as far as it is known.
    followed_until: Mutex<Option<Instant>>,
}

/// How long a job that is followed is taken to be followed without another look.
const LOOK_FOR_FOLLOWERS_EVERY: Duration = Duration::from_secs(15);

/// The progress that the queue shows.
#[derive(Default)]
struct ShownProgress {
    percent: u8,
    written: Option<Instant>,
}

impl ShownProgress {
    /// The percentage to write for a report of `percent`: progress never falls.
    fn raise(&mut self, percent: u8) -> u8 {
        self.percent = self.percent.max(percent.min(95));
        self.written = Some(Instant::now());
        self.percent
    }

    /// The same for a report that is only worth a write when it shows more, and not too often.
    fn raise_if_due(&mut self, percent: u8) -> Option<u8> {
        let is_due = percent.min(95) > self.percent.max(10)
            && self
                .written
                .is_none_or(|written| written.elapsed() >= PROGRESS_EVERY);
        is_due.then(|| self.raise(percent))
    }
}

impl<'a> ProgressReporter<'a> {
    pub(super) fn new(assignment: &'a Assignment, replica: &'a str) -> Self {
        Self {
            assignment,
            replica,
            shown: Mutex::default(),
            followed_until: Mutex::default(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, ShownProgress> {
        locked(&self.shown)
    }

    async fn is_followed(&self) -> bool {
        let known = || locked(&self.followed_until);
        if known().is_some_and(|until| Instant::now() < until) {
            return true;
        }
        let Assignment { delivery, broker, .. } = self.assignment;
        let is_followed = broker.partial_results().is_followed(&delivery.lease.id).await;
        *known() = is_followed.then(|| Instant::now() + LOOK_FOR_FOLLOWERS_EVERY);
        is_followed
    }

    async fn write(&self, percent: u8, note: Option<&HistoryNote>) {
        let Assignment {
            delivery,
            broker,
            stops,
            ..
        } = self.assignment;
        match broker.progress(&delivery.lease, percent, note).await {
            Ok(WriteResult::Applied) => {}
            Ok(WriteResult::Lost) => {
                warn!("the job's lease is lost: it is stopped");
                stops.abort.cancel();
            }
            // The job goes on: progress is a courtesy, the result is not.
            Err(error) => warn!(%error, "progress is not reported"),
        }
    }
}

#[async_trait]
impl CallObserver for ProgressReporter<'_> {
    async fn retrying(&self, nth: u8, failure: &Failure, delay: BackoffDelay) {
        let Assignment { delivery, stats, .. } = self.assignment;
        stats.mark_retried();
        let note = HistoryNote {
            attempt: delivery.attempt,
            r#try: u32::from(nth),
            class: failure.class().as_str().to_owned(),
            cause: conceal(&failure.to_string()).into_owned(),
            delay_ms: Some(u64::try_from(delay.total().as_millis()).unwrap_or(u64::MAX)),
            replica: self.replica.to_owned(),
        };
        let percent = self.shown().raise(10u8.saturating_add(nth.saturating_mul(5)));
        self.write(percent, Some(&note)).await;
    }

    async fn progressed(&self, percent: u8) {
        let due = self.shown().raise_if_due(percent);
        if let Some(percent) = due {
            self.write(percent, None).await;
        }
    }

    async fn has_parts(&self, write: &(dyn Fn() -> String + Sync)) {
        let Assignment { delivery, broker, .. } = self.assignment;
        if self.is_followed().await {
            let (parts, claim) = (write(), broker.proof_of(&delivery.lease));
            broker
                .partial_results()
                .show(&delivery.lease.id, &claim, &conceal(&parts))
                .await;
        }
    }

    fn asked(&self, gates: &Arc<DeploymentGates>, refused: Option<Duration>) {
        self.assignment.stats.mark_started();
        // The owner of a job counts only where a limit makes jobs wait.
        if gates.limits_requests()
            && let Some(owner) = self.assignment.broker.owner(&self.assignment.delivery)
        {
            self.assignment.claim_pauses.record_owner(owner, gates);
        }
        if let Some(wait) = refused {
            self.assignment.claim_pauses.pause_for_limit(gates, wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_never_falls_and_is_written_once_a_second_at_most() {
        let mut shown = ShownProgress::default();
        assert_eq!(shown.raise(20), 20);
        assert_eq!(shown.raise(15), 20, "the first retry of a second call");
        assert_eq!(shown.raise_if_due(50), None, "too early");
        tokio::time::advance(PROGRESS_EVERY).await;
        assert_eq!(shown.raise_if_due(20), None);
        assert_eq!(shown.raise_if_due(255), Some(95));
        assert_eq!(
            ShownProgress::default().raise_if_due(10),
            None,
            "shown since the start"
        );
    }
}
