//! A replica in service: both layouts at once, and what it says of its health.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{Node, Scene, eventually};

#[tokio::test]
async fn both_layouts_are_served_at_once() {
    let scene = Scene::set(Duration::ZERO).await;
    let node = Node::start(&scene.redis, "ai-jobs").await;
    let worker = scene.worker(&[]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"});
    let opts = json!({"jobId": "from-node", "attempts": 3});
    let job = json!({"name": "generate-flashcards", "data": data, "opts": opts});
    node.ask("add", job).await;
    let lines = scene
        .enqueue(&["generate-flashcards", "--data", &data.to_string(), "--wait"])
        .await;
    let view: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(view["state"], "completed", "{view}");
    let job = node.until("from-node", "completed").await;
    assert!(job["returnvalue"]["flashcards"].is_array(), "{job}");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn health_tells_how_the_replica_is() {
    let mut scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    scene
        .enqueue(&["generate-flashcards", "--data", &data, "--wait"])
        .await;
    let (code, health) = worker.health().await.unwrap();
    assert_eq!(
        (code, &health["status"], &health["service"]),
        (200, &json!("healthy"), &json!("worker"))
    );
    assert_eq!(
        (&health["stats"]["processed"], &health["stats"]["succeeded"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(health["stats"]["successRate"], json!("100.0%"));
    // As the replaced worker's scripts read them: milliseconds, and minutes as text with two decimals.
    let uptime = health["uptime"].as_u64().unwrap();
    let minutes = health["uptimeMinutes"].as_str().unwrap();
    let (_, decimals) = minutes.split_once('.').unwrap();
    assert_eq!(decimals.len(), 2, "{minutes}");
    assert!(
        (minutes.parse::<f64>().unwrap() - uptime as f64 / 60_000.0).abs() <= 0.006,
        "{uptime} {minutes}"
    );
    assert_eq!(health["pid"].as_u64(), Some(u64::from(worker.pid())));
    for alias in ["/", "/health"] {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{alias}", worker.port))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{alias}, over IPv4 too");
    }
    let pid = Pid::from_raw(scene.redis.server.pid().unwrap().cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    let health = eventually("503", async || {
        worker.health().await.filter(|(code, _)| *code == 503)
    })
    .await
    .1;
    assert!(
        health["reason"].as_str().unwrap().contains("Redis has been away"),
        "{health}"
    );
    scene.redis.server.restart(&[]).await.unwrap();
    eventually("healthy again", async || {
        worker.health().await.filter(|(code, _)| *code == 200)
    })
    .await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
}
