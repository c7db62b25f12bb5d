//! Who may enqueue over HTTP, what, and how often.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{GATED, cards};
use crate::support::{PATIENCE, Scene};

#[tokio::test]
async fn the_intake_checks_limits_and_answers() {
    let scene = Scene::set(Duration::ZERO).await;
    let mut env = GATED.to_vec();
    env.push(("USER_RATE_LIMIT", "2"));
    let worker = scene.worker(&env).await;
    let path = "/api/ai/generate-flashcards";
    let (_, code, _) = worker.post(path, None, &cards(1)).await;
    assert_eq!(code, 401);
    let (_, code, body) = worker
        .post(path, Some("adm1n-t0ken-of-tests"), &json!({"content": "x"}))
        .await;
    assert_eq!(code, 400);
    let error = body["error"].as_str().unwrap();
    assert!(error.contains("subject") && error.contains("topic"), "{error}");
    let (_, code, body) = worker
        .post("/api/jobs/transcribe", Some("adm1n-t0ken-of-tests"), &json!({}))
        .await;
    assert_eq!(
        (code, &body["error"]),
        (400, &json!("Unknown job type: transcribe"))
    );

    for left in ["1", "0"] {
        let (headers, code, body) = worker.post(path, Some("adm1n-t0ken-of-tests"), &cards(1)).await;
        assert_eq!(
            (code, headers["x-ratelimit-remaining"].to_str().unwrap()),
            (202, left),
            "{body}"
        );
        let status_url = body["statusUrl"].as_str().unwrap();
        assert_eq!(worker.get(status_url).await.0, 200);
    }
    let (headers, code, _) = worker.post(path, Some("adm1n-t0ken-of-tests"), &cards(1)).await;
    assert_eq!((code, headers["x-ratelimit-limit"].to_str().unwrap()), (429, "2"));
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 3500);
    let (_, limits) = worker.get("/api/rate-limits/status?userId=test").await;
    assert_eq!(limits["user"]["remaining"], json!(0), "{limits}");
    let (_, stats) = worker.get("/api/queue/stats").await;
    assert_eq!(stats["stats"]["queue"], json!("ai-jobs"));
    assert_eq!(stats["queues"].as_array().unwrap().len(), 3);
    let (code, missing) = worker.get("/api/job-status/nobody").await;
    assert_eq!((code, &missing["status"]), (404, &json!("not_found")));
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn who_may_not_enqueue_is_told_before_the_body_is_read() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(GATED).await;
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(worker.port).unwrap()))
        .await
        .unwrap();
    let request = "POST /api/jobs/process-image HTTP/1.1\r\nhost: w\r\ncontent-length: 30000000\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut status))
        .await
        .expect("an answer without a body")
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}
