//! What Node sees of jobs that its own library adds and this worker runs: states, fields, and events in their order.

mod cluster;
mod outcomes;
mod prefix;
mod queues;

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{ClaimNumber, Postponement},
    worker::DeliveryOutcome,
};
use jobs::{Failure, FailureClass};
use serde_json::{Value, json};

use crate::support::{NodeScene, Script, claim_one, eventually, options, replica};

const FIRST: ClaimNumber = ClaimNumber::FIRST;

/// What the web API gives every job.
fn defaults() -> Value {
    json!({
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 2000},
        "removeOnComplete": {"age": 3600, "count": 1000},
        "removeOnFail": {"age": 86400},
    })
}

/// A handler that fails the first `failures` deliveries, and completes the next.
fn stumbling(class: FailureClass, failures: usize) -> Arc<Script> {
    let left = std::sync::atomic::AtomicUsize::new(failures);
    Script::new(move |assignment| {
        let fails = left
            .fetch_update(
                std::sync::atomic::Ordering::SeqCst,
                std::sync::atomic::Ordering::SeqCst,
                |n| n.checked_sub(1),
            )
            .is_ok();
        async move {
            if fails {
                let failure = Failure::new(class, "the provider \"stumbled\"");
                options().rules.of(&failure, &assignment.delivery, 1)
            } else {
                DeliveryOutcome::Completed(r#"{"ok":true}"#.to_owned())
            }
        }
    })
}

/// The fields that tell how often a job was tried.
fn tries(job: &Value) -> (&Value, &Value, usize) {
    let stacks = job["stacktrace"].as_array().unwrap().len();
    (&job["attemptsMade"], &job["attemptsStarted"], stacks)
}
