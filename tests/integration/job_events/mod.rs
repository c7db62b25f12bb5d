//! `GET /api/job-events`: what a client is told of a job, whatever the layout of its queue, and that it costs nothing
//! once the client has gone.

mod streams;

use std::{sync::Arc, time::Duration};

use backend_worker::{
    monitor::Monitor,
    operator::Operator,
    ops::{Access, Dashboard, Ops, Server, Streams},
    queue::{Broker, ClaimNumber, Delivery, Later, Layout, Note, Settled},
    ratelimit::{RateLimits, Window},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Sse, TestRedis, both_layouts, enqueue, enqueue_with, eventually};

/// A queue that the test works by hand, and the routes over it.
struct Scene {
    redis: TestRedis,
    broker: Arc<dyn Broker>,
    url: String,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

impl Scene {
    async fn of(layout: Layout) -> Self {
        Self::with(layout, Streams::default(), Access::default()).await
    }

    async fn with(layout: Layout, streams: Streams, access: Access) -> Self {
        let redis = TestRedis::start().await;
        let broker = redis.broker(layout, "q", "w");
        broker.renew(&[]).await.unwrap();
        let unlimited = Window {
            limit: 0,
            length: Duration::from_secs(1),
        };
        let operator = Operator::new(vec![broker.clone()], None);
        let monitor = Arc::new(Monitor::new(
            Vec::new(),
            operator.clone(),
            None,
            redis.connection(),
            "w",
        ));
        let ops = Ops {
            workers: Vec::new(),
            dashboard: Dashboard::new(monitor.clone(), operator.clone()),
            operator,
            monitor,
            rate_limits: RateLimits::new(redis.connection()),
            user_window: unlimited,
            ip_window: unlimited,
            streams,
            access,
            started: std::time::Instant::now(),
        };
        let server = Server::bind(0).await.unwrap();
        let url = format!("http://127.0.0.1:{}/api/job-events", server.port().unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.serve(ops, stop.clone()));
        Self {
            redis,
            broker,
            url,
            stop,
            server,
        }
    }

    async fn open(&self, id: &str) -> Sse {
        Sse::open(&format!("{}?jobId={id}", self.url)).await
    }

    /// Claims the one job that is there.
    async fn claim(&self, number: ClaimNumber) -> (Delivery, ClaimNumber) {
        let number = std::cell::Cell::new(number);
        let delivery = eventually("a job to claim", async || {
            let claimed = self.broker.claim(number.get(), 1).await.unwrap().pop();
            number.set(number.get().next());
            claimed
        });
        (delivery.await, number.get())
    }

    async fn complete(&self, delivery: &Delivery) {
        let settled = self
            .broker
            .complete(&delivery.lease, r#"{"cards":2}"#)
            .await
            .unwrap();
        assert_eq!(settled, Settled::Applied);
    }

    /// Redis connections that wait for the queue's events.
    async fn readers(&self) -> usize {
        let clients: String = self.redis.ask(&["CLIENT", "LIST"]).await;
        clients.lines().filter(|line| line.contains("cmd=xread")).count()
    }

    async fn until_unwatched(&self) {
        eventually("nobody watches", async || {
            (self.broker.watchers().count() == 0 && self.readers().await == 0).then_some(())
        })
        .await;
    }
}

fn note(attempt: u32, r#try: u32, cause: &str) -> Note {
    Note {
        attempt,
        r#try,
        class: "transient".to_owned(),
        cause: cause.to_owned(),
        delay_ms: Some(20),
        replica: "w".to_owned(),
    }
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

both_layouts! { [Scene]
    each_step_is_told
    a_failed_job_says_why
    a_job_that_has_ended_is_answered_at_once
    a_wait_at_a_gate_is_told
    who_asks_wrongly_is_told_so
}

async fn each_step_is_told(scene: Scene) {
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

    let later = Later {
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

async fn a_failed_job_says_why(scene: Scene) {
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

async fn a_job_that_has_ended_is_answered_at_once(scene: Scene) {
    enqueue(&*scene.broker, "1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    scene.complete(&delivery).await;
    let events = scene.open("1").await.rest().await;
    assert_eq!(names(&events), ["connected", "progress", "completed"]);
    assert_eq!(events[2].1["result"], json!({"cards": 2}));
}

async fn a_wait_at_a_gate_is_told(scene: Scene) {
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    stream.until("active").await;
    let later = Later {
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

async fn who_asks_wrongly_is_told_so(scene: Scene) {
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

#[tokio::test]
async fn the_outcome_of_a_job_that_is_not_kept_is_told() {
    let scene = Scene::of(Layout::Bullmq).await;
    for id in ["done", "dead", "removed"] {
        enqueue(&*scene.broker, id).await;
        let options = r#"{"removeOnComplete":true,"removeOnFail":true}"#;
        let _: usize = scene
            .redis
            .ask(&["HSET", &format!("bull:q:{id}"), "opts", options])
            .await;
    }
    let mut streams = [
        scene.open("done").await,
        scene.open("dead").await,
        scene.open("removed").await,
    ];
    let (done, number) = scene.claim(ClaimNumber::FIRST).await;
    let (dead, _) = scene.claim(number).await;
    scene.complete(&done).await;
    scene.broker.fail(&dead.lease, "it is dead", None).await.unwrap();
    assert_eq!(streams[0].until("completed").await["result"], json!({"cards": 2}));
    assert_eq!(streams[1].until("failed").await["error"], "it is dead");
    // As BullMQ's `Job.remove` does.
    let _: usize = scene.redis.ask(&["LREM", "bull:q:wait", "1", "removed"]).await;
    let _: usize = scene.redis.ask(&["DEL", "bull:q:removed"]).await;
    let event = [
        "XADD",
        "bull:q:events",
        "*",
        "event",
        "removed",
        "jobId",
        "removed",
        "prev",
        "wait",
    ];
    let _: String = scene.redis.ask(&event).await;
    assert_eq!(streams[2].until("failed").await["error"], "the job was removed");
}

#[tokio::test]
async fn foreign_events_harm_nobody() {
    let scene = Scene::of(Layout::Bullmq).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    stream.until("connected").await;
    for fields in [
        &["jobId", "1"][..],
        &["event", "progress", "jobId", "1", "data", "no JSON"],
        &["event", "progress", "jobId", "1", "data", r#"{"step":3}"#],
        &["event", "completed", "jobId", "1", "returnvalue", "{"],
        &["event", "paused"],
    ] {
        let event = [&["XADD", "bull:q:events", "*"], fields].concat();
        let _: String = scene.redis.ask(&event).await;
    }
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    scene.complete(&delivery).await;
    let events = stream.rest().await;
    assert_eq!(
        names(&events),
        ["active", "progress", "progress", "completed"],
        "{events:?}"
    );
}

#[tokio::test]
async fn an_outcome_that_nobody_announced_is_found_at_the_next_heartbeat() {
    let streams = Streams::new(10, Duration::from_millis(50));
    let scene = Scene::with(Layout::Bullmq, streams, Access::default()).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    stream.until("connected").await;
    let _: usize = scene.redis.ask(&["LREM", "bull:q:wait", "1", "1"]).await;
    let _: usize = scene.redis.ask(&["HSET", "bull:q:1", "returnvalue", "7"]).await;
    let _: usize = scene.redis.ask(&["ZADD", "bull:q:completed", "1", "1"]).await;
    assert_eq!(stream.until("completed").await["result"], 7);
    assert!(stream.comments > 0, "heartbeats are comments");
}

#[tokio::test]
async fn streams_are_limited_and_need_the_read_token() {
    let access = Access {
        read: Some("r3ad".into()),
        ..Access::default()
    };
    let scene = Scene::with(Layout::Apalis, Streams::new(1, Duration::from_secs(15)), access).await;
    enqueue(&*scene.broker, "1").await;
    let url = format!("{}?jobId=1", scene.url);
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 401);
    let ask = async || {
        let request = reqwest::Client::new().get(&url).bearer_auth("r3ad");
        request.send().await.unwrap()
    };
    let open = ask().await;
    assert_eq!(open.status(), 200);
    let refused = ask().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    drop(open);
    eventually("the place is free again", async || {
        (ask().await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_tells_the_outcome_and_is_not_held_up() {
    let scene = crate::support::Scene::set(Duration::from_secs(4)).await;
    let worker = scene.worker(&[("CONCURRENCY", "1")]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", "2"])
        .await;
    let open = async |id: &str| {
        Sse::open(&format!(
            "http://127.0.0.1:{}/api/job-events?jobId={id}",
            worker.port
        ))
        .await
    };
    let mut streams = [open(&ids[0]).await, open(&ids[1]).await];
    streams[0].until("active").await;
    worker.signal(Signal::SIGTERM);
    let (code, _) = worker.ended().await;
    assert_eq!(code, Some(0));
    let [first, second] = &mut streams;
    let (first, second) = (first.rest().await, second.rest().await);
    assert_eq!(
        first.last().map(|(name, _)| name.as_str()),
        Some("completed"),
        "{first:?}"
    );
    assert_eq!(
        names(&second),
        ["connected"],
        "what waits is another replica's to tell"
    );
}
