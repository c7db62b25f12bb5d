//! What an operator does to jobs: list, retry, remove. First what every broker promises, whatever its layout; then that
//! it is as BullMQ's own library does it (`node`), and how it is done from a shell and over HTTP (`ops`).

mod list;
mod node;
mod ops;
mod remove;
mod retry;
mod strange;

use std::time::Duration;

use backend_worker::queue::{
    ClaimNumber, HistoryNote, JobPage, JobState, Layout, Lease, ListCursor, ListQuery, Postponement,
    RetryOrder,
};

use crate::{
    broker_contract::{Fixture, note, one},
    support::enqueue,
};

const FIRST: ClaimNumber = ClaimNumber::FIRST;

fn order(id: &str) -> RetryOrder<'_> {
    RetryOrder {
        id,
        by: "op",
        reset_attempts: false,
    }
}

fn failed<'a>(after: Option<&'a ListCursor>, limit: usize) -> ListQuery<'a> {
    ListQuery {
        state: JobState::Failed,
        kind: None,
        since: None,
        after,
        limit,
    }
}

fn ids(page: &JobPage) -> Vec<&str> {
    page.jobs.iter().map(|job| job.id.as_str()).collect()
}

fn transient() -> HistoryNote {
    HistoryNote {
        delay_ms: None,
        ..note()
    }
}

/// Enqueues, claims and fails a job.
async fn bury(f: &Fixture, id: &str, number: ClaimNumber) {
    enqueue(&*f.a, id).await;
    let lease = one(&*f.a, number).await;
    f.a.fail(&lease, "no", Some(&transient())).await.unwrap();
}

/// Puts a claimed job off for an hour.
async fn put_off(f: &Fixture, lease: &Lease) {
    let later = Postponement {
        delay: Duration::from_secs(3600),
        counts: true,
        reason: "x",
        gate: None,
        note: None,
    };
    f.a.retry_at(lease, later).await.unwrap();
}

/// Claim numbers, one after the other.
fn numbers() -> impl FnMut() -> ClaimNumber {
    let mut number = FIRST;
    move || {
        let this = number;
        number = number.next();
        this
    }
}

/// Names of all keys of the queue.
async fn keys(f: &Fixture) -> Vec<String> {
    let mut keys: Vec<String> = f.redis.ask(&["KEYS", "*"]).await;
    keys.sort();
    keys
}

/// The key that lists dead letters by their time.
fn dead_key(f: &Fixture) -> &'static str {
    match f.a.layout() {
        Layout::Bullmq => "bull:q:failed",
        Layout::Apalis => "q:ended:dead",
    }
}
