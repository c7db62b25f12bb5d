//! What an operator sees: `/metrics` and the alerts of real replicas, under load and with an outage.

use std::{collections::HashMap, time::Duration};

use backend_worker::{
    simulator::{Fault, Provider},
    telemetry::metrics::families,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Scene, TestRedis, Worker, eventually};

pub(crate) const PAYLOAD: &str = r#"{"content":"marzipan-content","subject":"s","topic":"t","userId":"u"}"#;
/// Jobs fail at once or wait, whatever the number of tries.
pub(crate) const QUICK: &[(&str, &str)] = &[
    ("QUEUES", "ai-jobs=4,bullmq:ai-jobs=2"),
    ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
];

/// An answer in Prometheus's text format, read with suspicion.
pub(crate) struct Scrape(HashMap<String, f64>);

impl Scrape {
    fn read(text: &str) -> Self {
        let (mut samples, mut family, mut seen) = (HashMap::new(), "", Vec::new());
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                family = head.split_once(' ').unwrap().0;
                assert!(!seen.contains(&family), "{family} is in two places");
                seen.push(family);
                continue;
            }
            if let Some(head) = line.strip_prefix("# TYPE ") {
                let (name, kind) = head.split_once(' ').unwrap();
                let declared = families::ALL
                    .iter()
                    .find(|f| f.name == name)
                    .expect("a declared metric");
                assert_eq!((name, kind), (family, declared.kind.as_str()));
                continue;
            }
            let (series, value) = line
                .rsplit_once(' ')
                .unwrap_or_else(|| panic!("no sample: {line:?}"));
            let name = series.split('{').next().unwrap();
            let of_family = name.strip_prefix(family).expect("samples follow their head");
            assert!(["", "_bucket", "_sum", "_count"].contains(&of_family), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "{series} is there twice"
            );
        }
        assert!(text.ends_with('\n'));
        Self(samples)
    }

    pub(crate) fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }

    /// The sum of all series that begin so and hold that label.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let of = self
            .0
            .iter()
            .filter(|(series, _)| series.starts_with(name) && series.contains(label));
        of.map(|(_, value)| value).sum()
    }
}

pub(crate) async fn scrape(worker: &Worker) -> Scrape {
    let answer = reqwest::get(format!("http://127.0.0.1:{}/metrics", worker.port))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    Scrape::read(&answer.text().await.unwrap())
}

async fn until(worker: &Worker, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
    eventually(what, async || Some(scrape(worker).await).filter(&condition)).await
}

pub(crate) async fn alerts(worker: &Worker) -> Value {
    let answer = reqwest::get(format!("http://127.0.0.1:{}/api/metrics/alerts", worker.port));
    answer.await.unwrap().json().await.unwrap()
}

/// Waits until the alert fires, or does not.
pub(crate) async fn until_alert(worker: &Worker, name: &str, firing: bool) -> Value {
    eventually(&format!("{name}: firing {firing}"), async || {
        let all = alerts(worker).await;
        let alert = all["alerts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|a| a["name"] == name)
            .unwrap();
        (alert["firing"] == json!(firing)).then(|| alert.clone())
    })
    .await
}

pub(crate) async fn stop(worker: Worker) -> String {
    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0));
    log.join("\n")
}

#[tokio::test]
async fn an_outage_shows_in_the_metrics_and_so_does_its_end() {
    let scene = Scene::set(Duration::ZERO).await;
    let mut env = QUICK.to_vec();
    env.push(("OPENAI_BREAKER_OPEN_FOR", "3s"));
    let worker = scene.worker(&env).await;
    let fresh = scrape(&worker).await;
    assert_eq!(fresh.get("backend_worker_redis_up"), 1.0);
    assert_eq!(
        fresh.get(r#"backend_worker_slots{queue="ai-jobs",layout="apalis"}"#),
        4.0
    );

    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", Fault::status(503), None)
        .unwrap();
    scene
        .enqueue(&["generate-flashcards", "--data", PAYLOAD, "--count", "12"])
        .await;
    let broken = until(&worker, "the breaker shows open", |scrape| {
        scrape.get(r#"backend_worker_breaker_state{breaker="openai",state="CLOSED"}"#) == 0.0
            && scrape.sum("backend_worker_breaker_state", "openai") == 1.0
            && scrape.get(r#"backend_worker_gate_rejections_total{provider="openai",reason="open"}"#) > 0.0
    })
    .await;
    assert!(broken.get(r#"backend_worker_breaker_not_closed_seconds{breaker="openai"}"#) > 0.0);
    assert_eq!(
        broken.get(r#"backend_worker_breaker_not_closed_seconds{breaker="azure"}"#),
        0.0
    );
    let refused = r#"backend_worker_provider_calls_total{provider="openai",class="transient",status="5xx"}"#;
    assert!(broken.get(refused) >= 5.0);
    assert!(
        broken.get(r#"backend_worker_provider_retries_total{provider="openai",class="transient"}"#) > 0.0
    );
    assert!(broken.get(r#"backend_worker_provider_retry_delay_seconds_count{provider="openai"}"#) > 0.0);
    let opened = r#"backend_worker_breaker_transitions_total{breaker="openai",to="OPEN",scope="fleet"}"#;
    assert!(broken.get(opened) >= 1.0);
    let waiting = r#"type="generate-flashcards",outcome="waiting",class="blocked""#;
    assert!(broken.sum("backend_worker_jobs_total", waiting) > 0.0);

    faults.clear();
    let succeeded = r#"type="generate-flashcards",outcome="succeeded",class="none""#;
    let well = until(
        &worker,
        "every job has completed, and the breaker is closed",
        |scrape| {
            scrape.sum("backend_worker_jobs_total", succeeded) == 12.0
                && scrape
                    .get(r#"backend_worker_queue_jobs{queue="ai-jobs",layout="apalis",state="completed"}"#)
                    == 12.0
                && scrape.get(r#"backend_worker_breaker_state{breaker="openai",state="CLOSED"}"#) == 1.0
        },
    )
    .await;
    assert_eq!(
        well.get(r#"backend_worker_breaker_not_closed_seconds{breaker="openai"}"#),
        0.0
    );
    assert_eq!(
        well.get(r#"backend_worker_paid_calls_total{provider="openai"}"#),
        12.0
    );
    assert!(well.get(r#"backend_worker_tokens_total{provider="openai"}"#) > 0.0);
    assert!(well.get("backend_worker_redis_call_seconds_count") > 20.0);
    assert!(well.get("process_resident_memory_bytes") > 1e6 && well.get("process_open_fds") > 3.0);
    let log = stop(worker).await;
    assert!(!log.contains("marzipan"), "no payload is logged: {log}");
    assert!(
        log.contains(r#""name":"worker""#) && log.contains(r#""name":"attempt""#),
        "{log}"
    );
}

#[tokio::test]
async fn reads_are_closed_by_the_token() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("READ_TOKEN", "r3ad-t0ken-of-tests")]).await;
    for path in ["/metrics", "/api/metrics/alerts"] {
        let url = format!("http://127.0.0.1:{}{path}", worker.port);
        assert_eq!(reqwest::get(&url).await.unwrap().status(), 401);
        let with = reqwest::Client::new()
            .get(&url)
            .bearer_auth("r3ad-t0ken-of-tests")
            .send()
            .await
            .unwrap();
        assert_eq!(with.status(), 200);
    }
    stop(worker).await;
}

#[tokio::test]
async fn alerts_speak_for_the_fleet_and_clear() {
    let scene = Scene::set(Duration::ZERO).await;
    let (a, b) = (scene.worker(QUICK).await, scene.worker(QUICK).await);
    assert_eq!(alerts(&a).await["firing"], json!(0));
    // The provider refuses twelve jobs as wrong. Both replicas report them, no matter which one ran them.
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", Fault::status(400), Some(12))
        .unwrap();
    let add = ["generate-flashcards", "--data", PAYLOAD, "--count"];
    scene.enqueue(&[&add[..], &["12"]].concat()).await;
    for worker in [&a, &b] {
        for name in ["FailureRate", "PermanentErrors", "DeadLettersGrowing"] {
            let alert = until_alert(worker, name, true).await;
            assert!(alert["value"].as_f64() > alert["threshold"].as_f64(), "{alert}");
            assert!(
                alert["since"].is_string() && alert["action"].is_string(),
                "{alert}"
            );
        }
    }
    // Enough that go well, and the share is small again.
    scene.enqueue(&[&add[..], &["260"]].concat()).await;
    for worker in [&a, &b] {
        let alert = until_alert(worker, "FailureRate", false).await;
        assert_eq!(alert["since"], Value::Null, "{alert}");
        until_alert(worker, "PermanentErrors", false).await;
    }
    for worker in [a, b] {
        stop(worker).await;
    }
}

#[tokio::test]
async fn a_breaker_long_open_and_a_job_long_waiting_are_alerts() {
    let scene = Scene::set(Duration::ZERO).await;
    let b = scene.worker(QUICK).await;
    // A breaker that an operator opened, and that has not been closed for long, its half-open times included.
    let open = scene
        .command(&["breaker", "open", "openai"])
        .output()
        .await
        .unwrap();
    assert!(open.status.success());
    let redis = &scene.redis;
    let left: u64 = redis.ask(&["HGET", "circuit:openai:meta", "left"]).await;
    let before = (left - 400_000).to_string();
    redis
        .ask::<()>(&["HSET", "circuit:openai:meta", "left", &before])
        .await;
    let alert = until_alert(&b, "BreakerOpen", true).await;
    assert_eq!(alert["subject"], json!("openai"));
    let reset = scene
        .command(&["breaker", "reset", "openai"])
        .output()
        .await
        .unwrap();
    assert!(reset.status.success());
    until_alert(&b, "BreakerOpen", false).await;

    // A job in a paused queue grows old.
    redis.ask::<()>(&["SET", "ai-jobs:paused", "1"]).await;
    let old = "01ARZ3NDEKTSV4RRFFQ69G5FAV"; // of 2016: not taken for a time
    redis.ask::<()>(&["RPUSH", "ai-jobs:active", old]).await;
    redis
        .ask::<()>(&["HSET", "bull:ai-jobs:meta", "paused", "1"])
        .await;
    let added = now(redis).await - 350_000;
    redis
        .ask::<()>(&[
            "HSET",
            "bull:ai-jobs:7",
            "name",
            "x",
            "timestamp",
            &added.to_string(),
        ])
        .await;
    redis.ask::<()>(&["LPUSH", "bull:ai-jobs:paused", "7"]).await;
    let alert = until_alert(&b, "OldestWaiting", true).await;
    assert_eq!(alert["subject"], json!("bullmq:ai-jobs"), "{alert}");
    redis
        .ask::<()>(&["DEL", "bull:ai-jobs:paused", "bull:ai-jobs:7"])
        .await;
    until_alert(&b, "OldestWaiting", false).await;
    stop(b).await;
}

#[tokio::test]
async fn both_routes_answer_while_redis_does_not() {
    let scene = Scene::set(Duration::ZERO).await;
    let b = scene.worker(QUICK).await;
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "16000", "ALL"]).await;
    let alert = until_alert(&b, "RedisAway", true).await;
    assert!(alert["value"].as_f64() > Some(5.0), "{alert}");
    let blind = until(&b, "redis_up is 0", |scrape| {
        scrape.0["backend_worker_redis_up"] == 0.0
    })
    .await;
    assert_eq!(blind.sum("backend_worker_queue_jobs", ""), 0.0);
    assert!(blind.get(r#"backend_worker_redis_errors_total{kind="timeout"}"#) > 0.0);
    until_alert(&b, "RedisAway", false).await;
    let back = until(&b, "redis_up is 1", |scrape| {
        scrape.0["backend_worker_redis_up"] == 1.0
    })
    .await;
    assert!(back.get("backend_worker_redis_reconnects_total") > 0.0);
    stop(b).await;
}

pub(crate) async fn now(redis: &TestRedis) -> u64 {
    redis.ask::<(u64, u64)>(&["TIME"]).await.0 * 1000
}
