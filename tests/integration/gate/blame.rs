//! Calls that say less, or more, about a provider than their status: slow answers, closed connections, and requests
//! that a compatible provider does not take as they are.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use nix::sys::signal::Signal;
use serde_json::json;

use super::GATED;
use crate::support::Scene;

/// As vLLM, llama.cpp and others answer a request for a schema.
const NO_SCHEMA: &str = r#"{"error":{"message":"'response_format.type' : value is not one of the allowed values ['text','json_object']","type":"invalid_request_error","param":"response_format","code":"unsupported_value"}}"#;

#[tokio::test]
async fn slow_answers_are_used_and_open_the_breaker() {
    let scene = Scene::set(Duration::from_millis(300)).await;
    let slow = ("OPENAI_BREAKER_SLOW_AFTER", "100ms");
    let worker = scene
        .worker(&[GATED, &[slow, ("OPENAI_BREAKER_OPEN_FOR", "60s")]].concat())
        .await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(worker.enqueue(n).await);
    }
    for id in &ids {
        worker.until_status(id, "completed").await;
    }
    worker.until_state("OPEN").await;
    worker.signal(Signal::SIGTERM);
    let log = worker.ended().await.1.join("\n");
    assert!(
        log.contains("more than the 100 ms after which it counts as a failure of breaker openai"),
        "{log}"
    );
    assert_eq!(scene.simulator.journal().of(Provider::OpenAi).len(), 5);
}

#[tokio::test]
async fn a_request_over_a_connection_that_was_closed_is_sent_once_more() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(GATED).await;
    let opened = worker.enqueue(0).await;
    worker.until_status(&opened, "completed").await;
    // The connection stays open, and ends at the next request: the provider has restarted.
    let faults = scene.simulator.faults();
    faults.script(Provider::OpenAi, [Fault::Reset]).unwrap();
    let id = worker.enqueue(1).await;
    let job = worker.until_status(&id, "completed").await;
    assert_eq!(scene.simulator.journal().of(Provider::OpenAi).len(), 3);
    assert_eq!(job["attemptsMade"], json!(1), "no attempt was lost: {job}");
    let breaker = worker.until_state("CLOSED").await;
    assert_eq!(breaker["failures"], json!(0), "{breaker}");
    worker.signal(Signal::SIGTERM);
    let log = worker.ended().await.1.join("\n");
    assert!(!log.contains("failed:") && !log.contains("is not known"), "{log}");
}

/// One replica finds out, and all of them know: also those that start later.
#[tokio::test]
async fn the_fleet_remembers_what_a_provider_does_not_take() {
    let scene = Scene::set(Duration::ZERO).await;
    let refusal = Fault::Status {
        status: 400,
        retry_after: None,
        retry_after_ms: None,
        body: Some(NO_SCHEMA.to_owned()),
    };
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "\"json_schema\"", refusal, None)
        .unwrap();
    let first = scene.worker(GATED).await;
    let id = first.enqueue(0).await;
    first.until_status(&id, "completed").await;
    let journal = scene.simulator.journal();
    let statuses = || {
        journal
            .of(Provider::OpenAi)
            .iter()
            .map(|entry| entry.status)
            .collect::<Vec<_>>()
    };
    assert_eq!(statuses(), [Some(400), Some(200)]);
    first.signal(Signal::SIGTERM);
    let log = first.ended().await.1.join("\n");
    assert!(log.contains("response_format"), "{log}");

    let second = scene.worker(GATED).await;
    let id = second.enqueue(1).await;
    second.until_status(&id, "completed").await;
    assert_eq!(statuses(), [Some(400), Some(200), Some(200)]);
    let breaker = second.until_state("CLOSED").await;
    assert_eq!(breaker["failures"], json!(0), "{breaker}");

    let keys: Vec<String> = scene.redis.ask(&["KEYS", "gate:dialect:*"]).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    let ttl: i64 = scene.redis.ask(&["TTL", &keys[0]]).await;
    assert!((1..=86_400).contains(&ttl), "{ttl}");
    let output = scene.command(&["check"]).output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("does not take the whole request"), "{report}");
}
