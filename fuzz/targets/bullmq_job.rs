//! Fuzz targets of a job's hash, and of a queue's events.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use std::{sync::Arc, time::Duration};

use hostile::Target;

use super::{claim::delivery, events::news, inspect::view, producer_versions::ProducerVersions};
use crate::queue::{
    QueueBackoff,
    fuzz::{expect_showable, hash},
};

/// Longest wait that a producer's backoff comes to.
const LONGEST_BACKOFF: Duration = Duration::from_secs(365 * 24 * 3600);

/// A job's hash and its log: it can be claimed, shown and followed.
pub(crate) static BULLMQ_JOB: Target = Target::new("bullmq_job", |input| {
    let (fields, log) = hash(input);
    let field = |name: &str| fields.get(name.as_bytes()).cloned();
    let number =
        |name: &str| -> Option<u64> { String::from_utf8_lossy(fields.get(name.as_bytes())?).parse().ok() };
    let row = (
        field("id").unwrap_or_default(),
        field("name").unwrap_or_default(),
        field("data"),
        field("opts").unwrap_or_default(),
        number("atm").unwrap_or(0) as u32,
        number("bw:waited").unwrap_or(0),
        true,
        number("stc").unwrap_or(0) as u32,
        false,
    );
    let token: Arc<str> = "w:1".into();
    if let Ok(delivery) = delivery(row, &token) {
        assert!(delivery.max_attempts >= 1);
        for nth in [0, 1, 2, 64, u32::MAX] {
            let wait = delivery
                .backoff
                .unwrap_or(QueueBackoff::NONE)
                .delay(nth, &mut rand::rng());
            assert!(wait <= LONGEST_BACKOFF, "{wait:?}");
        }
    }
    ProducerVersions::default().record(
        "q",
        &String::from_utf8_lossy(&field("version").unwrap_or_default()),
        0,
    );
    for state in ["completed", "failed", "delayed", "active", "waiting"] {
        expect_showable(view(
            "1",
            (
                state.to_owned(),
                field("progress"),
                field("atm"),
                field("returnvalue"),
                field("failedReason"),
                field("bw:why"),
                field("bw:gate"),
                number("delay"),
                log.clone(),
                field("name"),
                field("timestamp"),
                field("finishedOn"),
            ),
        ));
    }
});

#[test]
fn bullmq_jobs() {
    BULLMQ_JOB.run();
}

/// An event: it says something of a job, or nothing.
pub(crate) static BULLMQ_EVENT: Target = Target::new("bullmq_event", |input| {
    let (fields, _) = hash(input);
    assert!(news(&fields, |_| false).is_none());
    let told = news(&fields, |_| true);
    assert_eq!(told.is_some(), fields.contains_key(b"jobId".as_slice()));
    if let Some(told) = told {
        assert!(told.at_once.is_none() || told.if_gone.is_none());
    }
});

#[test]
fn bullmq_events() {
    BULLMQ_EVENT.run();
}
