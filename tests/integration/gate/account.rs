//! A fault of the provider's account: a refused key, no credit. Few calls, one alert, no job lost, nothing quoted.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Scene, Worker, eventually};

/// As xAI refuses a key.
const REFUSED_KEY: &str = r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: ab***yz. You can obtain an API key from https://console.x.ai."}"#;
/// OpenAI's answer for an account without credit.
const NO_CREDIT: &str = r#"{"error":{"message":"Your account is not active, please check your billing details on our website.","type":"billing_not_active","param":null,"code":"billing_not_active"}}"#;

fn answer(status: u16, body: &str) -> Fault {
    Fault::Status {
        status,
        retry_after: None,
        retry_after_ms: None,
        body: Some(body.to_owned()),
    }
}

/// What a worker is started with: five calls at a time, as by default.
fn gated(open_for: &str) -> [(&str, &str); 4] {
    [
        ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
        ("QUEUES", "ai-jobs=20"),
        ("OPENAI_MAX_CONCURRENT", "5"),
        ("OPENAI_BREAKER_OPEN_FOR", open_for),
    ]
}

async fn waiting(worker: &Worker, ids: &[String]) -> Vec<Value> {
    let mut jobs = Vec::new();
    for id in ids {
        jobs.push(worker.job(id).await);
    }
    jobs.retain(|job| job["status"] == "delayed" || job["status"] == "waiting");
    jobs
}

async fn firing(worker: &Worker) -> Vec<String> {
    let (_, answer) = worker.get("/api/metrics/alerts").await;
    let alerts = answer["alerts"].as_array().unwrap().iter();
    let firing = alerts.filter(|alert| alert["firing"] == true);
    firing
        .map(|alert| alert["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn jobs_wait_for_a_key_that_is_refused_as_a_bad_request() {
    let scene = Scene::set(Duration::from_millis(20)).await;
    let worker = scene.worker(&gated("6s")).await;
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", answer(400, REFUSED_KEY), None)
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(worker.enqueue(n).await);
    }
    worker.until_state("OPEN").await;
    let waits = eventually("all jobs wait", async || {
        let waits = waiting(&worker, &ids).await;
        (waits.len() == ids.len()).then_some(waits)
    })
    .await;
    let calls = scene.simulator.journal().of(Provider::OpenAi).len();
    assert!(calls <= 6, "{calls} calls");
    assert!(waits.len() >= 14);
    let blocked = waits
        .iter()
        .filter_map(|job| job["waitingFor"]["reason"].as_str());
    assert!(
        blocked.clone().any(|reason| reason.contains("the API key")),
        "{:?}",
        blocked.collect::<Vec<_>>()
    );
    assert!(firing(&worker).await.contains(&"ProviderAccount".to_owned()));

    // No fragment of the key anywhere: job records, dashboard, metrics, alerts, Redis.
    let mut said = format!("{waits:?}");
    for path in [
        "/metrics",
        "/dashboard",
        "/api/metrics/alerts",
        "/api/circuit-breakers/status",
    ] {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", worker.port))
            .await
            .unwrap();
        said.push_str(&answer.text().await.unwrap());
    }
    said.push_str(&crate::secrets::everything(&scene.redis).await);
    assert!(!said.contains("ab***yz") && !said.contains("***"), "{said}");

    // The key is mended: every job completes, those that met the refusal as well.
    faults.clear();
    for id in &ids {
        worker.until_status(id, "completed").await;
    }
    eventually("the alert is over", async || {
        (!firing(&worker).await.contains(&"ProviderAccount".to_owned())).then_some(())
    })
    .await;
    worker.signal(Signal::SIGTERM);
    let log = worker.ended().await.1.join("\n");
    assert!(
        log.contains("refused the API key (400)") && !log.contains("ab***yz"),
        "{log}"
    );
}

/// Half an hour at one call a minute, at a sixtieth of the time: a second stands for a minute.
#[tokio::test]
async fn jobs_wait_for_credit_and_complete_when_somebody_has_paid() {
    let scene = Scene::set(Duration::from_millis(5)).await;
    let worker = scene.worker(&gated("1s")).await;
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", answer(429, NO_CREDIT), None)
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(worker.enqueue(n).await);
    }
    worker.until_state("OPEN").await;
    let journal = scene.simulator.journal();
    let opened_with = journal.of(Provider::OpenAi).len();
    assert!(opened_with <= 6, "{opened_with} calls");
    // Four openings in a row: 1 + 2 + 4 + 8 seconds.
    let probed = eventually("it has been probed three times", async || {
        let calls = journal.of(Provider::OpenAi).len();
        (calls >= opened_with + 3).then_some(calls)
    })
    .await;
    assert_eq!(firing(&worker).await, ["ProviderAccount"], "one alert");
    assert!(probed <= opened_with + 4, "one probe at a time: {probed} calls");
    let stats = worker.get("/api/queue/stats").await.1;
    assert_eq!(stats["stats"]["failed"], json!(0), "no dead letter: {stats}");
    let reasons = waiting(&worker, &ids).await;
    assert!(
        reasons.iter().any(|job| {
            let reason = job["waitingFor"]["reason"].as_str().unwrap_or_default();
            reason.contains("no credit or quota") || reason.contains("billing_not_active")
        }),
        "{reasons:?}"
    );
    faults.clear();
    for id in &ids {
        worker.until_status(id, "completed").await;
    }
}

/// Half an hour without credit at the default open time, in real time: `GATE_EXPLORE=long` runs it, for 45 minutes at
/// most.
#[tokio::test]
async fn half_an_hour_without_credit_costs_a_call_a_minute_at_most() {
    if !std::env::var("GATE_EXPLORE").is_ok_and(|size| size == "long") {
        return;
    }
    const MINUTE: Duration = Duration::from_secs(60);
    let scene = Scene::set(Duration::from_millis(5)).await;
    let worker = scene.worker(&gated("60s")).await;
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", answer(429, NO_CREDIT), None)
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(worker.enqueue(n).await);
    }
    worker.until_state("OPEN").await;
    let journal = scene.simulator.journal();
    let opened_with = journal.of(Provider::OpenAi).len();
    let mut minutes = tokio::time::interval(MINUTE);
    minutes.tick().await;
    for minute in 1..=30 {
        minutes.tick().await;
        let calls = journal.of(Provider::OpenAi).len() - opened_with;
        assert!(calls <= minute, "{calls} calls in {minute} minutes");
        let mut firing = firing(&worker).await;
        // Warnings, of the queue and of the probes. The alert that wakes an operator is one.
        firing.retain(|name| name != "OldestWaiting" && name != "BreakerTransitions");
        assert_eq!(firing, ["ProviderAccount"], "one alert");
    }
    let probes = journal.of(Provider::OpenAi).len() - opened_with;
    faults.clear();
    let mut left = 15;
    loop {
        minutes.tick().await;
        let stats = worker.get("/api/queue/stats").await.1;
        assert_eq!(stats["stats"]["failed"], json!(0), "no dead letter: {stats}");
        if stats["stats"]["completed"] == json!(ids.len()) {
            break;
        }
        left -= 1;
        assert!(
            left > 0,
            "jobs still wait 15 minutes after the account has credit: {stats}"
        );
    }
    println!(
        "{opened_with} calls until OPEN, {probes} probes in 30 minutes, 0 dead letters, all {} jobs done",
        ids.len()
    );
}
