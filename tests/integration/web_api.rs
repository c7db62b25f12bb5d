//! The existing web API in front of this worker: it enqueues, polls and streams with BullMQ's own classes, and notices
//! no difference.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{self, Sse, WebApi, eventually};

/// The whole of it: Redis, providers, web API; the worker comes when the test is ready for it.
struct Scene {
    process: support::Scene,
    web: WebApi,
}

impl Scene {
    async fn set() -> Self {
        let process = support::Scene::set(Duration::ZERO).await;
        let web = WebApi::start(&process.redis, 20).await;
        Self { process, web }
    }

    /// Enqueues a job, follows it with both streams, and has it run to its end; what they told.
    async fn run(&self, id: &str) -> (Vec<(String, Value)>, Vec<(String, Value)>) {
        let mut theirs = self.web.events(id).await;
        let pause = async |paused| {
            let broker = self.process.redis.bullmq("ai-jobs", "operator");
            broker.set_paused(paused).await.unwrap();
        };
        pause(true).await;
        let worker = self.process.worker(&[]).await;
        let url = format!("http://localhost:{}/api/job-events?jobId={id}", worker.port);
        let mut ours = Sse::open(&url).await;
        ours.until("connected").await;
        pause(false).await;
        let told = (theirs.rest().await, ours.rest().await);
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await.0, Some(0));
        told
    }
}

fn cards(content: &str) -> Value {
    json!({ "content": content, "subject": "Biology", "topic": "Cells", "userId": "u1" })
}

/// The events' names, and the numbers of the progress among them.
fn names(events: &[(String, Value)]) -> Vec<String> {
    let name = |(name, body): &(String, Value)| match name.as_str() {
        "progress" => body["progress"].to_string(),
        _ => name.clone(),
    };
    events.iter().map(name).collect()
}

#[tokio::test]
async fn the_life_of_a_flashcard_job() {
    let scene = Scene::set().await;
    let id = scene.web.enqueue(&cards("Mitochondria make energy")).await;
    assert!(id.starts_with("ai-"), "{id}");
    let (_, waiting) = scene.web.get(&format!("/api/job-status/{id}")).await;
    assert_eq!(
        (&waiting["status"], &waiting["progress"], &waiting["attemptsMade"]),
        (&json!("waiting"), &json!(0), &json!(0))
    );
    let (theirs, ours) = scene.run(&id).await;
    assert_eq!(names(&theirs), ["active", "10", "100", "completed"]);
    let mut told = names(&ours);
    told.retain(|name| name != "card");
    assert_eq!(
        told,
        names(&theirs),
        "both streams tell the same, ours the cards as well"
    );

    let job = scene.web.until(&id, "completed").await;
    assert_eq!((&job["progress"], &job["attemptsMade"]), (&json!(100), &json!(1)));
    assert!(
        job["result"]["flashcards"].as_array().unwrap().len() >= 10,
        "{job}"
    );
    for events in [&theirs, &ours] {
        assert_eq!(events.last().unwrap().1["result"], job["result"]);
    }
}

#[tokio::test]
async fn a_retried_job_shows_the_progress_that_the_node_worker_gave() {
    let scene = Scene::set().await;
    // Three tries of the first attempt, and the only one of the second.
    let faults = [503, 500, 502, 503].map(Fault::status);
    scene
        .process
        .simulator
        .faults()
        .script(Provider::OpenAi, faults)
        .unwrap();
    let id = scene.web.enqueue(&cards("Ribosomes make proteins")).await;
    let (theirs, ours) = scene.run(&id).await;
    assert_eq!(
        names(&theirs),
        [
            "active",
            "10",
            "15",
            "20",
            "retrying", // the first attempt
            "active",
            "10",
            "retrying", // the second
            "active",
            "10",
            "100",
            "completed"
        ]
    );
    let (name, retrying) = ours.iter().find(|(name, _)| name == "retrying").unwrap();
    assert_eq!(
        (name.as_str(), &retrying["try"]),
        ("retrying", &json!(1)),
        "ours tells of each try"
    );
    assert_eq!(
        ours.iter().filter(|(name, _)| name == "retrying").count(),
        4,
        "{ours:?}"
    );
    assert_eq!(ours.last().unwrap().0, "completed");
    let job = scene.web.until(&id, "completed").await;
    assert_eq!((&job["progress"], &job["attemptsMade"]), (&json!(100), &json!(3)));
}

#[tokio::test]
async fn a_failing_job_says_why_and_counts() {
    let scene = Scene::set().await;
    let fault = Fault::status(400);
    scene
        .process
        .simulator
        .faults()
        .script(Provider::OpenAi, [fault])
        .unwrap();
    let id = scene.web.enqueue(&cards("x")).await;
    let (theirs, ours) = scene.run(&id).await;
    assert_eq!(names(&theirs), ["active", "10", "failed"]);
    assert_eq!(names(&ours), names(&theirs));
    let job = scene.web.until(&id, "failed").await;
    assert_eq!(job["attemptsMade"], 1, "no attempt is wasted on it");
    for events in [&theirs, &ours] {
        assert_eq!(events.last().unwrap().1["error"], job["error"]);
        assert!(!job["error"].as_str().unwrap().is_empty());
    }
    let (_, stats) = scene.web.get("/api/queue/stats").await;
    assert_eq!(
        (&stats["stats"]["failed"], &stats["stats"]["waiting"]),
        (&json!(1), &json!(0))
    );
}

#[tokio::test]
async fn its_jobs_are_shown_by_our_routes_as_by_its_own() {
    let scene = Scene::set().await;
    let worker = scene.process.worker(&[]).await;
    let get = async |path: &str| -> (u16, Value) {
        let answer = reqwest::get(format!("http://localhost:{}{path}", worker.port))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    let id = scene.web.enqueue(&cards("Cells")).await;
    let theirs = scene.web.until(&id, "completed").await;
    let (code, ours) = get(&format!("/api/job-status/{id}")).await;
    assert_eq!((code, &ours["queue"]), (200, &json!("ai-jobs")));
    for field in ["success", "jobId", "status", "progress", "attemptsMade", "result"] {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
    let own = cards("Cells").to_string();
    scene
        .process
        .enqueue(&["generate-flashcards", "--data", &own, "--wait"])
        .await;
    let (_, stats) = get("/api/queue/stats").await;
    let completed = |layout: &str| {
        let queues = stats["queues"].as_array().unwrap();
        let queue = queues
            .iter()
            .find(|q| q["queue"] == "ai-jobs" && q["layout"] == layout);
        queue.unwrap()["completed"].clone()
    };
    assert_eq!(
        (completed("bullmq"), completed("apalis")),
        (json!(1), json!(1)),
        "{stats}"
    );
    let (_, theirs) = scene.web.get("/api/queue/stats").await;
    for state in ["waiting", "active", "completed", "failed", "delayed"] {
        assert_eq!(stats["stats"][state], theirs["stats"][state], "{state}");
    }
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn what_was_paid_for_is_answered_from_its_cache() {
    let scene = Scene::set().await;
    let data = cards("Cells");
    let (code, body) = scene.web.generate(&data).await;
    let id = body["jobId"].as_str().unwrap();
    let key = body["idempotencyKey"].as_str().unwrap();
    assert_eq!(code, 202);
    assert!(key.starts_with("idempotency:generate-flashcards:"), "{key}");
    let options: String = scene
        .process
        .redis
        .ask(&["HGET", &format!("bull:ai-jobs:{id}"), "opts"])
        .await;
    let options: Value = serde_json::from_str(&options).unwrap();
    assert_eq!(options["idempotencyKey"], key, "the worker reads it there");
    // What a worker leaves there is answered without another job.
    let entry = json!({"jobId": id, "result": {"success": true}, "cachedAt": 1}).to_string();
    let _: String = scene.process.redis.ask(&["SET", key, &entry]).await;
    let (code, body) = scene.web.generate(&data).await;
    assert_eq!(
        (code, &body["cached"], &body["jobId"]),
        (200, &json!(true), &json!(id))
    );
    assert_eq!(body["result"], json!({"success": true}));
    eventually("no second job was added", async || {
        let (_, stats) = scene.web.get("/api/queue/stats").await;
        (stats["stats"]["waiting"] == 1).then_some(())
    })
    .await;
}
