//! Jobs of every type from the queue through the real handlers to the simulated providers, and back: results,
//! retries, failures, and how many requests each costs.

mod decks;
mod results;
mod retries;

use std::{collections::HashMap, sync::Arc, time::Duration};

use backend_worker::{
    config::Config,
    demo::point_to,
    media_helper::HelperProgram,
    queue::{Broker, JobSnapshot, JobState, NewJob},
    replica::Replica,
    simulator::{Fault, Provider, RecognitionFault, RunningSimulator, Simulator, SimulatorOptions},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{TestRedis, eventually};

const WAV: &[u8] = include_bytes!("../../../samples/good_morning.wav");
const PNG: &[u8] = include_bytes!("../../../samples/text.png");
const JPG: &[u8] = include_bytes!("../../../samples/text.jpg");
const BAD_PNG: &[u8] = include_bytes!("../../../samples/bad.png");

/// A whole replica, in the test's process, with a simulator.
struct Scene {
    redis: TestRedis,
    simulator: RunningSimulator,
    broker: Arc<dyn Broker>,
    stop: CancellationToken,
    replica: JoinHandle<anyhow::Result<backend_worker::worker::worker_health::OutcomeTotals>>,
}

impl Scene {
    async fn set() -> Self {
        Self::set_with(&[]).await
    }

    async fn set_with(variables: &[(&'static str, &str)]) -> Self {
        let redis = TestRedis::start().await;
        let options = SimulatorOptions::default();
        let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), options.clone())
            .await
            .unwrap();
        let mut env: HashMap<&str, String> = point_to(&simulator, &options).into_iter().collect();
        env.insert("REDIS_URL", redis.server.url());
        env.insert("PORT", "0".to_owned());
        env.insert("QUEUES", "ai-jobs=8".to_owned());
        env.insert("RETRY_BASE_DELAY", "20ms".to_owned());
        env.insert("RETRY_MAX_DELAY", "100ms".to_owned());
        env.insert("AZURE_VISION_POLL", "10ms".to_owned());
        // What these tests are about is not the gate: it lets everything pass.
        for limit in [
            "OPENAI_RATE_LIMIT_RPM",
            "AZURE_VISION_RATE_LIMIT_RPM",
            "OPENAI_MAX_CONCURRENT",
            "AZURE_VISION_MAX_CONCURRENT",
        ] {
            env.insert(limit, "0".to_owned());
        }
        env.insert("OPENAI_BREAKER_FAILURES", "1000".to_owned());
        env.insert("AZURE_BREAKER_FAILURES", "1000".to_owned());
        env.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut config = Config::from_lookup(|name| env.get(name).cloned()).unwrap();
        config.media_helper = HelperProgram::at(env!("CARGO_BIN_EXE_backend-worker"));
        let replica = Replica::new(&config).await.unwrap();
        let stop = CancellationToken::new();
        let replica = tokio::spawn(replica.run(stop.clone().cancelled_owned(), std::future::pending()));
        let broker = redis.apalis("ai-jobs", "producer");
        Self {
            redis,
            simulator: simulator.spawn(),
            broker,
            stop,
            replica,
        }
    }

    async fn enqueue(&self, id: &str, kind: JobType, payload: Value, max_attempts: u32) {
        let payload = serde_json::value::to_raw_value(&payload).unwrap();
        let job = NewJob {
            id,
            kind,
            payload: &payload,
            max_attempts,
            delay: Duration::ZERO,
        };
        self.broker.enqueue(&job).await.unwrap();
    }

    /// Runs a job that is allowed one attempt to its end.
    async fn run(&self, id: &str, kind: JobType, payload: Value) -> JobSnapshot {
        self.enqueue(id, kind, payload, 1).await;
        self.ended(id).await
    }

    async fn ended(&self, id: &str) -> JobSnapshot {
        eventually(&format!("{id} has ended"), async || {
            let view = self.broker.find(id).await.unwrap()?;
            matches!(view.state, JobState::Completed | JobState::Failed).then_some(view)
        })
        .await
    }

    fn requests(&self, provider: Provider) -> usize {
        self.simulator.journal().of(provider).len()
    }

    async fn end(self) {
        self.stop.cancel();
        self.replica.await.unwrap().unwrap();
        self.simulator.stop().await;
        drop(self.redis);
    }
}

fn cards(content: &str) -> Value {
    json!({ "content": content, "subject": "Biology", "topic": "Cells", "userId": "u1" })
}

fn speech(reference: &str, audio: &[u8]) -> Value {
    json!({ "referenceText": reference, "audioBase64": BASE64_STANDARD.encode(audio) })
}

fn images(images: &[&[u8]]) -> Value {
    let images: Vec<Value> = images
        .iter()
        .map(|i| json!({ "imageBase64": BASE64_STANDARD.encode(i) }))
        .collect();
    json!({ "images": images })
}

fn done(view: &JobSnapshot) -> &Value {
    assert_eq!(view.state, JobState::Completed, "{:?}", view.error);
    view.result.as_ref().unwrap()
}

fn failed(view: &JobSnapshot) -> &str {
    assert_eq!(view.state, JobState::Failed, "{:?}", view.result);
    view.error.as_deref().unwrap()
}

#[tokio::test]
async fn a_missing_key_is_a_fault_of_the_deployment() {
    let scene = Scene::set_with(&[("OPENAI_API_KEY", "")]).await;
    let view = scene.run("1", JobType::GenerateFlashcards, cards("x")).await;
    assert!(failed(&view).contains("OPENAI_API_KEY"), "{}", failed(&view));
    scene.end().await;
}

#[tokio::test]
async fn an_unknown_type_fails_or_goes_back() {
    let scene = Scene::set().await;
    let push = "redis.call('HSET', 'ai-jobs:data', 'x', '{\"type\":\"transcribe\",\"data\":{}}') \
        redis.call('RPUSH', 'ai-jobs:active', 'x')";
    scene.redis.ask::<()>(&["EVAL", push, "0"]).await;
    assert_eq!(
        failed(&scene.ended("x").await),
        "The request could not be processed. Unknown job type: transcribe"
    );
    scene.end().await;

    let scene = Scene::set_with(&[("UNKNOWN_JOB_TYPE", "give-back")]).await;
    scene.redis.ask::<()>(&["EVAL", push, "0"]).await;
    let view = eventually("given back", async || {
        scene
            .broker
            .find("x")
            .await
            .unwrap()
            .filter(|view| view.state == JobState::Delayed)
    })
    .await;
    assert_eq!(view.attempts_made, 0);
    scene.end().await;
}

/// Pins the order of the layers: the gate stands inside of the retry. Were it outside, the breaker would count a job
/// once whatever its tries; were the queue's attempt inside, the job would lose one.
#[tokio::test]
async fn a_breaker_that_opens_between_two_tries_ends_the_loop() {
    let scene = Scene::set_with(&[("OPENAI_BREAKER_FAILURES", "2"), ("RETRY_MAX_ATTEMPTS", "5")]).await;
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(503), None)
        .unwrap();
    scene
        .enqueue("1", JobType::GenerateFlashcards, cards("x"), 1)
        .await;
    let view = eventually("blocked", async || {
        scene
            .broker
            .find("1")
            .await
            .unwrap()
            .filter(|view| view.state == JobState::Delayed)
    })
    .await;
    assert_eq!(
        scene.requests(Provider::OpenAi),
        2,
        "each try was counted, and the third was not made"
    );
    assert_eq!(
        (view.attempts_made, view.history.len()),
        (0, 2),
        "a rejection is no try, and costs no attempt"
    );
    assert_eq!(view.waiting_for.unwrap().gate.as_deref(), Some("openai"));
    scene.end().await;
}

#[tokio::test]
async fn with_no_patience_for_breakers_a_job_fails_as_it_used_to() {
    let scene = Scene::set_with(&[("CIRCUIT_MAX_WAIT", "0"), ("OPENAI_BREAKER_FAILURES", "1")]).await;
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::status(401)])
        .unwrap();
    failed(&scene.run("1", JobType::GenerateFlashcards, cards("x")).await);
    let view = scene.run("2", JobType::GenerateFlashcards, cards("x")).await;
    let reason = failed(&view);
    assert!(
        reason.starts_with(
            "The service is busy; please try again later. Circuit breaker is OPEN for openai. Retry in "
        ),
        "{reason}"
    );
    assert_eq!(scene.requests(Provider::OpenAi), 1);
    scene.end().await;
}

#[tokio::test]
async fn with_the_breaker_switched_off_every_call_is_made() {
    let scene = Scene::set_with(&[("CIRCUIT_BREAKER", "off"), ("OPENAI_BREAKER_FAILURES", "1")]).await;
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(401), None)
        .unwrap();
    for id in ["1", "2", "3"] {
        failed(&scene.run(id, JobType::GenerateFlashcards, cards("x")).await);
    }
    assert_eq!(scene.requests(Provider::OpenAi), 3);
    scene.end().await;
}
