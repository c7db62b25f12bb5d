//! Fuzz targets of a job's meta and history.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use hostile::Target;

use super::inspect::{EndTimes, view};
use crate::queue::fuzz::{expect_showable, hash};

/// A job's meta and history: it can be shown and followed.
pub(crate) static APALIS_META: Target = Target::new("apalis_meta", |input| {
    let (meta, history) = hash(input);
    let due = meta
        .get(b"due".as_slice())
        .map(|due| String::from_utf8_lossy(due).parse().unwrap_or(f64::NAN));
    for scheduled in [None, due] {
        let ended = EndTimes {
            done: scheduled,
            dead: scheduled,
        };
        expect_showable(view("1", scheduled, &ended, &meta, &history));
    }
});

#[test]
fn apalis_metas() {
    APALIS_META.run();
}
