//! Jobs of every type from the queue through the real handlers to the simulated providers, and back: results,
//! retries, failures, and how many requests each costs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use backend_worker::{
    config::Config,
    demo::point_to,
    queue::{Broker, JobView, NewJob, State},
    replica::Replica,
    simulator::{Fault, Options, Provider, Recognition, Running, Simulator},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{TestRedis, eventually};

const WAV: &[u8] = include_bytes!("../../samples/good_morning.wav");
const PNG: &[u8] = include_bytes!("../../samples/text.png");
const JPG: &[u8] = include_bytes!("../../samples/text.jpg");
const BAD_PNG: &[u8] = include_bytes!("../../samples/bad.png");

/// A whole replica, in the test's process, with a simulator.
struct Scene {
    redis: TestRedis,
    simulator: Running,
    broker: Arc<dyn Broker>,
    stop: CancellationToken,
    replica: JoinHandle<anyhow::Result<backend_worker::worker::vitals::Tally>>,
}

impl Scene {
    async fn set() -> Self {
        Self::set_with(&[]).await
    }

    async fn set_with(variables: &[(&'static str, &str)]) -> Self {
        let redis = TestRedis::start().await;
        let options = Options::default();
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
        let config = Config::from_lookup(|name| env.get(name).cloned()).unwrap();
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
    async fn run(&self, id: &str, kind: JobType, payload: Value) -> JobView {
        self.enqueue(id, kind, payload, 1).await;
        self.ended(id).await
    }

    async fn ended(&self, id: &str) -> JobView {
        eventually(&format!("{id} has ended"), async || {
            let view = self.broker.find(id).await.unwrap()?;
            matches!(view.state, State::Completed | State::Failed).then_some(view)
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

fn done(view: &JobView) -> &Value {
    assert_eq!(view.state, State::Completed, "{:?}", view.error);
    view.result.as_ref().unwrap()
}

fn failed(view: &JobView) -> &str {
    assert_eq!(view.state, State::Failed, "{:?}", view.result);
    view.error.as_deref().unwrap()
}

#[tokio::test]
async fn flashcards_come_from_the_content() {
    let scene = Scene::set().await;
    let one = scene
        .run(
            "1",
            JobType::GenerateFlashcards,
            cards("Mitochondria make energy"),
        )
        .await;
    let two = scene
        .run("2", JobType::GenerateFlashcards, cards("Ribosomes make proteins"))
        .await;
    let (one, two) = (done(&one), done(&two));
    for result in [one, two] {
        let cards = result["flashcards"].as_array().unwrap();
        assert!((10..=40).contains(&cards.len()), "{} cards", cards.len());
        assert_eq!(result["success"], true);
        assert_eq!(cards[0]["topic"], "Cells");
        assert!(result["tokenUsage"]["totalTokens"].as_u64().unwrap() > 0);
    }
    assert_ne!(
        one["flashcards"], two["flashcards"],
        "each job got its own answer"
    );
    scene.end().await;
}

#[tokio::test]
async fn audio_of_every_container_is_assessed() {
    let scene = Scene::set().await;
    let samples: [(&str, &[u8]); 7] = [
        ("wav", WAV),
        ("ogg", include_bytes!("../../samples/good_morning.ogg")),
        ("m4a", include_bytes!("../../samples/good_morning.m4a")),
        ("mp3", include_bytes!("../../samples/good_morning.mp3")),
        ("flac", include_bytes!("../../samples/good_morning.flac")),
        ("webm", include_bytes!("../../samples/good_morning.webm")),
        ("44k", include_bytes!("../../samples/wrong_44k_stereo.wav")),
    ];
    for (id, audio) in samples {
        let view = scene
            .run(id, JobType::AssessPronunciation, speech("Good morning", audio))
            .await;
        let result = done(&view);
        assert_eq!(
            result["result"]["recognizedText"]
                .as_str()
                .unwrap()
                .trim_end_matches('.'),
            "Good morning",
            "{id}"
        );
        assert!(result["result"]["pronunciationScore"].as_f64().unwrap() >= 60.0);
        assert_eq!(result["result"]["passed"], true);
        assert!(
            result["feedback"]["overall"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    scene.end().await;
}

#[tokio::test]
async fn silence_is_a_result() {
    let scene = Scene::set().await;
    let silence = include_bytes!("../../samples/silence5.wav");
    let view = scene
        .run("1", JobType::AssessPronunciation, speech("Good morning", silence))
        .await;
    assert_eq!(done(&view)["success"], false);
    assert!(
        done(&view)["error"]
            .as_str()
            .unwrap()
            .starts_with("No speech recognized")
    );
    assert_eq!(scene.requests(Provider::AzureSpeech), 1);
    let no_match = Fault::Speech {
        status: Recognition::NoMatch,
    };
    scene
        .simulator
        .faults()
        .script(Provider::AzureSpeech, [no_match])
        .unwrap();
    let view = scene
        .run("2", JobType::AssessPronunciation, speech("Good morning", WAV))
        .await;
    assert_eq!(done(&view)["success"], false);
    scene.end().await;
}

#[tokio::test]
async fn one_bad_image_does_not_lose_the_others() {
    for api in ["4.0", "3.2"] {
        let scene = Scene::set_with(&[("AZURE_VISION_API", api)]).await;
        let view = scene
            .run("1", JobType::ProcessImage, images(&[PNG, BAD_PNG, JPG]))
            .await;
        let result = &done(&view)["result"];
        assert_eq!(
            (&result["imagesProcessed"], &result["totalImages"]),
            (&json!(2), &json!(3)),
            "{api}"
        );
        assert!(
            result["text"].as_str().unwrap().matches("image ").count() >= 2,
            "{result}"
        );
        let view = scene.run("2", JobType::ProcessImage, images(&[BAD_PNG])).await;
        assert!(failed(&view).contains("images[0]"), "{}", failed(&view));
        scene.end().await;
    }
}

#[tokio::test]
async fn a_bad_payload_fails_its_job_alone_and_names_the_field() {
    let scene = Scene::set().await;
    let tiny = include_bytes!("../../samples/tiny49.png");
    let long = include_bytes!("../../samples/long31.wav");
    let bad_wav = include_bytes!("../../samples/bad.wav");
    let cases: &[(JobType, Value, &str)] = &[
        (JobType::GenerateFlashcards, json!({}), "content"),
        (JobType::GenerateFlashcards, json!({"content": 5}), "content"),
        (JobType::GenerateFlashcards, json!([]), "payload"),
        (
            JobType::GenerateFlashcards,
            json!({"content": "x", "subject": "s", "topic": "t", "userId": "u", "count": 99}),
            "count",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x"}),
            "audio",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioUrl": "http://example.com/a.wav"}),
            "audioUrl",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioUrl": "https://127.0.0.1/a.wav"}),
            "audioUrl",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioUrl": "https://169.254.169.254/latest"}),
            "audioUrl",
        ),
        (
            JobType::AssessPronunciation,
            json!({"referenceText": "x", "audioFilePath": "/etc/passwd"}),
            "UPLOADS_DIR",
        ),
        (JobType::AssessPronunciation, speech("x", bad_wav), "audioBase64"),
        (JobType::AssessPronunciation, speech("x", long), "30 s"),
        (JobType::ProcessImage, images(&[tiny]), "49"),
        (JobType::ProcessImage, json!({"images": []}), "image"),
        (
            JobType::ProcessImage,
            json!({"imageBase64": "%%%"}),
            "imageBase64",
        ),
    ];
    for (n, (kind, payload, _)) in cases.iter().enumerate() {
        scene
            .enqueue(&format!("bad-{n}"), *kind, payload.clone(), 3)
            .await;
    }
    scene
        .enqueue("good", JobType::ProcessImage, images(&[PNG]), 3)
        .await;
    for (n, (kind, payload, part)) in cases.iter().enumerate() {
        let view = scene.ended(&format!("bad-{n}")).await;
        assert!(
            failed(&view).contains(part),
            "{kind} {payload}: {}",
            failed(&view)
        );
        assert_eq!(view.attempts_made, 1, "no attempt is wasted on {kind} {part}");
    }
    done(&scene.ended("good").await);
    assert_eq!(
        scene.requests(Provider::AzureVision),
        1,
        "nothing was paid for the bad ones"
    );
    assert_eq!(
        scene.requests(Provider::AzureSpeech) + scene.requests(Provider::OpenAi),
        0
    );
    scene.end().await;
}

#[tokio::test]
async fn a_stumble_is_retried_in_the_slot_and_costs_no_attempt_of_the_job() {
    let scene = Scene::set().await;
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::status(503), Fault::Reset])
        .unwrap();
    let view = scene.run("1", JobType::GenerateFlashcards, cards("x")).await;
    done(&view);
    assert_eq!(
        scene.requests(Provider::OpenAi),
        3,
        "two failed, one did it: no library retries on its own"
    );
    assert_eq!((view.attempts_made, view.progress), (1, 100));
    let tries: Vec<(u32, &str)> = view
        .history
        .iter()
        .map(|l| (l.note.r#try, l.note.class.as_str()))
        .collect();
    assert_eq!(tries, [(1, "transient"), (2, "transient")]);
    assert!(
        view.history[0].note.cause.contains("503"),
        "{:?}",
        view.history[0]
    );
    scene.end().await;
}

#[tokio::test]
async fn progress_tells_of_each_retry() {
    let scene = Scene::set().await;
    // The second try hangs until the test has seen the progress.
    let faults = [Fault::status(500), Fault::Delay { ms: 3_600_000 }];
    scene.simulator.faults().script(Provider::OpenAi, faults).unwrap();
    scene
        .enqueue("1", JobType::GenerateFlashcards, cards("x"), 1)
        .await;
    eventually("10 + 5 × 1", async || {
        let view = scene.broker.find("1").await.unwrap()?;
        (view.progress == 15).then_some(())
    })
    .await;
    scene.simulator.stop().await;
    scene.stop.cancel();
    drop(scene.replica);
}

#[tokio::test]
async fn tries_are_exhausted_then_attempts_and_they_add_up() {
    let scene = Scene::set().await;
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(500), None)
        .unwrap();
    scene
        .enqueue("1", JobType::GenerateFlashcards, cards("x"), 3)
        .await;
    let view = scene.ended("1").await;
    assert!(failed(&view).contains("500"), "{}", failed(&view));
    // Three tries in the first attempt, one in each of the two others: not nine.
    assert_eq!(scene.requests(Provider::OpenAi), 5);
    assert_eq!((view.attempts_made, view.history.len()), (3, 5));
    scene.end().await;
}

#[tokio::test]
async fn what_the_provider_refuses_is_asked_once() {
    let scene = Scene::set_with(&[("CIRCUIT_MAX_WAIT", "0")]).await;
    let cases = [
        ("401", Fault::status(401), "deployment"),
        ("400", Fault::status(400), "permanent"),
        ("quota", Fault::Quota, "out_of_quota"),
        ("refusal", Fault::Refusal, "permanent"),
        ("filter", Fault::ContentFilter, "permanent"),
    ];
    for (n, (id, fault, class)) in cases.into_iter().enumerate() {
        scene
            .simulator
            .faults()
            .script(Provider::OpenAi, [fault])
            .unwrap();
        let view = scene.run(id, JobType::GenerateFlashcards, cards("x")).await;
        failed(&view);
        assert_eq!(scene.requests(Provider::OpenAi), n + 1, "{id}");
        assert_eq!(view.history[0].note.class, class, "{id}: {}", failed(&view));
    }
    scene.end().await;
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_once_more_with_more_room() {
    let scene = Scene::set().await;
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::Length])
        .unwrap();
    done(&scene.run("1", JobType::GenerateFlashcards, cards("x")).await);
    assert_eq!(scene.requests(Provider::OpenAi), 2);
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::Length, Fault::Length])
        .unwrap();
    failed(&scene.run("2", JobType::GenerateFlashcards, cards("x")).await);
    assert_eq!(scene.requests(Provider::OpenAi), 4);
    scene.end().await;
}

#[tokio::test]
async fn garbage_and_cut_answers_are_retried_on_every_provider() {
    let scene = Scene::set().await;
    let jobs = [
        (Provider::OpenAi, JobType::GenerateFlashcards, cards("x")),
        (
            Provider::AzureSpeech,
            JobType::AssessPronunciation,
            speech("Good morning", WAV),
        ),
        (Provider::AzureVision, JobType::ProcessImage, images(&[PNG])),
    ];
    for (provider, kind, payload) in jobs {
        for (name, faults) in [
            ("garbage", [Fault::Garbage, Fault::CutBody]),
            ("html", [Fault::Html502, Fault::Empty500]),
        ] {
            scene.simulator.faults().script(provider, faults).unwrap();
            done(
                &scene
                    .run(&format!("{provider}-{name}"), kind, payload.clone())
                    .await,
            );
        }
        assert_eq!(scene.requests(provider), 6, "{provider}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_long_retry_after_gives_the_slot_back() {
    let scene = Scene::set_with(&[("QUEUES", "ai-jobs=1")]).await;
    let limit = Fault::RateLimit {
        retry_after: Some(30.0),
    };
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "limited", limit, Some(1))
        .unwrap();
    scene
        .enqueue("limited", JobType::GenerateFlashcards, cards("limited"), 1)
        .await;
    // The one slot is free for a job of another provider while the first waits in the queue, its attempt unspent.
    done(&scene.run("other", JobType::ProcessImage, images(&[PNG])).await);
    let view = scene.broker.find("limited").await.unwrap().unwrap();
    assert_eq!((view.state, view.attempts_made), (State::Delayed, 0));
    assert_eq!(view.history[0].note.class, "rate_limited");
    assert!(
        (29_000..=30_000).contains(&view.history[0].note.delay_ms.unwrap()),
        "{:?}",
        view.history
    );
    scene.end().await;
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
    assert_eq!(failed(&scene.ended("x").await), "Unknown job type: transcribe");
    scene.end().await;

    let scene = Scene::set_with(&[("UNKNOWN_JOB_TYPE", "give-back")]).await;
    scene.redis.ask::<()>(&["EVAL", push, "0"]).await;
    let view = eventually("given back", async || {
        scene
            .broker
            .find("x")
            .await
            .unwrap()
            .filter(|view| view.state == State::Delayed)
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
            .filter(|view| view.state == State::Delayed)
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
        reason.starts_with("Circuit breaker is OPEN for openai. Retry in "),
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
