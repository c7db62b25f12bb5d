//! Every version of BullMQ that an app may have: its producer and its reader, with the options that the web API gives
//! every job, and this worker in between.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{Broker, ClaimNumber},
    worker::DeliveryOutcome,
};
use jobs::Failure;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Node, RunningReplica, Script, TestRedis, eventually, options, replica};

/// Completes each job, but for the first delivery of those called `retried…` and all of those called `bad…`.
fn worker(broker: &Arc<dyn Broker>) -> RunningReplica {
    let script = Script::new(|assignment| async move {
        let delivery = &assignment.delivery;
        let id = &delivery.lease.id;
        if id.starts_with("bad") || (id.starts_with("retried") && delivery.attempt == 1) {
            return options().rules.of(&Failure::transient("503"), delivery, 1);
        }
        DeliveryOutcome::Completed(r#"{"ok":true}"#.to_owned())
    });
    replica(broker.clone(), 2, script, &options())
}

async fn set(version: &str) -> (TestRedis, Node, Arc<dyn Broker>) {
    let redis = TestRedis::start().await;
    let node = Node::start_as(&redis, "q", version).await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    (redis, node, broker)
}

/// What the web API gives every job, and more.
fn with(more: &Value) -> Value {
    let mut opts = json!({
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 20},
        "removeOnComplete": {"age": 3600, "count": 1000},
        "removeOnFail": {"age": 86400},
    });
    opts.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    opts
}

#[rstest]
#[case::v5_1("5.1")]
#[case::v5("5")]
#[case::v6("6")]
#[tokio::test]
async fn jobs_are_read_back_as_they_ended(#[case] version: &str) {
    let (redis, node, broker) = set(version).await;
    let running = worker(&broker);
    for (id, more, attempts, events) in [
        (
            "user-7_card-1",
            json!({}),
            1,
            &["added", "waiting", "active", "completed"][..],
        ),
        (
            "later",
            json!({"delay": 50}),
            1,
            &["added", "delayed", "waiting", "active", "completed"],
        ),
        (
            "retried",
            json!({}),
            2,
            &[
                "added",
                "waiting",
                "active",
                "delayed",
                "waiting",
                "active",
                "completed",
            ],
        ),
        (
            "retried-at-once",
            json!({"backoff": 0, "priority": 3}),
            2,
            &["added", "waiting", "active", "waiting", "active", "completed"],
        ),
    ] {
        node.add(id, with(&more)).await;
        let job = node.until(id, "completed").await;
        assert_eq!(
            (&job["attemptsMade"], &job["attemptsStarted"]),
            (&json!(attempts), &json!(attempts)),
            "{job}"
        );
        assert_eq!(
            (&job["returnvalue"], &job["progress"]),
            (&json!({"ok": true}), &json!(100))
        );
        node.expect_events(id, events).await;
    }
    node.add("bad", with(&json!({"attempts": 2}))).await;
    let job = node.until("bad", "failed").await;
    assert_eq!(
        (&job["failedReason"], &job["attemptsMade"]),
        (
            &json!("The service is temporarily unavailable; please try again later. 503"),
            &json!(2)
        )
    );

    node.ask("pause", json!({})).await;
    node.add("while-paused", with(&json!({}))).await;
    node.add("delayed-while-paused", with(&json!({"delay": 20})))
        .await;
    let waiting = eventually("both wait", async || {
        let counts = node.ask("counts", json!({})).await;
        let waiting = counts["waiting"].as_u64().unwrap() + counts["paused"].as_u64().unwrap_or_default();
        (counts["delayed"] == 0).then_some(waiting)
    })
    .await;
    // v6 has one list of waiting jobs and does not count the other, in which v5 puts jobs that come due during a pause.
    // v6 sees such a job again after its resume.
    assert_eq!(waiting, if version == "6" { 1 } else { 2 });
    node.ask("resume", json!({})).await;
    for id in ["while-paused", "delayed-while-paused"] {
        node.until(id, "completed").await;
    }
    let counts = node.ask("counts", json!({})).await;
    assert_eq!(
        (&counts["completed"], &counts["failed"]),
        (&json!(6), &json!(1)),
        "{counts}"
    );
    running.stop().await;

    for (id, priority) in [("low", 9), ("mid-1", 5), ("mid-2", 5), ("high", 1), ("plain", 0)] {
        node.add(id, with(&json!({"priority": priority}))).await;
    }
    let fresh = redis.bullmq("q", "another");
    fresh.renew(&[]).await.unwrap();
    let claimed = fresh.claim(ClaimNumber::FIRST, 9).await.unwrap();
    let order: Vec<_> = claimed.iter().map(|d| d.lease.id.as_ref()).collect();
    assert_eq!(order, ["plain", "high", "mid-1", "mid-2", "low"]);
}

/// Each way of adding a job is heard by a worker that waits, whatever the version puts into the marker.
#[rstest]
#[case::v5_1("5.1")]
#[case::v5("5")]
#[case::v6("6")]
#[tokio::test]
async fn producers_wake_a_waiting_worker(#[case] version: &str) {
    let (_redis, node, broker) = set(version).await;
    let mut number = ClaimNumber::FIRST;
    let ways = [
        json!({}),
        json!({"priority": 2}),
        json!({"lifo": true}),
        json!({"delay": 30}),
    ];
    for (n, more) in ways.iter().enumerate() {
        let waits = async {
            loop {
                // Longer than any patience: only the job can end the wait.
                assert!(broker.wait(Duration::from_secs(3600)).await.unwrap());
                number = number.next();
                if let Some(delivery) = broker.claim(number, 1).await.unwrap().pop() {
                    return delivery;
                }
            }
        };
        let id = format!("j{n}");
        let both = async { tokio::join!(waits, node.add(&id, with(more))).0 };
        let delivery = tokio::time::timeout(crate::support::PATIENCE, both)
            .await
            .expect("it is woken");
        assert_eq!(*delivery.lease.id, *id);
        broker.complete(&delivery.lease, "1").await.unwrap();
    }
}

/// BullMQ 5.1 writes into the child what later versions write beside the parent's name.
#[rstest]
#[case::v5_1("5.1")]
#[case::v5("5")]
#[case::v6("6")]
#[tokio::test]
async fn a_failed_child_fails_its_parent(#[case] version: &str) {
    let (_redis, node, broker) = set(version).await;
    let job = |id: &str, more: Value| {
        let mut opts = more;
        opts["jobId"] = json!(id);
        json!({"name": "process-image", "queueName": "q", "data": {}, "opts": opts})
    };
    let mut tree = job("parent", json!({}));
    tree["children"] = json!([
        job("bad", json!({"failParentOnFailure": true})),
        job("good", json!({}))
    ]);
    node.ask("flow", tree).await;
    let running = worker(&broker);
    let parent = node.until("parent", "failed").await;
    assert_eq!(parent["failedReason"], "child bull:q:bad failed");
    running.stop().await;
}
