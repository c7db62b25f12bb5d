//! Whatever a job holds can be told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use super::timeline::JobTimeline;
use crate::queue::{JobSnapshot, watch::JobUpdate};

/// Reports a job's state and its updates as events, and checks that the end is reported once.
pub(crate) fn expect_tellable<const N: usize>(view: &JobSnapshot, updates: [JobUpdate; N]) {
    let (mut story, mut told) = JobTimeline::begin("q", view);
    for update in updates {
        told.extend(story.hear(&update));
    }
    assert!(story.ended());
    let ends = told
        .iter()
        .filter(|(name, _)| matches!(*name, "completed" | "failed"));
    assert_eq!(ends.count(), 1, "{told:?}");
}
