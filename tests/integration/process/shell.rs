//! The binary in a shell: jobs enqueued, the configuration refused or shown, the demo.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{PATIENCE, Scene};

#[tokio::test]
async fn enqueue_waits_and_prints_the_result() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let lines = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--wait"])
        .await;
    let view: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (&view["state"], &view["progress"]),
        (&json!("completed"), &json!(100))
    );
    assert!(view["result"]["flashcards"].is_array());

    let bad = scene
        .command(&["enqueue", "generate-flashcards", "--data", "{}"])
        .output()
        .await
        .unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&bad.stderr).contains("content"),
        "{bad:?}"
    );
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn a_wrong_configuration_exits_with_64_and_names_the_variable() {
    let scene = Scene::set(Duration::ZERO).await;
    let output = scene
        .command(&["run"])
        .env("PORT", "http")
        .env("LEASE_TTL", "soon")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("PORT") && text.contains("LEASE_TTL"), "{text}");
}

#[tokio::test]
async fn the_log_shows_the_configuration_and_no_secret() {
    let scene = Scene::set(Duration::ZERO).await;
    let mut command = scene.command(&["run"]);
    command
        .env("OPENAI_API_KEY", "sk-very-secret")
        .env("REDIS_URL", "redis://:very-secret@127.0.0.1:1");
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut text = String::new();
    for _ in 0..4 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("a log line");
        text.push_str(&line.unwrap().unwrap());
    }
    assert!(
        text.contains("OPENAI_API_KEY=(set)") && text.contains("DRAIN_TIMEOUT=25s"),
        "{text}"
    );
    assert!(!text.contains("very-secret"), "{text}");
    process.kill().await.unwrap();
}

#[tokio::test]
async fn the_demo_leaves_nothing_running() {
    let scene = Scene::set(Duration::ZERO).await;
    let output = scene
        .command(&["demo", "--jobs", "12", "--latency", "5ms"])
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("process-image") && text.contains("12 of 12 jobs have ended"),
        "{text}"
    );
    let port = text
        .split("redis://127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let refused = tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await;
    assert!(refused.is_err(), "its Redis is gone");

    let without = scene
        .command(&["demo"])
        .env("PATH", "/nowhere")
        .output()
        .await
        .unwrap();
    assert!(
        String::from_utf8_lossy(&without.stderr).contains("redis-server is not installed"),
        "{without:?}"
    );
}
