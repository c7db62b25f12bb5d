//! BullMQ's own classes over ioredis's Cluster, beside this worker on the same Redis Cluster.

use backend_worker::queue::{Broker, BrokerOptions, bullmq::BullmqBroker};

use super::*;
use crate::support::{Node, TestCluster, until_completed};

const PREFIX: &str = "{app}";
const BULK: usize = 100;

#[tokio::test]
async fn jobs_run_on_a_cluster_and_through_a_failover() {
    let cluster = TestCluster::start(3, 3).await;
    let node = Node::start_on_cluster(&cluster, "q", PREFIX).await;
    let broker = BullmqBroker::new(cluster.connection(), "q", "w", BrokerOptions::default());
    let broker: Arc<dyn Broker> = Arc::new(broker.under_prefix(PREFIX));
    node.add("a", json!({"attempts": 3, "backoff": 30})).await;
    let script = stumbling(FailureClass::Transient, 1);
    let running = replica(broker.clone(), 4, script, &options());
    let job = node.until("a", "completed").await;
    assert_eq!(tries(&job), (&json!(2), &json!(2), 1), "{job}");
    let seen = [
        "added",
        "waiting",
        "active",
        "delayed",
        "waiting",
        "active",
        "completed",
    ];
    node.expect_events("a", &seen).await;

    let parent = json!({"name": "process-image", "queueName": "q", "data": {}, "opts": {"jobId": "parent"},
        "children": [{"name": "process-image", "queueName": "q", "data": {}, "opts": {"jobId": "child"}}]});
    node.ask("flow", parent).await;
    node.until("parent", "completed").await;
    let children = node.ask("children", json!({"id": "parent"})).await;
    assert_eq!(children, json!({"{app}:q:child": {"ok": true}}));

    let jobs: Vec<Value> = (0..BULK)
        .map(|n| json!({"name": "process-image", "data": {"n": n}, "opts": {"jobId": format!("j{n}")}}))
        .collect();
    node.ask("addBulk", json!({"jobs": jobs})).await;
    cluster.kill(cluster.owner().await);
    cluster.owner().await;
    until_completed(&*broker, BULK as u64 + 3).await;
    for n in [0, BULK - 1] {
        node.until(&format!("j{n}"), "completed").await;
    }
    node.add("b", json!({})).await;
    node.until("b", "completed").await;
    node.expect_events("b", &["added", "waiting", "active", "completed"])
        .await;
    running.stop().await;
}
