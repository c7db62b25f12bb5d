//! Payloads, media, servers and answers that were made to harm, against a real worker with a memory budget: each
//! fails its own job with a short reason, jobs beside it go on, and the worker's memory stays within bounds.

mod documents;
mod server;

use std::time::Duration;

use backend_worker::queue::{Broker, JobState, Layout};
use jobs::JobType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{self, Scene, Worker, ended, view};
use server::HostileServer;

const MIB: u64 = 1024 * 1024;
/// Of the worker under test.
const BUDGET: u64 = 128 * MIB;
/// Characters of a reason: students and operators read it.
const LONGEST_REASON: usize = 1_000;

/// A job that must fail, and what its reason holds; without one, it may as well be completed.
struct Case {
    name: &'static str,
    kind: JobType,
    payload: String,
    why: &'static str,
}

impl Case {
    fn new(name: &'static str, kind: JobType, payload: impl Into<String>, why: &'static str) -> Self {
        Self {
            name,
            kind,
            payload: payload.into(),
            why,
        }
    }
}

async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: String) {
    support::add(broker, id, kind, &payload, 1).await;
}

fn deck(id: &str) -> String {
    json!({"content": id, "subject": "s", "topic": "t", "userId": "u"}).to_string()
}

/// The most memory that the process has had so far, bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Runs the cases, and a good job after each. The worker must live, and keep to its memory.
async fn run(layout: Layout, cases: Vec<Case>, variables: &[(&str, &str)]) {
    let scene = Scene::set(Duration::ZERO).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let (queues, budget) = (format!("{layout}:ai-jobs=4"), BUDGET.to_string());
    let usual = [
        ("QUEUES", queues.as_str()),
        ("MEDIA_MEMORY", budget.as_str()),
        ("MEDIA_TIMEOUT", "5s"),
        ("CIRCUIT_BREAKER", "off"),
        ("RETRY_MAX_ATTEMPTS", "1"),
    ];
    let worker = scene.worker(&[&usual[..], variables].concat()).await;
    let mut wanted = Vec::new();
    for Case {
        name,
        kind,
        payload,
        why,
    } in cases
    {
        add(&*broker, name, kind, payload).await;
        add(
            &*broker,
            &format!("{name}-good"),
            JobType::GenerateFlashcards,
            deck("cells"),
        )
        .await;
        wanted.push((name, why));
    }
    for (name, why) in wanted {
        let error = ended(&*broker, name).await.error.unwrap_or_default();
        assert!(error.contains(why), "{name}: {}", short(&error));
        assert!(error.len() <= LONGEST_REASON, "{name}: {} bytes", error.len());
        let good = ended(&*broker, &format!("{name}-good")).await;
        assert_eq!(good.state, JobState::Completed, "beside {name}: {:?}", good.error);
    }
    leaves_well(worker).await;
}

/// It has not crashed, no handler has panicked, and it has kept to its memory.
async fn leaves_well(worker: Worker) {
    let (health, _) = worker.health().await.expect("health answers");
    assert_eq!(health, 200);
    let peak = peak(worker.pid());
    assert!(peak < BUDGET + 150 * MIB, "{} MB at most", peak / MIB);
    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    let log = log.concat();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(code, Some(0));
}

fn short(text: &str) -> String {
    text.chars().take(2 * LONGEST_REASON).collect()
}

#[tokio::test]
async fn a_hostile_payload_fails_its_own_job() {
    use JobType::{AssessPronunciation, GenerateFlashcards, ProcessImage};
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let digits = "9".repeat(1_000_000);
    let with = |field: &str, value: &str| {
        format!(r#"{{"content":"c","subject":"s","topic":"t","userId":"u","{field}":{value}}}"#)
    };
    let twice = format!(r#"{{{}"content":"c"}}"#, r#""subject":"s","#.repeat(1_000_000));
    let long = json!({"content": "c".repeat(20_000_000), "subject": "s", "topic": "t", "userId": "u"});
    let many = |entry: &str| {
        format!(
            r#"{{"images":[{}{entry}]}}"#,
            format!("{entry},").repeat(1_000_000)
        )
    };
    let parameters = format!("data:image/png{};base64,aaaa", ";a=b".repeat(1_000_000));
    let layers = format!("{}aaaa", "data:image/png;base64,".repeat(100_000));
    let percent = format!("data:image/png;base64,{}", "%2541".repeat(1_000_000));
    let escapes = format!(r#"{{"imageBase64":"{}"}}"#, r"\u0041".repeat(2_000_000));
    let huge = format!(r#"{{"imageBase64":"{}"}}"#, "A".repeat(80_000_000));
    run(
        Layout::Apalis,
        vec![
            Case::new(
                "nested",
                GenerateFlashcards,
                with("count", &nested),
                "payload field \"count",
            ),
            Case::new("nested-whole", ProcessImage, nested, "payload field"),
            Case::new("objects", AssessPronunciation, objects, "payload field"),
            Case::new(
                "exponent",
                GenerateFlashcards,
                with("count", "1e999999"),
                "payload",
            ),
            Case::new("digits", GenerateFlashcards, with("count", &digits), "payload"),
            Case::new("twice", GenerateFlashcards, twice, "duplicate field"),
            Case::new(
                "long",
                GenerateFlashcards,
                long.to_string(),
                "longer than 200000 characters",
            ),
            Case::new("many", ProcessImage, many("{}"), "payload"),
            Case::new(
                "many-texts",
                ProcessImage,
                many(r#"{"imageBase64":"a"}"#),
                "payload",
            ),
            Case::new(
                "parameters",
                ProcessImage,
                json!({"imageUrl": parameters}).to_string(),
                "payload field \"imageUrl\"",
            ),
            Case::new(
                "layers",
                ProcessImage,
                json!({"imageBase64": layers}).to_string(),
                "payload field \"imageBase64\"",
            ),
            Case::new(
                "percent",
                ProcessImage,
                json!({"imageBase64": percent}).to_string(),
                "payload field \"imageBase64\"",
            ),
            Case::new("escapes", ProcessImage, escapes, "payload field \"imageBase64\""),
            Case::new("huge", ProcessImage, huge, "MEDIA_MEMORY has room for"),
        ],
        &[],
    )
    .await;
}

#[tokio::test]
async fn an_address_that_leads_inside_fails_its_own_job() {
    let cases = [
        ("mapped", "https://[::ffff:127.0.0.1]/a"),
        ("mapped-metadata", "https://[::ffff:a9fe:a9fe]/latest/meta-data"),
        ("short", "https://127.1/a"),
        ("hexadecimal", "https://0x7f000001/a"),
        ("decimal", "https://2130706433/a"),
        ("octal", "https://0177.0.0.1/a"),
        ("unspecified", "https://[::]/a"),
        ("nat64", "https://[64:ff9b::7f00:1]/a"),
        ("six-to-four", "https://[2002:7f00:1::]/a"),
        ("fullwidth", "https://１２７.０.０.１/a"),
        ("name", "https://localhost/a"),
    ];
    let case = |(name, url): (&'static str, &str)| {
        let payload = json!({"imageUrl": url}).to_string();
        Case::new(
            name,
            JobType::ProcessImage,
            payload,
            "leads to a private or reserved address",
        )
    };
    run(Layout::Bullmq, cases.map(case).into(), &[]).await;
}

#[tokio::test]
async fn a_hostile_medium_fails_its_own_job() {
    let media = documents::media();
    let case = |(name, kind, bytes, why): (&'static str, JobType, Vec<u8>, &'static str)| {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let field = match kind {
            JobType::ProcessImage => json!({"imageBase64": BASE64_STANDARD.encode(bytes)}),
            _ => json!({"referenceText": "Good morning", "audioBase64": BASE64_STANDARD.encode(bytes)}),
        };
        Case::new(name, kind, field.to_string(), why)
    };
    run(Layout::Apalis, media.into_iter().map(case).collect(), &[]).await;
}

#[tokio::test]
async fn a_hostile_media_server_fails_its_own_job() {
    let server = HostileServer::open();
    let cases = [
        ("gzip-bomb", "is no audio file"),
        ("deflate-lie", "is no audio file"),
        ("huge-length", "is larger than"),
        ("endless-length", "cannot be fetched"),
        ("two-lengths", "cannot be fetched"),
        ("chunk-extensions", "cannot be fetched"),
        ("trailers", "cannot be fetched"),
        ("tiny-chunks", "took longer than 5s"),
        ("endless-body", "is larger than"),
        ("redirect-loop", "is redirected more than"),
        ("redirect-long", "payload field \"audioUrl\""),
        ("redirect-inside", "leads to a private or reserved address"),
        ("redirect-scheme", "is not an https URL"),
        ("many-headers", "cannot be fetched"),
        ("slow-body", "took longer than 5s"),
        ("silence", "took longer than 5s"),
        ("reset", "cannot be fetched"),
        ("not-http", "cannot be fetched"),
        ("http2", "cannot be fetched"),
    ];
    let case = |(name, why): (&'static str, &'static str)| {
        let url = format!("http://{}/{name}", server.host);
        let payload = json!({"referenceText": "Good morning", "audioUrl": url}).to_string();
        Case::new(name, JobType::AssessPronunciation, payload, why)
    };
    run(
        Layout::Bullmq,
        cases.map(case).into(),
        &[("MEDIA_ALLOWED_HOSTS", server.host.as_str())],
    )
    .await;
}

/// The provider is hostile to some jobs, told by their contents, and answers the others.
#[tokio::test]
async fn a_hostile_answer_fails_its_own_job() {
    let server = HostileServer::open();
    let cases = [
        ("gzip-bomb", "openai"),
        ("huge-length", "openai"),
        ("endless-length", "openai"),
        ("chunk-extensions", "openai"),
        ("trailers", "openai"),
        ("endless-body", "openai"),
        ("redirect-loop", "openai"),
        ("many-headers", "openai"),
        ("reset", "openai"),
        ("not-http", "openai"),
        ("silence", "openai"),
        ("slow-body", "openai"),
        ("deep-answer", "openai"),
        ("deep-content", "openai"),
        ("many-cards", ""),
        ("open-braces", "openai"),
        ("open-objects", "openai"),
        ("open-quotes", "openai"),
        ("quotes-and-blanks", "openai"),
        ("fences", "openai"),
        ("encoded", "openai"),
        ("same-card", ""),
        ("many-choices", "openai"),
        ("long-strings", "openai"),
        ("huge-numbers", "openai"),
    ];
    let case = |(name, why): (&'static str, &'static str)| {
        let payload = deck(&format!("hostile:{name}:"));
        Case::new(name, JobType::GenerateFlashcards, payload, why)
    };
    run(
        Layout::Apalis,
        cases.map(case).into(),
        &[
            ("OPENAI_BASE_URL", &format!("http://{}/v1", server.host)),
            ("OPENAI_TIMEOUT", "10s"),
        ],
    )
    .await;
}

/// Fields of a job in Redis that are of another type, or of a size that no producer writes.
#[tokio::test]
async fn a_hostile_job_in_redis_fails_alone() {
    let scene = Scene::set(Duration::ZERO).await;
    let (apalis, bullmq) = (
        scene.redis.broker(Layout::Apalis, "ai-jobs", "onlooker"),
        scene.redis.broker(Layout::Bullmq, "ai-jobs", "onlooker"),
    );
    let large = "x".repeat(30_000_000);
    let name = large.as_str();
    for id in ["large-name", "large-options", "large-reason"] {
        add(&*bullmq, id, JobType::GenerateFlashcards, deck("cells")).await;
    }
    for id in [
        "large-error",
        "large-status",
        "typed-ledger",
        "large-ledger",
        "list-meta",
    ] {
        add(&*apalis, id, JobType::GenerateFlashcards, deck("cells")).await;
    }
    let set = async |command: &[&str]| scene.redis.ask::<redis::Value>(command).await;
    set(&["HSET", "bull:ai-jobs:large-name", "name", name]).await;
    set(&["HSET", "bull:ai-jobs:large-options", "opts", name]).await;
    set(&["HSET", "bull:ai-jobs:large-reason", "failedReason", name]).await;
    set(&["HSET", "ai-jobs:meta:large-error", "error", name]).await;
    set(&[
        "HSET",
        "ai-jobs:meta:large-status",
        "attempts",
        name,
        "status",
        name,
    ])
    .await;
    set(&["SET", &apalis.ledger_key("typed-ledger"), "text"]).await;
    set(&[
        "HSET",
        &apalis.ledger_key("large-ledger"),
        "chat",
        &format!("={name}"),
    ])
    .await;
    set(&["DEL", "ai-jobs:meta:list-meta"]).await;
    set(&["RPUSH", "ai-jobs:meta:list-meta", "a", "b"]).await;
    let worker = scene
        .worker(&[
            ("QUEUES", "bullmq:ai-jobs=4,apalis:ai-jobs=4"),
            ("MEDIA_MEMORY", &BUDGET.to_string()),
            ("CIRCUIT_BREAKER", "off"),
        ])
        .await;
    for (broker, id) in [
        (&apalis, "large-error"),
        (&apalis, "large-status"),
        (&apalis, "typed-ledger"),
        (&apalis, "large-ledger"),
        (&apalis, "list-meta"),
        (&bullmq, "large-name"),
        (&bullmq, "large-options"),
        (&bullmq, "large-reason"),
    ] {
        ended(&**broker, id).await;
    }
    let reason: String = scene
        .redis
        .ask(&["HGET", "bull:ai-jobs:large-name", "failedReason"])
        .await;
    assert!(reason.len() <= LONGEST_REASON, "{} bytes", reason.len());
    for broker in [&apalis, &bullmq] {
        add(&**broker, "good", JobType::GenerateFlashcards, deck("cells")).await;
        assert_eq!(ended(&**broker, "good").await.state, JobState::Completed);
    }
    leaves_well(worker).await;
    assert_eq!(view(&*apalis, "good").await.state, JobState::Completed);
}

/// Bodies of requests to the worker's own port.
#[tokio::test]
async fn a_hostile_request_is_refused() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("QUEUES", "apalis:ai-jobs=4")]).await;
    let url = format!("http://127.0.0.1:{}/api/jobs/generate-flashcards", worker.port);
    let http = reqwest::Client::new();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_user = format!(r#"{{"content":"c","subject":"s","topic":"t","userId":{nested}}}"#);
    let digits = format!(
        r#"{{"content":"c","subject":"s","topic":"t","userId":{}}}"#,
        "9".repeat(1_000_000)
    );
    for body in [
        nested,
        deep_user,
        digits,
        "{\"a\":".repeat(100_000),
        "\u{0}".repeat(1_000),
    ] {
        let answer = http
            .post(&url)
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{}", short(&body)[..40].to_owned());
        let said: Value = answer.json().await.unwrap();
        assert!(said.to_string().len() <= LONGEST_REASON);
    }
    leaves_well(worker).await;
}
