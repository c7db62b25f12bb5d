//! Inputs as phones, browsers and JavaScript send them, from the queue of either layout to the provider.

use std::time::Duration;

use backend_worker::{
    queue::{Broker, JobSnapshot, JobState, NewJob},
    simulator::Provider,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use nix::sys::signal::Signal;
use serde_json::{Value, json, value::RawValue};

use crate::support::{Scene, eventually};

const WAV: &[u8] = include_bytes!("../../samples/good_morning.wav");
const MP3: &[u8] = include_bytes!("../../samples/good_morning.mp3");
const PNG: &[u8] = include_bytes!("../../samples/text.png");
const JPG: &[u8] = include_bytes!("../../samples/text.jpg");

/// Half of an emoji, as `slice` leaves it, and a NUL.
const CUT_TEXT: &str = r#"{"content":"Mitochondria make energy \ud83d","subject":"Biology\u0000","topic":"Cells \ude00","userId":"u\ud83d1"}"#;

async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: &str) {
    let payload = RawValue::from_string(payload.to_owned()).unwrap();
    let job = NewJob {
        id,
        kind,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
}

async fn ended(broker: &dyn Broker, id: &str) -> JobSnapshot {
    eventually(&format!("{id} has ended"), async || {
        let view = broker.find(id).await.unwrap()?;
        matches!(view.state, JobState::Completed | JobState::Failed).then_some(view)
    })
    .await
}

#[tokio::test]
async fn a_text_that_was_cut_inside_of_an_emoji_runs_in_both_layouts_and_over_http() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    for broker in [
        scene.redis.apalis("ai-jobs", "producer"),
        scene.redis.bullmq("ai-jobs", "producer"),
    ] {
        add(&*broker, "cut", JobType::GenerateFlashcards, CUT_TEXT).await;
        let view = ended(&*broker, "cut").await;
        assert_eq!(view.state, JobState::Completed, "{:?}", view.error);
        let result = view.result.unwrap();
        assert_eq!(result["flashcards"][0]["topic"], json!("Cells \u{fffd}"));
    }
    let url = format!("http://localhost:{}/api/ai/generate-flashcards", worker.port);
    let answer = reqwest::Client::new()
        .post(url)
        .body(CUT_TEXT)
        .send()
        .await
        .unwrap();
    let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert_eq!(status, 202, "{body}");
    let printed = scene
        .enqueue(&["generate-flashcards", "--data", CUT_TEXT, "--wait"])
        .await;
    assert!(printed[0].contains("\"completed\""), "{printed:?}");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

/// Requests that the providers have had.
fn calls(scene: &Scene) -> usize {
    let journal = scene.simulator.journal();
    let all = [Provider::OpenAi, Provider::AzureSpeech, Provider::AzureVision];
    all.into_iter().map(|provider| journal.of(provider).len()).sum()
}

/// Media in each field and spelling: scored, or refused before a call, and never quoted.
#[tokio::test]
async fn media_are_read_in_every_spelling_or_refused_before_they_are_paid() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("RUST_LOG", "debug")]).await;
    let broker = scene.redis.bullmq("ai-jobs", "producer");
    let (wav, mp3, png, jpg) = (
        BASE64_STANDARD.encode(WAV),
        BASE64_STANDARD.encode(&MP3[..MP3.len() * 6 / 10]),
        BASE64_STANDARD.encode(PNG),
        BASE64_STANDARD.encode(JPG),
    );
    let (speech, image) = (JobType::AssessPronunciation, JobType::ProcessImage);
    let cases: [(JobType, Value, Option<&str>); 12] = [
        (
            speech,
            json!({"audioUrl": format!("data:audio/wav;base64,{wav}")}),
            None,
        ),
        (speech, json!({"audioBase64": wav.replace('+', " ")}), None),
        (
            speech,
            json!({"audioFilePath": format!("data:audio/wav;base64,{wav}")}),
            None,
        ),
        (
            speech,
            json!({"audioBase64": {"type": "Buffer", "data": WAV}}),
            None,
        ),
        (
            speech,
            json!({"audioBase64": mp3}),
            Some("MP3 recording is incomplete"),
        ),
        (
            speech,
            json!({"audioUrl": "blob:SECRETSECRET"}),
            Some("is not an https URL"),
        ),
        (
            image,
            json!({"imageUrl": format!("data:image/png;base64,{png}")}),
            None,
        ),
        (
            image,
            json!({"imageBase64": format!("data:image/jpeg;base64,{}", jpg.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D"))}),
            None,
        ),
        (
            image,
            json!({"images": [{"imageUrl": format!("data:image/jpeg;base64,{jpg}")}]}),
            None,
        ),
        (image, json!({"imageBase64": png[..png.len() / 2]}), Some("")),
        (
            image,
            json!({"imageUrl": format!("data:image/png,{png}")}),
            Some("data URL without base64"),
        ),
        (
            image,
            json!({"imageBase64": BASE64_STANDARD.encode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")}),
            Some("HEIC"),
        ),
    ];
    for (index, (kind, mut payload, refusal)) in cases.into_iter().enumerate() {
        if kind == speech {
            payload["referenceText"] = json!("Good morning");
        }
        let before = calls(&scene);
        let id = format!("medium-{index}");
        add(&*broker, &id, kind, &payload.to_string()).await;
        let view = ended(&*broker, &id).await;
        let calls = calls(&scene) - before;
        match refusal {
            None => assert_eq!(
                (view.state, calls),
                (JobState::Completed, 1),
                "{index}: {:?}",
                view.error
            ),
            Some(part) => {
                let why = view.error.unwrap_or_default();
                assert_eq!((view.state, calls), (JobState::Failed, 0), "{index}: {why}");
                assert!(why.contains(part) && why.len() < 600, "{index}: {why}");
                assert!(
                    !why.contains(&png[100..130]) && !why.contains("SECRET"),
                    "{index}: {why}"
                );
            }
        }
    }
    worker.signal(Signal::SIGTERM);
    let (_, log) = worker.ended().await;
    let log = format!("{log:?}");
    for media in [&wav[100..130], &png[100..130], &jpg[100..130]] {
        assert!(!log.contains(media), "media in the log");
    }
}

#[tokio::test]
async fn a_deployment_of_one_layout_enqueues_into_it() {
    let scene = Scene::set(Duration::ZERO).await;
    let queues = [
        ("QUEUES", "bullmq:ai-jobs"),
        ("USER_RATE_LIMIT", "1"),
        ("ADMIN_FROM_LOOPBACK", "on"),
    ];
    let deck =
        json!({"content": "Cells", "subject": "Biology", "topic": "Cells", "userId": "u1"}).to_string();
    let output = scene
        .command(&[
            "enqueue",
            "generate-flashcards",
            "--data",
            &deck,
            "--id",
            "from-shell",
        ])
        .envs(queues)
        .output()
        .await
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let broker = scene.redis.bullmq("ai-jobs", "producer");
    assert!(broker.find("from-shell").await.unwrap().is_some());
    // A queue that is not served is named.
    let output = scene
        .command(&[
            "enqueue",
            "generate-flashcards",
            "--data",
            &deck,
            "--queue",
            "apalis:ai-jobs",
        ])
        .envs(queues)
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && told.contains("QUEUES does not name apalis:ai-jobs"),
        "{told}"
    );
    // No worker runs yet.
    let output = scene
        .command(&["enqueue", "generate-flashcards", "--data", &deck, "--wait"])
        .envs(queues)
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("no worker serves bullmq:ai-jobs"),
        "{told}"
    );

    let worker = scene.worker(&queues).await;
    let url = format!("http://localhost:{}/api/ai/generate-flashcards", worker.port);
    let client = reqwest::Client::new();
    let post = async |body: &str| {
        client
            .post(&url)
            .body(body.to_owned())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    // What is refused costs nothing of the one request that the user has.
    assert_eq!(post(r#"{"content":"x","userId":"u1"}"#).await, 400);
    assert_eq!(post(&deck).await, 202);
    assert_eq!(post(&deck).await, 429);
    assert_eq!(ended(&*broker, "from-shell").await.state, JobState::Completed);
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}
