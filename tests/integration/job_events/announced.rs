//! What BullMQ's events announce and what they do not: outcomes of jobs that are not kept, foreign events, silence.

use std::time::Duration;

use backend_worker::{
    http_api::{AccessControl, EventStreams},
    queue::{ClaimNumber, Layout},
};
use serde_json::json;

use super::{Scene, names};
use crate::support::enqueue;

#[tokio::test]
async fn the_outcome_of_a_job_that_is_not_kept_is_told() {
    let scene = Scene::of(Layout::Bullmq).await;
    for id in ["done", "dead", "removed"] {
        enqueue(&*scene.broker, id).await;
        let options = r#"{"removeOnComplete":true,"removeOnFail":true}"#;
        let _: usize = scene
            .redis
            .ask(&["HSET", &format!("bull:q:{id}"), "opts", options])
            .await;
    }
    let mut streams = [
        scene.open("done").await,
        scene.open("dead").await,
        scene.open("removed").await,
    ];
    let (done, number) = scene.claim(ClaimNumber::FIRST).await;
    let (dead, _) = scene.claim(number).await;
    scene.complete(&done).await;
    scene.broker.fail(&dead.lease, "it is dead", None).await.unwrap();
    assert_eq!(streams[0].until("completed").await["result"], json!({"cards": 2}));
    assert_eq!(streams[1].until("failed").await["error"], "it is dead");
    // As BullMQ's `Job.remove` does.
    let _: usize = scene.redis.ask(&["LREM", "bull:q:wait", "1", "removed"]).await;
    let _: usize = scene.redis.ask(&["DEL", "bull:q:removed"]).await;
    let event = [
        "XADD",
        "bull:q:events",
        "*",
        "event",
        "removed",
        "jobId",
        "removed",
        "prev",
        "wait",
    ];
    let _: String = scene.redis.ask(&event).await;
    assert_eq!(streams[2].until("failed").await["error"], "the job was removed");
}

#[tokio::test]
async fn foreign_events_harm_nobody() {
    let scene = Scene::of(Layout::Bullmq).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    stream.until("connected").await;
    for fields in [
        &["jobId", "1"][..],
        &["event", "progress", "jobId", "1", "data", "no JSON"],
        &["event", "progress", "jobId", "1", "data", r#"{"step":3}"#],
        &["event", "completed", "jobId", "1", "returnvalue", "{"],
        &["event", "paused"],
    ] {
        let event = [&["XADD", "bull:q:events", "*"], fields].concat();
        let _: String = scene.redis.ask(&event).await;
    }
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    scene.complete(&delivery).await;
    let events = stream.rest().await;
    assert_eq!(
        names(&events),
        ["active", "progress", "progress", "completed"],
        "{events:?}"
    );
}

#[tokio::test]
async fn an_outcome_that_nobody_announced_is_found_at_the_next_heartbeat() {
    let streams = EventStreams::new(10, Duration::from_millis(50));
    let scene = Scene::with(Layout::Bullmq, streams, AccessControl::default()).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    stream.until("connected").await;
    // Heartbeats are comments.
    stream.until_comment().await;
    let _: usize = scene.redis.ask(&["LREM", "bull:q:wait", "1", "1"]).await;
    let _: usize = scene.redis.ask(&["HSET", "bull:q:1", "returnvalue", "7"]).await;
    let _: usize = scene.redis.ask(&["ZADD", "bull:q:completed", "1", "1"]).await;
    assert_eq!(stream.until("completed").await["result"], 7);
}
