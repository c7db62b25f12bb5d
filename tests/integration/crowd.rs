//! Many callers at a time, on the port of a real worker: health and metrics are answered whatever they do.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Scene, Worker, eventually};

async fn connect(worker: &Worker, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", u16::try_from(worker.port).unwrap()))
        .await
        .unwrap();
    // Whether all of it is taken is up to the worker.
    let write = socket.write_all(request.as_bytes());
    let _ = tokio::time::timeout(Duration::from_millis(50), write).await;
    socket
}

/// Health and metrics, several times, each on a connection of its own.
async fn is_served(worker: &Worker) {
    for _ in 0..5 {
        for path in ["/api/health", "/metrics"] {
            eventually(&format!("{path} is answered"), async || {
                let url = format!("http://127.0.0.1:{}{path}", worker.port);
                let client = reqwest::Client::builder()
                    .pool_max_idle_per_host(0)
                    .build()
                    .unwrap();
                // While the machine is busy with all of them, Redis may be late, which health tells.
                let answer = client.get(url).send().await.ok()?;
                (answer.status() == 200).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn callers_that_do_not_read_their_answers_keep_nobody_out() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let page = "GET /dashboard HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40);
    let mut deaf = Vec::new();
    for _ in 0..520 {
        deaf.push(connect(&worker, &page).await);
    }
    is_served(&worker).await;
    drop(deaf);
}

#[tokio::test]
async fn readers_of_job_events_leave_room_for_others() {
    let scene = Scene::set(Duration::from_secs(3600)).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let id = scene
        .enqueue(&["generate-flashcards", "--data", &data])
        .await
        .remove(0);
    let worker = scene.worker(&[]).await;
    let request = format!("GET /api/job-events?jobId={id} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut readers = Vec::new();
    for _ in 0..512 {
        readers.push(connect(&worker, &request).await);
    }
    is_served(&worker).await;
    // The first of them are streams, and stay.
    let mut head = [0; 12];
    readers[0].read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    // Another caller of the API gets through, too.
    eventually("another caller is answered", async || {
        let url = format!("http://127.0.0.1:{}/api/queue/stats", worker.port);
        let answer = reqwest::get(url).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    drop(readers);
}
