//! What a run may leave in Redis: its jobs, and what the queues and gates are made of. No lock, no lease, no permit.

use backend_worker::keys::{ApalisKeys, BullKeys, GateKeys};

use crate::{
    field::{Field, QUEUE},
    support::eventually,
};

/// The gates: breaker and provider.
const GATES: [(&str, &str); 3] = [
    ("openai", "openai"),
    ("azure", "azure-speech"),
    ("azure", "azure-vision"),
];
/// Beginnings of keys that are neither a queue's nor a gate's: ledgers and caches, which end by themselves.
const OURS: &[&str] = &[
    "circuit:",
    "gate:",
    "ratelimit:",
    "ledger:",
    "spend:",
    "system:",
    "usage",
    "idempotency:",
    "dedup:",
    "fleet:",
    "{backend-worker:",
];

/// What should not be there, by name. Leases of replicas that were killed get the time to run out.
pub(crate) async fn leftovers(field: &Field) -> Vec<String> {
    let mut left = permits(field).await;
    let mut cursor = "0".to_owned();
    loop {
        let (next, keys): (String, Vec<String>) = field.order(&["SCAN", &cursor, "COUNT", "1000"]).await;
        for key in keys {
            if let Some(why) = fault_of(&key) {
                left.push(format!("{key}: {why}"));
            }
        }
        if next == "0" {
            return left;
        }
        cursor = next;
    }
}

/// Permits whose lease still runs once those of the dead have run out.
async fn permits(field: &Field) -> Vec<String> {
    let mut left = Vec::new();
    run_out(field, &ApalisKeys::new(QUEUE).leases).await;
    for (breaker, provider) in GATES {
        let keys = GateKeys::new(breaker, provider);
        for zset in [&keys.leases, &keys.probes] {
            run_out(field, zset).await;
        }
        let (leases, data): (u64, u64) = (
            field.order(&["ZCARD", &keys.leases]).await,
            field.order(&["HLEN", &keys.lease_data]).await,
        );
        if leases != data {
            left.push(format!("{}: {data} entries for {leases} leases", keys.lease_data));
        }
    }
    left
}

async fn run_out(field: &Field, leases: &str) {
    eventually(&format!("the leases in {leases} run out"), async || {
        let now: (u64, u64) = field.order(&["TIME"]).await;
        let since = format!("({}", now.0 * 1000 + now.1 / 1000);
        let live: u64 = field.order(&["ZCOUNT", leases, &since, "+inf"]).await;
        (live == 0).then_some(())
    })
    .await;
}

fn fault_of(key: &str) -> Option<&'static str> {
    let (bull, apalis) = (BullKeys::new(QUEUE), ApalisKeys::new(QUEUE));
    if let Some(name) = key.strip_prefix(&bull.prefix) {
        let (job, part) = name.split_once(':').unwrap_or((name, ""));
        return match part {
            _ if job == "bw" && part.starts_with("fair") => Some("turns of a line that is empty"),
            _ if job == "bw" => None,
            "" if [&bull.active]
                .into_iter()
                .chain(&bull.waiting)
                .chain(&bull.delayed)
                .any(|k| k == key) =>
            {
                Some("jobs are in it")
            }
            "" if name == "stalled" => Some("suspects are in it"),
            "" if !BullKeys::is_job_id(name) => None,
            "" | "logs" if job.starts_with("job-bullmq-") => None,
            "lock" => Some("a lock of nobody"),
            _ => Some("foreign"),
        };
    }
    if key == apalis.active || key == apalis.scheduled || key.starts_with(&apalis.inflight_prefix) {
        return Some("jobs are in it");
    }
    if key.starts_with(&apalis.fair) {
        return Some("turns of a line that is empty");
    }
    if let Some(id) = key.strip_prefix(&apalis.meta_prefix) {
        return (!id.starts_with("job-apalis-") || id.contains(':')).then_some("foreign");
    }
    if key.starts_with(&format!("{QUEUE}:")) || OURS.iter().any(|ours| key.starts_with(ours)) {
        return None;
    }
    Some("foreign")
}
