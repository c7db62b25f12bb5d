//! A job's own page: looked for in the queue that the dashboard names.

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
