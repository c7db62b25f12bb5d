//! The same question is paid for once: equal jobs at once, one after the other, and while replicas, Redis or the
//! provider fail.

mod waiting;

use std::time::Duration;

use backend_worker::{
    queue::{Broker, JobState, Layout},
    simulator::{Fault, Provider},
};
use jobs::JobType;
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{self, Scene, TestRedis, WebApi, Worker, eventually, view};

const USER: (&str, &str) = ("DEDUPLICATE", "user");
const SHARED: (&str, &str) = ("DEDUPLICATE", "shared");
const LEASE: (&str, &str) = ("LEASE_TTL", "5s");
const FOREVER: Fault = Fault::Delay { ms: 3_600_000 };

fn cards(student: &str) -> String {
    json!({ "content": "The cell divides.", "subject": "Biology", "topic": "Cells", "userId": student })
        .to_string()
}

/// Adds a job for flashcards.
async fn add(broker: &dyn Broker, id: &str, payload: &str) {
    support::add(broker, id, JobType::GenerateFlashcards, payload, 3).await;
}

fn calls(scene: &Scene) -> usize {
    scene.simulator.journal().of(Provider::OpenAi).len()
}

async fn until_called(scene: &Scene, count: usize) {
    let journal = scene.simulator.journal();
    journal
        .wait_until(|journal| journal.of(Provider::OpenAi).len() >= count)
        .await;
}

async fn until(
    broker: &dyn Broker,
    what: &str,
    reached: impl Fn(&backend_worker::queue::QueueCounts) -> bool,
) {
    eventually(what, async || {
        let counts = broker.counts().await.ok()?;
        reached(&counts).then_some(())
    })
    .await;
}

async fn until_done(broker: &dyn Broker, completed: u64) {
    until(broker, &format!("{completed} jobs are completed"), |counts| {
        counts.completed == completed
    })
    .await;
}

async fn result(broker: &dyn Broker, id: &str) -> Value {
    let view = view(broker, id).await;
    assert_eq!(view.state, JobState::Completed, "{id}");
    view.result.unwrap()
}

/// `spend` of this month.
async fn spend(scene: &Scene, by: &str) -> Value {
    let output = scene
        .command(&["spend", "--by", by, "--json"])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn metric(workers: &[&Worker], name: &str) -> f64 {
    let mut sum = 0.0;
    for worker in workers {
        let url = format!("http://localhost:{}/metrics", worker.port);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        sum += line
            .unwrap_or_else(|| panic!("{name}"))
            .trim()
            .parse::<f64>()
            .unwrap();
    }
    sum
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_hundred_equal_jobs_are_paid_for_once(#[case] layout: Layout) {
    const JOBS: u64 = 100;
    let scene = Scene::set(Duration::from_millis(800)).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    for job in 0..JOBS {
        add(&*broker, &format!("job-{job}"), &cards("ann")).await;
    }
    let env = [USER, ("CONCURRENCY", "5")];
    let (one, two) = (scene.worker(&env).await, scene.worker(&env).await);
    until_done(&*broker, JOBS).await;
    assert_eq!(calls(&scene), 1);
    let (mut decks, mut paid) = (Vec::new(), 0);
    for job in 0..JOBS {
        let mut result = result(&*broker, &format!("job-{job}")).await;
        let usage = result["usage"].take();
        if usage["reused"].is_null() {
            assert!(usage["costUsd"].as_f64().unwrap() > 0.0, "{usage}");
            paid += 1;
        } else {
            assert_eq!((&usage["reused"], &usage["costUsd"]), (&json!(true), &json!(0.0)));
        }
        decks.push(result.to_string());
    }
    decks.dedup();
    assert_eq!((decks.len(), paid), (1, 1), "one deck, one bill");
    assert_eq!(
        view(&*broker, "job-50").await.attempts_made,
        1,
        "a wait costs no attempt"
    );

    // A repeat costs nothing either, whatever the order of its fields.
    let again = r#"{"userId":"ann","topic":"Cells", "subject":"Biology","content":"The cell divides."}"#;
    add(&*broker, "job-again", again).await;
    until_done(&*broker, JOBS + 1).await;
    assert_eq!(calls(&scene), 1);
    let report = spend(&scene, "type").await;
    let saved = report["savedUsd"].as_f64().unwrap();
    let spent = report["usd"].as_f64().unwrap();
    assert_eq!(report["reusedJobs"], JOBS, "{report}");
    assert!((saved - spent * JOBS as f64).abs() < 1e-9, "{report}");
    let line = &report["lines"][0];
    assert_eq!(
        (&line["name"], &line["reusedJobs"]),
        (&json!("generate-flashcards"), &json!(JOBS))
    );
    assert!(report["awaitedJobs"].as_u64().unwrap() > 0, "{report}");
    let of = async |name: &str, labels: &str| {
        metric(&[&one, &two], &format!("backend_worker_{name}{labels}")).await
    };
    let kind = "type=\"generate-flashcards\"";
    let reused = of("deduplicated_jobs_total", &format!("{{{kind},how=\"reused\"}}")).await;
    assert_eq!(reused, JOBS as f64);
    let waited = of("deduplicated_jobs_total", &format!("{{{kind},how=\"waited\"}}")).await;
    assert!(waited > 0.0);
    assert!((of("saved_usd_total", &format!("{{{kind}}}")).await - saved).abs() < 1e-9);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn students_share_a_result_only_where_that_is_wanted(#[case] layout: Layout) {
    for (env, expected) in [(vec![USER], 2), (vec![SHARED], 1), (vec![], 4)] {
        let scene = Scene::set(Duration::ZERO).await;
        let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
        for (id, student) in [("1", "ann"), ("2", "bob"), ("3", "ann"), ("4", "bob")] {
            add(&*broker, id, &cards(student)).await;
        }
        let _worker = scene.worker(&env).await;
        until_done(&*broker, 4).await;
        assert_eq!(calls(&scene), expected, "{env:?}");
        let keys: Vec<String> = scene.redis.ask(&["KEYS", "dedup:*"]).await;
        assert_eq!(keys.is_empty(), env.is_empty(), "{keys:?}");
    }
}

/// Neither a job that names no student nor a medium that lies elsewhere has an equal; one whose content is in it has.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn jobs_that_only_look_equal_are_paid_for_each(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let broker = scene.redis.broker(layout, "vision-jobs", "onlooker");
    let image = include_bytes!("../../../samples/text.png");
    let image = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, image);
    let folder = std::env::temp_dir().join(format!("equal-jobs-{}", scene.redis.server.port()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy("samples/text.png", folder.join("a.png")).unwrap();
    let payloads = [
        json!({ "imageBase64": image }),
        json!({ "imageFilePath": "a.png", "userId": "ann" }),
        json!({ "imageBase64": image, "userId": "ann" }),
    ];
    for (nth, payload) in payloads.iter().flat_map(|payload| [payload, payload]).enumerate() {
        let (id, payload) = (format!("job-{nth}"), payload.to_string());
        support::add(&*broker, &id, JobType::ProcessImage, &payload, 3).await;
    }
    let uploads = folder.to_str().unwrap();
    let _worker = scene.worker(&[USER, ("UPLOADS_DIR", uploads)]).await;
    until_done(&*broker, 6).await;
    std::fs::remove_dir_all(&folder).unwrap();
    let sent = scene.simulator.journal().of(Provider::AzureVision).len();
    assert_eq!(sent, 5);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_killed_leader_is_followed_by_the_next(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let at_once = Fault::Delay { ms: 0 };
    let faults = scene.simulator.faults();
    faults.script(Provider::OpenAi, [FOREVER, at_once]).unwrap();
    let first = scene.worker(&[USER, LEASE]).await;
    add(&*broker, "leader", &cards("ann")).await;
    until_called(&scene, 1).await;
    let second = scene.worker(&[USER, LEASE]).await;
    for job in 0..5 {
        add(&*broker, &format!("job-{job}"), &cards("ann")).await;
    }
    until(&*broker, "the others wait", |counts| counts.delayed == 5).await;
    assert_eq!(view(&*broker, "job-0").await.attempts_made, 0);
    let reason = view(&*broker, "job-0")
        .await
        .waiting_for
        .and_then(|waiting| waiting.reason);
    assert!(reason.is_some_and(|reason| reason.contains("equal job")));
    first.signal(Signal::SIGKILL);
    first.ended().await;
    until_done(&*broker, 6).await;
    assert_eq!(calls(&scene), 2, "the lost one, and that of the next leader");
    drop(second);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_failed_leader_fails_no_other(#[case] layout: Layout) {
    let scene = Scene::set(Duration::from_millis(300)).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let faults = scene.simulator.faults();
    faults.script(Provider::OpenAi, [Fault::Refusal]).unwrap();
    for job in 0..10 {
        add(&*broker, &format!("job-{job}"), &cards("ann")).await;
    }
    let _worker = scene.worker(&[USER]).await;
    until(&*broker, "all have ended", |counts| {
        counts.completed + counts.failed == 10
    })
    .await;
    assert_eq!(broker.counts().await.unwrap().failed, 1);
    assert_eq!(calls(&scene), 2);
}

const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_restart_of_redis_is_no_reason_to_pay_again(#[case] layout: Layout) {
    let mut scene = Scene::over(TestRedis::start_with(AOF).await, Duration::ZERO, 0).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let late = Fault::Delay { ms: 4000 };
    scene.simulator.faults().script(Provider::OpenAi, [late]).unwrap();
    for job in 0..12 {
        add(&*broker, &format!("job-{job}"), &cards("ann")).await;
    }
    let _worker = scene.worker(&[USER, ("CONCURRENCY", "3")]).await;
    until_called(&scene, 1).await;
    until(&*broker, "the others wait", |counts| counts.delayed == 11).await;
    scene.redis.server.restart(AOF).await.unwrap();
    until_done(&*broker, 12).await;
    assert_eq!(calls(&scene), 1);
}

/// What stands under the keys is foreign, or was made by another version: the job runs, and its result takes that
/// place.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn foreign_keys_are_in_no_jobs_way(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let worker = scene.worker(&[USER]).await;
    add(&*broker, "first", &cards("ann")).await;
    until_done(&*broker, 1).await;
    let keys: Vec<String> = scene.redis.ask(&["KEYS", "dedup:*:result"]).await;
    let [result_key] = &keys[..] else {
        panic!("{keys:?}")
    };
    let ttl: i64 = scene.redis.ask(&["TTL", result_key]).await;
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    let prefix = result_key.strip_suffix(":result").unwrap();
    let (leader, waiting) = (format!("{prefix}:leader"), format!("{prefix}:waiting"));
    let queue = match layout {
        Layout::Bullmq => "bull:ai-jobs:",
        Layout::Apalis => "ai-jobs:active",
    };
    let waiting = format!("{waiting}:{queue}");
    let pronunciation = r#"{"result":{"success":true,"result":{"words":[]}}}"#;
    let poisons: [&[&str]; 5] = [
        &["SET", result_key, "{"],
        &["SET", result_key, pronunciation],
        &["HSET", result_key, "a", "b"],
        &["SET", &leader, "x"],
        &["SET", &waiting, "x"],
    ];
    for (nth, poison) in poisons.into_iter().enumerate() {
        scene
            .redis
            .ask::<()>(&["DEL", &leader, &waiting, result_key])
            .await;
        scene.redis.ask::<()>(poison).await;
        add(&*broker, &format!("job-{nth}"), &cards("ann")).await;
        until_done(&*broker, nth as u64 + 2).await;
        let mut result = result(&*broker, &format!("job-{nth}")).await;
        assert_eq!(result["usage"]["reused"].take(), Value::Null, "{poison:?}");
        assert_eq!(calls(&scene), nth + 2, "{poison:?}");
        let entry: String = scene.redis.ask(&["GET", result_key]).await;
        assert!(entry.contains("flashcards"), "{poison:?}");
    }
    for line in [
        "the key holds no result of generate-flashcards",
        "the key holds something of another program",
    ] {
        eventually(line, async || {
            worker.log().iter().any(|said| said.contains(line)).then_some(())
        })
        .await;
    }
}

/// The web API asks its cache before it enqueues; requests that come before the first answer become jobs.
#[tokio::test]
async fn requests_of_the_web_api_with_one_key_are_paid_for_once() {
    let scene = Scene::set(Duration::from_millis(500)).await;
    let web = WebApi::start(&scene.redis, 20).await;
    let data: Value = serde_json::from_str(&cards("ann")).unwrap();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(web.enqueue(&data).await);
    }
    let _worker = scene.worker(&[]).await;
    let mut paid = Vec::new();
    for id in &ids {
        let job = web.until(id, "completed").await;
        assert_eq!(job["result"]["success"], true);
        if job["result"]["usage"]["reused"].is_null() {
            paid.push(id);
        }
    }
    assert_eq!((calls(&scene), paid.len()), (1, 1));
    let (code, body) = web.generate(&data).await;
    assert_eq!((code, &body["cached"]), (200, &json!(true)));
    assert_eq!(
        body["jobId"],
        paid[0].as_str(),
        "the entry is that of the job that paid"
    );
    assert_eq!(body["result"]["usage"]["reused"], Value::Null);
    let other = json!({ "content": "x", "subject": "s", "topic": "t", "userId": "bob" });
    let id = web.enqueue(&other).await;
    web.until(&id, "completed").await;
    assert_eq!(calls(&scene), 2);
}

/// Producers of the apalis layout give the key in the task's metadata.
#[tokio::test]
async fn tasks_of_apalis_with_one_key_are_paid_for_once() {
    let scene = Scene::set(Duration::from_millis(300)).await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    for (id, key) in [("1", "k"), ("2", "k"), ("3", "other")] {
        add(&*broker, id, &cards("ann")).await;
        let meta = format!("ai-jobs:meta:{id}");
        scene
            .redis
            .ask::<()>(&["HSET", &meta, "idempotency_key", key])
            .await;
    }
    let _worker = scene.worker(&[]).await;
    until_done(&*broker, 3).await;
    assert_eq!(calls(&scene), 2);
}
