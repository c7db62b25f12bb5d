//! Keys under a prefix of the producers' own, and this worker in BullMQ's list of workers.

use backend_worker::queue::{Broker, BrokerOptions, bullmq::BullmqBroker};

use super::*;
use crate::support::{Node, Scene, TestRedis};

const PREFIX: &str = "{app}";

/// The names that BullMQ's `getWorkers` lists, once there are so many.
async fn workers(node: &Node, count: usize) -> Vec<Value> {
    eventually("BullMQ lists the workers", async || {
        let listed = node.ask("workers", json!({})).await;
        let listed = listed.as_array().unwrap().clone();
        (listed.len() == count).then_some(listed)
    })
    .await
}

#[tokio::test]
async fn jobs_run_under_a_prefix_in_braces() {
    let redis = TestRedis::start().await;
    let node = Node::start_under(&redis, "q", "5", PREFIX).await;
    let broker = BullmqBroker::new(redis.connection(), "q", "w", BrokerOptions::default());
    let broker: Arc<dyn Broker> = Arc::new(broker.under_prefix(PREFIX));
    node.add("a", json!({"attempts": 3, "backoff": 30})).await;
    let script = stumbling(FailureClass::Transient, 1);
    let running = replica(broker.clone(), 2, script, &options());
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
    running.stop().await;
    let elsewhere: Vec<String> = redis.ask(&["KEYS", "bull:*"]).await;
    assert_eq!(elsewhere, [""; 0]);
}

#[tokio::test]
async fn a_replica_is_listed_among_the_workers() {
    let scene = NodeScene::set().await;
    // Also one that never had to wait for a job.
    let listed = workers(&scene.node, 1).await;
    assert_eq!(listed, [json!({"name": "q", "rawname": "bull:cQ==:w:w"})]);
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Transient, 0),
        &options(),
    );
    scene.node.add("a", json!({})).await;
    scene.node.until("a", "completed").await;
    workers(&scene.node, 1).await;
    let listed = scene.node.ask("workers", json!({"version": 6})).await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    running.stop().await;
    drop(scene.broker);
    workers(&scene.node, 0).await;
}

/// The command line, the HTTP API and `check` follow the variable.
#[tokio::test]
async fn the_whole_program_follows_the_prefix() {
    let scene = Scene::set(Duration::ZERO).await;
    let variables = [("BULLMQ_PREFIX", PREFIX), ("QUEUES", "bullmq:ai-jobs=4")];
    let first = scene.worker(&variables).await;
    let second = scene.worker(&variables).await;
    let node = Node::start_under(&scene.redis, "ai-jobs", "5", PREFIX).await;
    let mut names: Vec<String> = workers(&node, 2)
        .await
        .iter()
        .map(|w| w["rawname"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut expected = [&first, &second].map(|w| format!("{PREFIX}:YWktam9icw==:w:{}", w.name));
    expected.sort();
    assert_eq!(names, expected);

    let payload = r#"{"content":"cells","subject":"s","topic":"t","userId":"u"}"#;
    let enqueue = [
        "enqueue",
        "generate-flashcards",
        "--data",
        payload,
        "--id",
        "a",
        "--wait",
    ];
    let output = scene.command(&enqueue).envs(variables).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    node.until("a", "completed").await;
    let shown = scene
        .command(&["job", "show", "a"])
        .envs(variables)
        .output()
        .await
        .unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_else(|e| panic!("{e}: {shown:?}"));
    assert_eq!(shown["id"], "a", "{shown}");
    let elsewhere: Vec<String> = scene.redis.ask(&["KEYS", "*bull:*"]).await;
    assert_eq!(elsewhere, [""; 0]);
    drop((first, second));
}
