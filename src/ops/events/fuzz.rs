//! Whatever a job holds can be told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use super::story::Story;
use crate::queue::{JobView, watch::Update};

/// Tells of a job as it stands, then of what becomes of it; the end is told once.
pub(crate) fn expect_tellable<const N: usize>(view: &JobView, updates: [Update; N]) {
    let (mut story, mut told) = Story::begin("q", view);
    for update in updates {
        told.extend(story.hear(&update));
    }
    assert!(story.ended());
    let ends = told
        .iter()
        .filter(|(name, _)| matches!(*name, "completed" | "failed"));
    assert_eq!(ends.count(), 1, "{told:?}");
}
