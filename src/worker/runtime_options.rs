//! The settings of a replica's workers.

use std::{sync::Arc, time::Duration};

use super::outcome::OutcomeRules;
use crate::watchdog::LoopProgress;

/// How all queues of a replica are run.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// The rules that turn failures into outcomes.
    pub rules: OutcomeRules,
    /// Longest run of one delivery.
    pub deadline: Duration,
    /// How long jobs in flight may go on after the stop signal.
    pub drain: Duration,
    /// How often leases are renewed: a third of how long they last.
    pub renew_every: Duration,
    /// How long a loop may make no progress before the process ends with
    /// [`EXIT_CODE`](crate::watchdog::EXIT_CODE); [`WEDGED_AFTER`](crate::watchdog::WEDGED_AFTER) unless a test is in a hurry.
    pub wedged_after: Duration,
    /// Loops of others, by name, without which the jobs do not get on: they are watched too.
    pub other_loops: Vec<(&'static str, Arc<LoopProgress>)>,
}
