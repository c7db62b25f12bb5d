//! No script runs long, however long the queue is, however many jobs are in flight, however large a payload is. What is
//! counted are commands and scripts: times are `cargo bench --bench depth`'s.

mod chunks;
mod lines;
mod payloads;

use backend_worker::queue::{Broker, ClaimNumber, Lease};

use crate::support::TestRedis;

const FIRST: ClaimNumber = ClaimNumber::FIRST;
/// Commands that a script runs at most: 2 to 5 µs each.
const MOST: u64 = 1000;

/// Commands so far, those of scripts included, and scripts.
async fn commands(redis: &TestRedis) -> (u64, u64) {
    let mut calls = redis.calls_by_command().await;
    let scripts = ["evalsha", "fcall"].map(|command| calls.remove(command).unwrap_or_default());
    (calls.into_values().sum(), scripts.iter().sum())
}

/// Does something, and holds that none of its scripts ran many commands.
async fn bounded<T>(redis: &TestRedis, what: &str, work: impl Future<Output = T>) -> T {
    let before = commands(redis).await;
    let done = work.await;
    let after = commands(redis).await;
    let (ran, scripts) = (after.0 - before.0, after.1 - before.1);
    assert!(scripts > 0, "{what} runs scripts");
    assert!(
        ran / scripts < MOST,
        "{what}: {ran} commands in {scripts} scripts"
    );
    done
}

/// Claims until `count` are held.
async fn claim(broker: &dyn Broker, number: &mut ClaimNumber, count: usize) -> Vec<Lease> {
    let mut held = Vec::new();
    while held.len() < count {
        let claimed = broker.claim(*number, count - held.len()).await.unwrap();
        *number = number.next();
        held.extend(claimed.into_iter().map(|delivery| delivery.lease));
    }
    held
}
