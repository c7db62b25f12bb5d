//! The settings of a replica's workers.

use std::{sync::Arc, time::Duration};

use super::outcome::OutcomeRules;
use super::outcome_spool::OutcomeSpool;
use crate::watchdog::LoopProgress;

/// How all queues of a replica are run.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// The rules that turn failures into outcomes.
    pub rules: OutcomeRules,
    /// Where outcomes are kept that Redis does not take while the replica stops; `None`: nowhere.
    pub spool: Option<OutcomeSpool>,
    /// Longest run of one delivery.
    pub deadline: Duration,
    /// How long jobs in flight may go on after the stop signal.
    pub drain: Duration,
    /// How often leases are renewed: a third of how long they last.
    pub renew_every: Duration,
    /// How long a queue without work is left alone, which delays its next job by as much; zero: jobs are announced.
    pub idle_rest: Duration,
    /// How long a loop may make no progress before the process ends with [`EXIT_CODE`](crate::watchdog::EXIT_CODE).
    ///
    /// [`WEDGED_AFTER`](crate::watchdog::WEDGED_AFTER), or less in tests.
    pub wedged_after: Duration,
    /// Further loops to watch, by name, because jobs stop without them.
    pub other_loops: Vec<(&'static str, Arc<LoopProgress>)>,
}
