//! Children tell their parents how they ended, as Node's FlowProducer has it: this worker runs both.

use std::sync::Arc;

use backend_worker::{queue::Broker, worker::DeliveryOutcome};
use jobs::Failure;
use serde_json::{Value, json};

use crate::support::{Node, RunningReplica, Script, TestRedis, options, replica};

/// A parent with the children `good` and `bad`, which fails; `flags` are the bad one's.
struct Family {
    node: Node,
    running: Option<RunningReplica>,
    script: Arc<Script>,
    broker: Arc<dyn Broker>,
    _redis: TestRedis,
}

impl Family {
    async fn with(flags: Value) -> Self {
        let redis = TestRedis::start().await;
        let node = Node::start(&redis, "q").await;
        let broker = redis.bullmq("q", "w");
        let script = Script::new(|assignment| async move {
            let id = assignment.delivery.lease.id.clone();
            if id.starts_with("bad") {
                options()
                    .rules
                    .of(&Failure::permanent("a bad child"), &assignment.delivery, 1)
            } else {
                DeliveryOutcome::Completed(format!("{{\"of\":\"{id}\"}}"))
            }
        });
        let child = |id: &str, flags: &Value| {
            let mut opts = flags.clone();
            opts["jobId"] = json!(id);
            json!({"name": "process-image", "queueName": "q", "data": {}, "opts": opts})
        };
        let tree = json!({
            "name": "process-image", "queueName": "q", "data": {}, "opts": {"jobId": "parent"},
            "children": [child("good", &json!({})), child("bad", &flags)],
        });
        node.ask("flow", tree).await;
        let running = Some(replica(broker.clone(), 2, script.clone(), &options()));
        Self {
            node,
            running,
            script,
            broker,
            _redis: redis,
        }
    }

    async fn end(mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn a_parent_runs_after_its_children_and_reads_their_results() {
    for flags in [
        json!({"ignoreDependencyOnFailure": true}),
        json!({"removeDependencyOnFailure": true}),
    ] {
        let family = Family::with(flags).await;
        family.node.until("parent", "completed").await;
        let values = family.node.ask("children", json!({"id": "parent"})).await;
        assert_eq!(values, json!({"bull:q:good": {"of": "good"}}));
        assert_eq!(family.script.calls.started().last().unwrap(), "parent");
        family
            .node
            .expect_events(
                "parent",
                &["added", "waiting-children", "waiting", "active", "completed"],
            )
            .await;
        family.end().await;
    }
}

#[tokio::test]
async fn a_failed_child_fails_its_parent_unrun_where_it_is_told_to() {
    let family = Family::with(json!({"failParentOnFailure": true})).await;
    let parent = family.node.until("parent", "failed").await;
    assert_eq!(parent["failedReason"], "child bull:q:bad failed");
    assert!(!family.script.calls.started().contains(&"parent".to_owned()));
    family.end().await;
}

#[tokio::test]
async fn a_parent_goes_on_at_once_where_it_is_told_to() {
    let family = Family::with(json!({"continueParentOnFailure": true})).await;
    family.node.until("parent", "completed").await;
    family.end().await;
}

#[tokio::test]
async fn a_parent_waits_for_a_failed_child_that_says_nothing() {
    let family = Family::with(json!({})).await;
    family.node.until("bad", "failed").await;
    family.node.until("good", "completed").await;
    assert_eq!(family.node.look("parent").await["state"], "waiting-children");
    let counts = family.broker.counts().await.unwrap();
    assert_eq!(
        (counts.delayed, counts.waiting),
        (1, 0),
        "it is counted with those that wait"
    );
    family.end().await;
}
