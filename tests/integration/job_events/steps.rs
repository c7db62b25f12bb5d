//! The steps of a job's life as a client is told of them, in both layouts.

use std::time::Duration;

use backend_worker::queue::{ClaimNumber, HistoryNote, Layout, Postponement};
use rstest::rstest;
use serde_json::json;

use super::{Scene, names};
use crate::support::{enqueue, enqueue_with};

fn note(attempt: u32, r#try: u32, cause: &str) -> HistoryNote {
    HistoryNote {
        attempt,
        r#try,
        class: "transient".to_owned(),
        cause: cause.to_owned(),
        delay_ms: Some(20),
        replica: "w".to_owned(),
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn each_step_is_told(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue(&*scene.broker, "ai-1").await;
    let mut stream = scene.open("ai-1").await;
    let (name, connected) = stream.next().await.unwrap();
    assert_eq!(name, "connected");
    assert_eq!(
        (&connected["jobId"], &connected["queue"], &connected["status"]),
        (&json!("ai-1"), &json!("q"), &json!("waiting"))
    );

    let (delivery, number) = scene.claim(ClaimNumber::FIRST).await;
    assert_eq!(stream.next().await.unwrap().0, "active");
    assert_eq!(stream.until("progress").await["progress"], 10);
    let failed = note(1, 1, "the provider stumbled");
    scene
        .broker
        .progress(&delivery.lease, 15, Some(&failed))
        .await
        .unwrap();
    let told = [stream.next().await.unwrap(), stream.next().await.unwrap()];
    let of = |name: &str| &told.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(of("progress")["progress"], 15);
    assert_eq!(
        (
            &of("retrying")["error"],
            &of("retrying")["try"],
            &of("retrying")["delayMs"]
        ),
        (&json!("the provider stumbled"), &json!(1), &json!(20))
    );

    let later = Postponement {
        delay: Duration::from_millis(1),
        counts: true,
        reason: "again",
        gate: None,
        note: Some(&note(1, 2, "again")),
    };
    scene.broker.retry_at(&delivery.lease, later).await.unwrap();
    let retrying = stream.until("retrying").await;
    assert_eq!(
        (&retrying["error"], &retrying["attempt"]),
        (&json!("again"), &json!(1))
    );
    let (delivery, _) = scene.claim(number).await;
    stream.until("active").await;
    scene.complete(&delivery).await;
    let completed = stream.until("completed").await;
    assert_eq!(
        (&completed["jobId"], &completed["result"]),
        (&json!("ai-1"), &json!({"cards": 2}))
    );
    assert!(completed["timestamp"].is_string(), "{completed}");
    assert!(stream.rest().await.is_empty(), "the stream ends with the job");
    scene.until_unwatched().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_failed_job_says_why(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue_with(&*scene.broker, "1", 1).await;
    let mut stream = scene.open("1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    let failure = note(1, 1, "no such file");
    scene
        .broker
        .fail(&delivery.lease, "no such file", Some(&failure))
        .await
        .unwrap();
    let events = stream.rest().await;
    let (name, body) = events.last().unwrap();
    assert_eq!(
        (name.as_str(), &body["error"], &body["attemptsMade"]),
        ("failed", &json!("no such file"), &json!(1))
    );
    assert!(!names(&events).contains(&"retrying"), "{events:?}");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_job_that_has_ended_is_answered_at_once(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue(&*scene.broker, "1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    scene.complete(&delivery).await;
    let events = scene.open("1").await.rest().await;
    assert_eq!(names(&events), ["connected", "progress", "completed"]);
    assert_eq!(events[2].1["result"], json!({"cards": 2}));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_wait_at_a_gate_is_told(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    stream.until("active").await;
    let later = Postponement {
        delay: Duration::from_secs(600),
        counts: false,
        reason: "Circuit breaker is OPEN for openai",
        gate: Some("openai"),
        note: None,
    };
    scene.broker.retry_at(&delivery.lease, later).await.unwrap();
    let waiting = &stream.until("retrying").await["waitingFor"];
    assert_eq!(waiting["gate"], "openai");
    assert_eq!(waiting["reason"], "Circuit breaker is OPEN for openai");
    assert_eq!(
        scene.open("1").await.until("connected").await["waitingFor"],
        *waiting,
        "who comes later is told too"
    );
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn who_asks_wrongly_is_told_so(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    for (query, code, word) in [
        ("?jobId=nobody", 404, "not_found"),
        ("", 400, "jobId"),
        ("?jobId=", 400, "jobId"),
    ] {
        let answer = reqwest::get(format!("{}{query}", scene.url)).await.unwrap();
        assert_eq!(answer.status(), code, "{query}");
        assert!(answer.text().await.unwrap().contains(word), "{query}");
    }
    assert_eq!(scene.broker.watchers().count(), 0);
}
