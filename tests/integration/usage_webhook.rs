//! Usage events arrive at the webhook: each at least once, those of a student in order, under keys that stay.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use backend_worker::{
    queue::{Layout, NewJob},
    spending::{
        Budgets,
        accounts::{SpendAccounts, SpendGrouping},
    },
};
use jobs::JobType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Call, Manner, Receiver, Scene, eventually, raw, until_completed};

/// 32 bytes, as an operator makes them.
const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

async fn enqueue(scene: &Scene, jobs: std::ops::Range<usize>) {
    let broker = scene.redis.broker(Layout::Bullmq, "ai-jobs", "onlooker");
    for job in jobs {
        let payload = json!({"content": format!("The cell divides, {job}."), "subject": "s", "topic": "t",
            "userId": format!("student-{}", job % 5)});
        let (id, payload) = (format!("job-{job}"), raw(&payload.to_string()));
        let job = NewJob {
            id: &id,
            kind: JobType::GenerateFlashcards,
            payload: &payload,
            max_attempts: 5,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
    }
}

async fn completed(scene: &Scene, count: usize) {
    let broker = scene.redis.broker(Layout::Bullmq, "ai-jobs", "onlooker");
    until_completed(&*broker, count as u64).await;
}

/// The events of the stream: key, student, amount.
async fn events(scene: &Scene) -> Vec<(String, String, u64)> {
    type Entries = Vec<(String, HashMap<String, String>)>;
    let entries: Entries = scene.redis.ask(&["XRANGE", "usage", "-", "+"]).await;
    let event = |(_, fields): (String, HashMap<String, String>)| {
        let call = fields["call"].replace('.', "_");
        (
            format!("{call}:{}", fields["kind"]),
            fields["student"].clone(),
            fields["nanoUsd"].parse().unwrap(),
        )
    };
    entries.into_iter().map(event).collect()
}

/// The calls that brought an event for the first time.
fn first_arrivals(calls: &[Call]) -> Vec<&Call> {
    let mut known = std::collections::HashSet::new();
    calls
        .iter()
        .filter(|call| known.insert(call.key.clone()))
        .collect()
}

/// Compares what has arrived with the stream: all of it, in order for each student, and each copy alike.
async fn expect_all_in_order(scene: &Scene, receiver: &Receiver) {
    let expected = events(scene).await;
    eventually("every event has arrived", async || {
        let calls = receiver.taken();
        (first_arrivals(&calls).len() == expected.len()).then_some(())
    })
    .await;
    let calls = receiver.taken();
    let arrived = first_arrivals(&calls);
    let of = |student: &str| -> Vec<String> {
        let own = arrived.iter().filter(|call| call.body["student"] == student);
        own.map(|call| call.key.clone()).collect()
    };
    for student in 0..5 {
        let student = format!("student-{student}");
        let in_stream = expected.iter().filter(|(_, owner, _)| *owner == student);
        let in_stream: Vec<String> = in_stream.map(|(key, ..)| key.clone()).collect();
        assert_eq!(of(&student), in_stream, "{student}");
    }
    let mut bodies: HashMap<&str, &Value> = HashMap::new();
    for call in &calls {
        let first = bodies.entry(&call.key).or_insert(&call.body);
        assert_eq!(*first, &call.body, "copies of an event are alike");
    }
    let sum: u64 = arrived
        .iter()
        .map(|call| call.body["nanoUsd"].as_u64().unwrap())
        .sum();
    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    let report = accounts.report(None, SpendGrouping::Type).await.unwrap();
    let booked = report.usd.nanos() + report.possible_usd.nanos();
    assert_eq!(sum, booked, "the receiver's sum is that of the books");
}

#[tokio::test]
async fn every_event_arrives_though_the_receiver_fails_and_forwarders_are_killed() {
    const JOBS: usize = 60;
    let (scene, receiver) = (Scene::set(Duration::ZERO).await, Receiver::start(SECRET).await);
    let env = [
        ("USAGE_WEBHOOK_URL", receiver.url()),
        ("USAGE_WEBHOOK_SECRET", SECRET.to_owned()),
        ("USAGE_WEBHOOK_HEADERS", "apikey=sesame%2C%20please".to_owned()),
        ("USAGE_WEBHOOK_TIMEOUT", "300ms".to_owned()),
        ("LEASE_TTL", "5s".to_owned()),
    ];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut workers = vec![scene.worker(&env).await, scene.worker(&env).await];

    receiver.be(Manner::Down).await;
    enqueue(&scene, 0..JOBS / 3).await;
    completed(&scene, JOBS / 3).await;
    assert!(receiver.taken().is_empty(), "jobs end while the receiver is down");
    receiver.be(Manner::Failing(500)).await;
    receiver.until_asked(4).await;
    receiver.be(Manner::Silent).await;
    receiver.until_asked(4).await;
    receiver.be(Manner::Well).await;
    enqueue(&scene, JOBS / 3..2 * JOBS / 3).await;
    receiver.until_asked(JOBS / 3).await;

    // The forwarder dies with events on their way, of which the receiver has taken some.
    receiver.be(Manner::Slow).await;
    enqueue(&scene, 2 * JOBS / 3..JOBS).await;
    completed(&scene, JOBS).await;
    receiver.until_asked(6).await;
    let holder: String = scene.redis.ask(&["HGET", "usage:webhook", "holder"]).await;
    let at = workers.iter().position(|worker| worker.name == holder).unwrap();
    let victim = workers.remove(at);
    victim.signal(Signal::SIGKILL);
    victim.ended().await;
    receiver.be(Manner::Well).await;
    expect_all_in_order(&scene, &receiver).await;

    let calls = receiver.taken();
    assert!(calls.iter().all(|call| call.apikey == "sesame, please"));
    let standing = eventually("nothing waits any more", async || {
        let standing = SpendAccounts::new(scene.redis.connection(), Budgets::default())
            .webhook()
            .await
            .unwrap();
        (standing.waiting == 0).then_some(standing)
    })
    .await;
    assert_eq!(
        standing.forwarder, workers[0].name,
        "the other replica forwards now"
    );
    let metrics = reqwest::get(format!("http://localhost:{}/metrics", workers[0].port))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("backend_worker_usage_webhook_backlog 0"),
        "{metrics}"
    );
    assert!(metrics.contains("backend_worker_usage_webhook_total{result=\"delivered\"}"));
    let log = workers[0].log().join("\n");
    assert!(!log.contains("sesame") && !log.contains("MDEyMzQ1"), "{log}");
}

/// Jobs go on for the whole minute in which the receiver's port is closed, and nothing of it is lost.
#[tokio::test]
#[ignore = "the receiver is down for a whole minute"]
async fn a_minute_without_the_receiver_loses_no_event_and_delays_no_job() {
    const OUTAGE: Duration = Duration::from_secs(60);
    let (scene, receiver) = (Scene::set(Duration::ZERO).await, Receiver::start(SECRET).await);
    let url = receiver.url();
    let env = [
        ("USAGE_WEBHOOK_URL", url.as_str()),
        ("USAGE_WEBHOOK_SECRET", SECRET),
    ];
    let _workers = [scene.worker(&env).await, scene.worker(&env).await];
    enqueue(&scene, 0..10).await;
    expect_all_in_order_of(&scene, &receiver, 10).await;

    receiver.be(Manner::Down).await;
    let (start, mut jobs, mut slowest) = (Instant::now(), 10, Duration::ZERO);
    while start.elapsed() < OUTAGE {
        let begun = Instant::now();
        enqueue(&scene, jobs..jobs + 10).await;
        jobs += 10;
        completed(&scene, jobs).await;
        slowest = slowest.max(begun.elapsed());
    }
    assert_eq!(
        first_arrivals(&receiver.taken()).len(),
        10,
        "the receiver is down"
    );
    receiver.be(Manner::Well).await;
    let recovered = Instant::now();
    expect_all_in_order_of(&scene, &receiver, jobs).await;
    let calls = receiver.taken().len();
    println!(
        "{jobs} jobs, {calls} calls; ten jobs took {slowest:?} at most; all had arrived {:?} after the recovery",
        recovered.elapsed()
    );
}

/// Waits until these jobs are completed, and compares what has arrived with the stream.
async fn expect_all_in_order_of(scene: &Scene, receiver: &Receiver, jobs: usize) {
    completed(scene, jobs).await;
    expect_all_in_order(scene, receiver).await;
}

/// What the app's database takes: `increment_tokens`, a procedure behind PostgREST.
#[tokio::test]
async fn a_template_calls_a_procedure_and_what_it_refuses_is_set_aside() {
    let (scene, receiver) = (Scene::set(Duration::ZERO).await, Receiver::start(SECRET).await);
    let body = r#"{"user_id": "{{student}}", "input_count": {{promptTokens}}, "output_count": {{completionTokens}}}"#;
    let url = receiver.url();
    let worker = scene
        .worker(&[("USAGE_WEBHOOK_URL", &url), ("USAGE_WEBHOOK_BODY", body)])
        .await;
    // A student that the database does not know: PostgREST answers 409 to a foreign key that points nowhere.
    receiver.refuse("student-3", 409);
    enqueue(&scene, 0..10).await;
    completed(&scene, 10).await;
    let standing = async || {
        let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
        accounts.webhook().await.unwrap()
    };
    eventually(
        "two events are refused, and the others have arrived",
        async || {
            let standing = standing().await;
            (standing.refused == 2 && standing.waiting == 0).then_some(())
        },
    )
    .await;
    receiver.refuse("nobody", 409);
    let resend = scene.command(&["budget", "resend"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&resend.stdout).starts_with("2 usage events"));
    eventually("they are taken now", async || {
        (first_arrivals(&receiver.taken()).len() == 10).then_some(())
    })
    .await;
    assert_eq!(standing().await.refused, 0);
    let mut sums: HashMap<String, (u64, u64)> = HashMap::new();
    for call in first_arrivals(&receiver.taken()) {
        let sum = sums
            .entry(call.body["user_id"].as_str().unwrap().to_owned())
            .or_default();
        sum.0 += call.body["input_count"].as_u64().unwrap();
        sum.1 += call.body["output_count"].as_u64().unwrap();
    }
    assert_eq!(sums.len(), 5);
    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    let line = accounts
        .report(None, SpendGrouping::Type)
        .await
        .unwrap()
        .lines
        .remove(0);
    let totals = sums.values().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    assert_eq!(totals, (line.prompt_tokens, line.completion_tokens));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
    let holder: String = scene.redis.ask(&["HGET", "usage:webhook", "holder"]).await;
    assert_eq!(holder, "", "the lease is given up");
}

/// The stream keeps what is not forwarded, beyond the length that it has without a webhook; what is forwarded goes.
#[tokio::test]
async fn events_that_wait_stay_and_delivered_ones_are_removed() {
    let scene = Scene::set(Duration::ZERO).await;
    let receiver = Receiver::start(SECRET).await;
    receiver.be(Manner::Down).await;
    let url = receiver.url();
    let _worker = scene.worker(&[("USAGE_WEBHOOK_URL", &url)]).await;
    let mut fill = redis::pipe();
    for n in 0..12_000 {
        let student = format!("student-{}", n % 5);
        fill.cmd("XADD")
            .arg(&["usage", "*", "call", &format!("r:{n}"), "kind", "paid"])
            .arg(&[
                "provider", "openai", "model", "m", "type", "t", "student", &student,
            ])
            .arg(&["nanoUsd", "1"])
            .ignore();
    }
    fill.query_async::<()>(&mut scene.redis.raw.clone())
        .await
        .unwrap();
    enqueue(&scene, 0..1).await;
    completed(&scene, 1).await;
    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    eventually("all of them wait", async || {
        (accounts.webhook().await.unwrap().waiting == 12_001).then_some(())
    })
    .await;
    receiver.be(Manner::Well).await;
    eventually("all of them are delivered", async || {
        (accounts.webhook().await.unwrap().waiting == 0).then_some(())
    })
    .await;
    assert_eq!(first_arrivals(&receiver.taken()).len(), 12_001);
    let length: u64 = scene.redis.ask(&["XLEN", "usage"]).await;
    assert!((10_000..10_200).contains(&length), "{length}");
}
