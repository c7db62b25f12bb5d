//! The gate at work: replicas as processes, driven and watched over HTTP, as the manual tests of the customer's
//! document describe it.

use std::time::Duration;

use backend_worker::{
    queue::State,
    simulator::{Fault, Provider},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Scene, Worker, eventually};

pub(crate) fn cards(n: usize) -> Value {
    json!({ "content": format!("job-{n}"), "subject": "test", "topic": "test", "userId": "test" })
}

impl Worker {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(self.url(path)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (reqwest::header::HeaderMap, u16, Value) {
        let mut request = reqwest::Client::new().post(self.url(path)).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (
            answer.headers().clone(),
            answer.status().as_u16(),
            answer.json().await.unwrap(),
        )
    }

    /// Enqueues a flashcard job over HTTP; its id.
    async fn enqueue(&self, n: usize) -> String {
        let (_, code, body) = self
            .post("/api/ai/generate-flashcards", Some("adm1n"), &cards(n))
            .await;
        assert_eq!((code, &body["status"]), (202, &json!("queued")), "{body}");
        body["jobId"].as_str().unwrap().to_owned()
    }

    async fn breaker(&self) -> Value {
        self.get("/api/circuit-breakers/status").await.1["circuitBreakers"]["openai"].clone()
    }

    async fn until_state(&self, state: &str) -> Value {
        eventually(&format!("openai is {state}"), async || {
            Some(self.breaker().await).filter(|breaker| breaker["state"] == state)
        })
        .await
    }

    async fn job(&self, id: &str) -> Value {
        self.get(&format!("/api/job-status/{id}")).await.1
    }

    async fn until_status(&self, id: &str, status: &str) -> Value {
        eventually(&format!("{id} is {status}"), async || {
            Some(self.job(id).await).filter(|job| job["status"] == status)
        })
        .await
    }
}

const GATED: &[(&str, &str)] = &[
    ("ADMIN_TOKEN", "adm1n"),
    ("QUEUES", "ai-jobs=4,audio-jobs=2,vision-jobs=2"),
    ("OPENAI_BREAKER_OPEN_FOR", "3s"),
];

#[tokio::test]
async fn an_invalid_key_opens_the_breaker_for_the_fleet_and_recovery_closes_it() {
    let scene = Scene::set(Duration::ZERO).await;
    let (a, b) = (scene.worker(GATED).await, scene.worker(GATED).await);
    // Step 1: six jobs with a key that the provider refuses.
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(401), None)
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..6 {
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
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        5,
        "the sixth job was never sent"
    );
    // Step 3: one of them is blocked; it says what it waits for, and has lost no attempt.
    let blocked = eventually("a job waits", async || {
        for id in &ids {
            let job = a.job(id).await;
            if job["status"] == "delayed" {
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
    let reason = blocked["waitingFor"]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("Circuit breaker is OPEN for openai. Retry in "),
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
    let waiting = blocked["jobId"].as_str().unwrap();
    a.until_status(waiting, "completed").await;
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
        .post("/api/circuit-breakers/reset/nobody", Some("adm1n"), &json!({}))
        .await;
    assert_eq!(
        (code, &body["available"]),
        (400, &json!(["openai", "azure"])),
        "{body}"
    );
    let (_, code, body) = worker
        .post("/api/circuit-breakers/reset/openai", Some("adm1n"), &json!({}))
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
async fn the_intake_checks_limits_and_answers() {
    let scene = Scene::set(Duration::ZERO).await;
    let mut env = GATED.to_vec();
    env.push(("USER_RATE_LIMIT", "2"));
    let worker = scene.worker(&env).await;
    let path = "/api/ai/generate-flashcards";
    let (_, code, _) = worker.post(path, None, &cards(1)).await;
    assert_eq!(code, 401);
    let (_, code, body) = worker.post(path, Some("adm1n"), &json!({"content": "x"})).await;
    assert_eq!(code, 400);
    let error = body["error"].as_str().unwrap();
    assert!(error.contains("subject") && error.contains("topic"), "{error}");
    let (_, code, body) = worker
        .post("/api/jobs/transcribe", Some("adm1n"), &json!({}))
        .await;
    assert_eq!(
        (code, &body["error"]),
        (400, &json!("Unknown job type: transcribe"))
    );

    for left in ["1", "0"] {
        let (headers, code, body) = worker.post(path, Some("adm1n"), &cards(1)).await;
        assert_eq!(
            (code, headers["x-ratelimit-remaining"].to_str().unwrap()),
            (202, left),
            "{body}"
        );
        let status_url = body["statusUrl"].as_str().unwrap();
        assert_eq!(worker.get(status_url).await.0, 200);
    }
    let (headers, code, _) = worker.post(path, Some("adm1n"), &cards(1)).await;
    assert_eq!((code, headers["x-ratelimit-limit"].to_str().unwrap()), (429, "2"));
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 3500);
    let (_, limits) = worker.get("/api/rate-limits/status?userId=test").await;
    assert_eq!(limits["user"]["remaining"], json!(0), "{limits}");
    let (_, stats) = worker.get("/api/queue/stats").await;
    assert_eq!(stats["stats"]["queue"], json!("ai-jobs"));
    assert_eq!(stats["queues"].as_array().unwrap().len(), 3);
    let (code, missing) = worker.get("/api/job-status/nobody").await;
    assert_eq!((code, &missing["status"]), (404, &json!("not_found")));
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
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
    let next = b.enqueue(1).await;
    let waiting = b.until_status(&next, "delayed").await;
    assert_eq!(waiting["waitingFor"]["gate"], json!("openai"), "{waiting}");
    assert!(
        waiting["waitingFor"]["reason"]
            .as_str()
            .unwrap()
            .contains("openai has asked for a pause"),
        "{waiting}"
    );
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        1,
        "nothing else was sent"
    );
    assert_eq!(b.breaker().await["state"], json!("CLOSED"));
    let png = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        include_bytes!("../../samples/text.png"),
    );
    let (_, _, image) = b
        .post(
            "/api/jobs/process-image",
            Some("adm1n"),
            &json!({ "imageBase64": png }),
        )
        .await;
    b.until_status(image["jobId"].as_str().unwrap(), "completed")
        .await;
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        worker.ended().await;
    }
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
            .filter(|view| view.state == State::Completed)
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

#[tokio::test]
async fn an_operator_sees_and_pauses_queues_from_a_shell() {
    let scene = Scene::set(Duration::ZERO).await;
    let run = async |arguments: &[&str]| {
        let output = scene.command(arguments).output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &cards(0).to_string()])
        .await;
    assert!(
        run(&["queue", "pause", "ai-jobs"])
            .await
            .1
            .contains("ai-jobs is paused")
    );
    let worker = scene.worker(&[]).await;
    let (_, stats) = run(&["queue", "stats"]).await;
    assert!(
        stats.contains("vision-jobs") && stats.contains("waiting"),
        "{stats}"
    );
    assert!(
        run(&["job", "show", &ids[0]])
            .await
            .1
            .contains("\"state\": \"waiting\"")
    );
    run(&["queue", "resume", "ai-jobs"]).await;
    let shown = eventually("done", async || {
        Some(run(&["job", "show", &ids[0]]).await.1).filter(|shown| shown.contains("\"completed\""))
    })
    .await;
    assert!(shown.contains("flashcards"));
    assert_eq!(run(&["job", "show", "nobody"]).await.0, Some(1));
    assert_eq!(run(&["queue", "pause", "nobody"]).await.0, Some(1));
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn who_may_not_enqueue_is_told_before_the_body_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(GATED).await;
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(worker.port).unwrap()))
        .await
        .unwrap();
    let request = "POST /api/jobs/process-image HTTP/1.1\r\nhost: w\r\ncontent-length: 30000000\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    tokio::time::timeout(crate::support::PATIENCE, socket.read_exact(&mut status))
        .await
        .expect("an answer without a body")
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}
