//! The circuit breaker: opened for the whole fleet, reset by an operator, closed again by a few probes.

use std::time::Duration;

use backend_worker::{
    queue::JobState,
    simulator::{Fault, Provider},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{GATED, cards};
use crate::support::{Scene, eventually};

#[tokio::test]
async fn an_invalid_key_opens_the_breaker_for_the_fleet_and_recovery_closes_it() {
    let scene = Scene::set(Duration::ZERO).await;
    let (a, b) = (scene.worker(GATED).await, scene.worker(GATED).await);
    // Step 1: jobs with a key that the provider refuses.
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(401), None)
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(a.enqueue(n).await);
    }
    // Step 2: both replicas say that it is open, and until when.
    for worker in [&a, &b] {
        let breaker = worker.until_state("OPEN").await;
        assert_eq!(
            (&breaker["failures"], &breaker["failureThreshold"]),
            (&json!(5), &json!(5)),
            "{breaker}"
        );
        let next = breaker["nextRetryAt"].as_str().unwrap();
        assert!(next > breaker["openedAt"].as_str().unwrap(), "{breaker}");
    }
    let state: String = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
    assert_eq!(state, "OPEN", "redis-cli agrees");
    // Step 3: a sixth is blocked; it says what it waits for, and has lost no attempt. So do the five: the key is at
    // fault.
    ids.push(a.enqueue(5).await);
    let blocked = eventually("a job waits", async || {
        for id in &ids {
            let job = a.job(id).await;
            let reason = job["waitingFor"]["reason"].as_str().unwrap_or_default();
            if job["status"] == "delayed" && reason.starts_with("Circuit breaker") {
                return Some(job);
            }
        }
        None
    })
    .await;
    assert_eq!(
        (&blocked["attemptsMade"], &blocked["waitingFor"]["gate"]),
        (&json!(0), &json!("openai"))
    );
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        5,
        "the sixth job was never sent"
    );
    let reason = blocked["waitingFor"]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("Circuit breaker is OPEN for openai. Retry in ")
            && reason.ends_with(": the provider refuses the API key"),
        "{reason}"
    );
    // The state outlives every worker.
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await.0, Some(0));
    }
    // Steps 4 and 5: the key is good again. After the time-out probes pass; two good answers close the breaker.
    scene.simulator.faults().clear();
    let (a, b) = (scene.worker(GATED).await, scene.worker(GATED).await);
    for id in &ids {
        a.until_status(id, "completed").await;
    }
    let last = b.enqueue(7).await;
    b.until_status(&last, "completed").await;
    for worker in [&a, &b] {
        let breaker = worker.until_state("CLOSED").await;
        assert_eq!(
            (&breaker["failures"], &breaker["nextRetryAt"]),
            (&json!(0), &Value::Null)
        );
    }
    let mut lines = Vec::new();
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        lines.extend(worker.ended().await.1);
    }
    let log = lines.join("\n");
    for part in ["OPEN → HALF_OPEN", "HALF_OPEN success 1/2", "HALF_OPEN → CLOSED"] {
        assert_eq!(
            log.matches(&format!("Circuit breaker openai: {part}")).count(),
            1,
            "{part} is told once: {log}"
        );
    }
}

#[tokio::test]
async fn an_operator_resets_a_breaker_with_the_token_only() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(GATED).await;
    scene
        .redis
        .ask::<()>(&["SET", "circuit:openai:state", "OPEN"])
        .await; // by hand, as with redis-cli
    worker.until_state("OPEN").await;
    for token in [None, Some("wrong")] {
        let (_, code, body) = worker
            .post("/api/circuit-breakers/reset/openai", token, &json!({}))
            .await;
        assert_eq!((code, &body["success"]), (401, &json!(false)));
    }
    let (_, code, body) = worker
        .post(
            "/api/circuit-breakers/reset/nobody",
            Some("adm1n-t0ken-of-tests"),
            &json!({}),
        )
        .await;
    assert_eq!(
        (code, &body["available"]),
        (400, &json!(["openai", "azure"])),
        "{body}"
    );
    let (_, code, body) = worker
        .post(
            "/api/circuit-breakers/reset/openai",
            Some("adm1n-t0ken-of-tests"),
            &json!({}),
        )
        .await;
    assert_eq!((code, &body["success"]), (200, &json!(true)));
    worker.until_state("CLOSED").await;

    for (order, state) in [("open", "OPEN"), ("reset", "CLOSED")] {
        let output = scene
            .command(&["breaker", order, "openai"])
            .output()
            .await
            .unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(state),
            "{output:?}"
        );
        worker.until_state(state).await;
    }
    let output = scene
        .command(&["breaker", "reset", "nobody"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("openai, azure"),
        "{output:?}"
    );
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn an_abandoned_half_open_probe_does_not_wedge_the_breaker() {
    let scene = Scene::set(Duration::from_secs(3600)).await;
    let env = [
        ("OPENAI_BREAKER_OPEN_FOR", "200ms"),
        ("LEASE_TTL", "5s"),
        ("QUEUES", "ai-jobs=1"),
    ];
    scene
        .redis
        .ask::<()>(&["SET", "circuit:openai:state", "OPEN"])
        .await;
    let first = scene.worker(&env).await;
    let data = cards(0).to_string();
    let ids = scene.enqueue(&["generate-flashcards", "--data", &data]).await;
    scene
        .simulator
        .journal()
        .wait_until(|journal| journal.counts(Provider::OpenAi).current == 1)
        .await;
    assert_eq!(
        scene.redis.ask::<String>(&["GET", "circuit:openai:state"]).await,
        "HALF_OPEN"
    );
    first.signal(Signal::SIGKILL);
    scene.simulator.set_latency(Duration::ZERO);
    let second = scene.worker(&env).await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually("the job is done after all", async || {
        broker
            .find(&ids[0])
            .await
            .unwrap()
            .filter(|view| view.state == JobState::Completed)
    })
    .await;
    second.signal(Signal::SIGTERM);
    second.ended().await;
}

#[tokio::test]
async fn no_herd_rushes_a_half_open_breaker() {
    let scene = Scene::set(Duration::from_millis(400)).await;
    let env = [("OPENAI_BREAKER_OPEN_FOR", "2s"), ("QUEUES", "ai-jobs=10")];
    scene
        .redis
        .ask::<()>(&["SET", "circuit:openai:state", "OPEN"])
        .await;
    scene
        .enqueue(&[
            "generate-flashcards",
            "--data",
            &cards(0).to_string(),
            "--count",
            "30",
        ])
        .await;
    let (a, b) = (scene.worker(&env).await, scene.worker(&env).await);
    let journal = scene.simulator.journal();
    journal
        .wait_until(|journal| journal.of(Provider::OpenAi).iter().any(|e| e.status.is_some()))
        .await;
    let entries = journal.of(Provider::OpenAi);
    let first_answer = entries
        .iter()
        .filter_map(|e| Some(e.at_ms + e.took_ms?))
        .fold(f64::INFINITY, f64::min);
    let probes = entries.iter().filter(|e| e.at_ms < first_answer).count();
    assert!(
        (1..=3).contains(&probes),
        "{probes} probes were out before the first answer"
    );
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually("all are done", async || {
        (broker.counts().await.unwrap().completed == 30).then_some(())
    })
    .await;
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        worker.ended().await;
    }
}
