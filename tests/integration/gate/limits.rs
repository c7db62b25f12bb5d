//! Limits and slots as the provider counts them: calls never exceed them, no slot leaks, no queue starves.

use std::time::Duration;

use backend_worker::{
    keys::GateKeys,
    queue::JobState,
    simulator::{Fault, Provider},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{GATED, cards};
use crate::support::{Scene, eventually};

/// The keys of OpenAI's gate.
fn openai() -> GateKeys {
    GateKeys::new("openai", jobs::Provider::OpenAi.as_str())
}

/// The payload of a job that another provider than OpenAI works for.
fn image() -> Value {
    let png = include_bytes!("../../../samples/text.png");
    json!({ "imageBase64": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, png) })
}

/// Four replicas whose limits are tested while they are killed and confused.
struct Storm {
    requests_per_minute: usize,
    slots: usize,
    latency: Duration,
    jobs: usize,
    /// A replica is killed, and Redis forgets its scripts, each time that the provider has seen so many more requests.
    kill_every: usize,
    kills: usize,
}

impl Storm {
    const SHORT: Self = Self {
        requests_per_minute: 120,
        slots: 6,
        latency: Duration::from_millis(40),
        jobs: 200,
        kill_every: 30,
        kills: 2,
    };
    /// Longer than the window: the limit is met, and met again when the window has moved on.
    const LONG: Self = Self {
        requests_per_minute: 600,
        slots: 20,
        latency: Duration::from_millis(1200),
        jobs: 1200,
        kill_every: 30,
        kills: 26,
    };
}

/// What the provider counts is what was allowed. `GATE_EXPLORE=long` makes it more than a minute.
#[tokio::test]
async fn limits_hold_as_the_provider_counts_them() {
    let long = std::env::var("GATE_EXPLORE").is_ok_and(|size| size == "long");
    let storm = if long { Storm::LONG } else { Storm::SHORT };
    let scene = Scene::set(storm.latency).await;
    let (limit, slots) = (storm.requests_per_minute.to_string(), storm.slots.to_string());
    let env = [
        ("OPENAI_RATE_LIMIT_RPM", &*limit),
        ("OPENAI_MAX_CONCURRENT", &*slots),
        ("QUEUES", "ai-jobs=20"),
        ("LEASE_TTL", "5s"),
    ];
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(scene.worker(&env).await);
    }
    let (data, count) = (cards(0).to_string(), storm.jobs.to_string());
    scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", &count])
        .await;
    let journal = scene.simulator.journal();
    for killed in 0..storm.kills {
        let seen = storm.kill_every * (killed + 1);
        journal
            .wait_until(|journal| journal.counts(Provider::OpenAi).requests as usize >= seen)
            .await;
        workers.remove(0).signal(Signal::SIGKILL);
        scene.redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
        workers.push(scene.worker(&env).await);
    }
    // The window is used up: what is left waits for it.
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually("jobs wait for the limit", async || {
        let counts = broker.counts().await.unwrap();
        let most = journal.peak_in_window(Provider::OpenAi, Duration::from_secs(60));
        assert_eq!(counts.delayed, 0, "no job waits for a limit outside of the line");
        (counts.waiting > 0 && most * 10 >= storm.requests_per_minute * 9).then_some(())
    })
    .await;
    let counts = journal.counts(Provider::OpenAi);
    let most = journal.peak_in_window(Provider::OpenAi, Duration::from_secs(60));
    println!(
        "{} requests over {:.0} s, {} replicas killed: at most {most} in a minute of {limit}, {} at a time of {slots}",
        counts.requests,
        journal.elapsed_ms() / 1000.0,
        storm.kills,
        counts.peak,
    );
    assert!(counts.peak <= storm.slots as u64, "{} at a time", counts.peak);
    assert!(most <= storm.requests_per_minute, "{most} requests in a minute");

    // Whatever the last kills leave behind ends within one lease, by Redis's own clock.
    for worker in &workers {
        worker.signal(Signal::SIGKILL);
    }
    for worker in workers {
        worker.ended().await;
    }
    let now: Vec<u64> = scene.redis.ask(&["TIME"]).await;
    let leases: Vec<(String, u64)> = scene
        .redis
        .ask(&["ZRANGE", &openai().leases, "0", "-1", "WITHSCORES"])
        .await;
    for (permit, ends) in &leases {
        assert!(
            *ends <= (now[0] + 1) * 1000 + 5000,
            "{permit} ends at {ends}, now is {now:?}"
        );
    }
    eventually("the slots are free again", async || {
        let now: Vec<u64> = scene.redis.ask(&["TIME"]).await;
        let live: u64 = scene
            .redis
            .ask(&["ZCOUNT", &openai().leases, &format!("({}", now[0] * 1000), "+inf"])
            .await;
        (live == 0).then_some(())
    })
    .await;
}

/// A rate limit at one provider: the whole fleet waits as long as it asks, the breaker stays closed, and the jobs of
/// another provider go on.
#[tokio::test]
async fn a_429_throttles_the_fleet_and_nobody_else() {
    let scene = Scene::set(Duration::ZERO).await;
    let (a, b) = (scene.worker(GATED).await, scene.worker(GATED).await);
    let limit = Fault::RateLimit {
        retry_after: Some(20.0),
    };
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", limit, Some(1))
        .unwrap();
    let limited = a.enqueue(0).await;
    a.until_status(&limited, "delayed").await;
    // The next one keeps its place in the line.
    let next = b.enqueue(1).await;
    b.until_status(&next, "waiting").await;
    let refused = r#"backend_worker_gate_rejections_total{provider="openai",reason="throttled"}"#;
    eventually("the pause has refused a call", async || {
        for worker in [&a, &b] {
            let url = format!("http://127.0.0.1:{}/metrics", worker.port);
            let text = reqwest::get(url).await.ok()?.text().await.ok()?;
            let refusals = text.lines().find_map(|line| line.strip_prefix(refused));
            if refusals.is_some_and(|count| count.trim() != "0") {
                return Some(());
            }
        }
        None
    })
    .await;
    b.until_status(&next, "waiting").await;
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        1,
        "nothing else was sent"
    );
    assert_eq!(b.breaker().await["state"], json!("CLOSED"));
    let (_, _, answer) = b
        .post("/api/jobs/process-image", Some("adm1n-t0ken-of-tests"), &image())
        .await;
    b.until_status(answer["jobId"].as_str().unwrap(), "completed")
        .await;
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        worker.ended().await;
    }
}

/// Each queue has its own slots and its own hold, so 600 waiting jobs do not delay other queues.
#[tokio::test]
async fn six_hundred_limited_jobs_starve_no_unlimited_ones() {
    let scene = Scene::set(Duration::ZERO).await;
    let env = [
        ("OPENAI_RATE_LIMIT_RPM", "12"),
        ("QUEUES", "ai-jobs=20,vision-jobs=20"),
    ];
    let worker = scene.worker(&env).await;
    scene
        .enqueue(&[
            "generate-flashcards",
            "--data",
            &cards(0).to_string(),
            "--count",
            "600",
        ])
        .await;
    let image = image().to_string();
    scene
        .enqueue(&["process-image", "--data", &image, "--count", "600"])
        .await;
    let (limited, free) = (
        scene.redis.apalis("ai-jobs", "onlooker"),
        scene.redis.apalis("vision-jobs", "onlooker"),
    );
    eventually("every unlimited job is done", async || {
        (free.counts().await.unwrap().completed == 600).then_some(())
    })
    .await;
    let counts = limited.counts().await.unwrap();
    assert_eq!(counts.failed, 0);
    assert!(
        counts.completed <= 24,
        "{} of the limited ones in at most two windows",
        counts.completed
    );
    // Held back in the queue, not handed out and given back again and again.
    assert!(counts.waiting > 300, "{counts:?}");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn a_paid_answer_survives_redis_being_away_at_its_end() {
    let scene = Scene::set(Duration::from_millis(300)).await;
    let worker = scene.worker(&[("QUEUES", "ai-jobs=5")]).await;
    let ids = scene
        .enqueue(&[
            "generate-flashcards",
            "--data",
            &cards(0).to_string(),
            "--count",
            "5",
        ])
        .await;
    scene
        .simulator
        .journal()
        .wait_until(|journal| journal.counts(Provider::OpenAi).current == 5)
        .await;
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "4000", "ALL"]).await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    for id in &ids {
        eventually("completed", async || {
            broker
                .find(id)
                .await
                .ok()?
                .filter(|view| view.state == JobState::Completed)
        })
        .await;
    }
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        5,
        "each was paid for once"
    );
    eventually("every slot is free again", async || {
        let taken: i64 = scene.redis.ask(&["ZCARD", &openai().leases]).await;
        (taken == 0).then_some(())
    })
    .await;
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}
