//! A job's own page: looked for in the queue that the dashboard names, and told with its type.

use std::time::Duration;

use serde_json::{Value, json};

use super::url;
use crate::support::{Scene, Sse};

#[tokio::test]
async fn a_job_is_looked_for_in_the_queue_that_is_named() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("QUEUES", "bullmq:one,bullmq:two")]).await;
    for (queue, reason) in [("one", "first"), ("two", "second")] {
        let key = |name: &str| format!("bull:{queue}:{name}");
        scene
            .redis
            .ask::<()>(&[
                "HSET",
                &key("1"),
                "name",
                "x",
                "failedReason",
                reason,
                "opts",
                "{}",
            ])
            .await;
        scene
            .redis
            .ask::<()>(&["ZADD", &key("failed"), "1700000000000", "1"])
            .await;
    }
    let look = async |query: &str| {
        let answer = reqwest::get(url(&worker, &format!("/api/job-status/1{query}"))).await;
        let answer = answer.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(look("").await.1["error"], "first");
    assert_eq!(look("?queue=two").await.1["error"], "second");
    let (status, job) = look("?queue=bullmq:two").await;
    assert_eq!((status, &job["layout"]), (200, &json!("bullmq")));
    let (status, refused) = look("?queue=three").await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("bullmq:one"));
    let mut events = Sse::open(&url(&worker, "/api/job-events?jobId=1&queue=two")).await;
    assert_eq!(events.until("failed").await["error"], "second");
}

/// In the apalis layout the type is a part of the payload, which is large where it holds media, and is dropped then
/// once the job has ended.
#[tokio::test]
async fn the_type_of_a_job_is_told_in_either_layout() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let audio = include_bytes!("../../../samples/good_morning.wav");
    let audio = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, audio);
    assert!(audio.len() > 16 * 1024, "large enough to be dropped");
    let file = std::env::temp_dir().join(format!("backend-worker-type-{}.json", worker.port));
    std::fs::write(
        &file,
        json!({ "referenceText": "Good morning", "audioBase64": audio }).to_string(),
    )
    .unwrap();
    let data = format!("@{}", file.display());
    let ended = scene
        .enqueue(&["assess-pronunciation", "--data", &data, "--wait"])
        .await;
    std::fs::remove_file(file).unwrap();
    let ended: Value = serde_json::from_str(&ended.concat()).unwrap();

    // As other producers of the layout leave them, and no queue that is served hands them out.
    let padding = "x".repeat(300_000);
    let (small, large, wrong) = (
        json!({"data": {"content": "c"}, "type": "generate-flashcards"}).to_string(),
        json!({"type": "process-image", "data": {"imageBase64": padding}}).to_string(),
        "{\"type\": 7}".to_owned(),
    );
    scene.redis.ask::<()>(&["SET", "ai-jobs:paused", "1"]).await;
    for (id, payload) in [("small", &small), ("large", &large), ("wrong", &wrong)] {
        scene
            .redis
            .ask::<()>(&["HSET", "ai-jobs:data", id, payload])
            .await;
        scene.redis.ask::<()>(&["RPUSH", "ai-jobs:active", id]).await;
    }
    for (id, kind) in [
        (ended["id"].as_str().unwrap(), json!("assess-pronunciation")),
        ("small", json!("generate-flashcards")),
        ("large", json!("process-image")),
        ("wrong", Value::Null),
    ] {
        let job = reqwest::get(url(&worker, &format!("/api/job-status/{id}")))
            .await
            .unwrap();
        let job: Value = job.json().await.unwrap();
        assert_eq!(
            (&job["layout"], &job["type"]),
            (&json!("apalis"), &kind),
            "{id}: {job}"
        );
    }
    let list = reqwest::get(url(&worker, "/api/jobs?state=waiting&queue=apalis:ai-jobs"))
        .await
        .unwrap();
    let list = list.json::<Value>().await.unwrap();
    let kinds: Vec<_> = list["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["type"].clone())
        .collect();
    assert_eq!(
        kinds,
        [Value::Null, json!("process-image"), json!("generate-flashcards")]
    );
}
