//! Nothing of a student's text, and nothing of a medium, leaves the worker by its logs, the reasons of its failures, its
//! metrics, its traces or its HTTP answers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, routing::post};
use backend_worker::{
    queue::{JobState, NewJob},
    simulator::{Fault, Provider},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use nix::sys::signal::Signal;
use serde_json::{Value, json, value::RawValue};

use crate::support::{Scene, eventually};

/// Words that stand in each text, and in the bytes of each medium.
const TEXT: &str = "Quastenflosser";
const MEDIUM: &str = "Wellensittich";

const WAV: &[u8] = include_bytes!("../../samples/good_morning.wav");
const PNG: &[u8] = include_bytes!("../../samples/text.png");

/// A collector of traces that keeps what it gets.
async fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let kept = all.clone();
    let take = move |body: Bytes| async move { kept.lock().unwrap().extend_from_slice(&body) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, all)
}

fn encoded(start: &[u8]) -> String {
    BASE64_STANDARD.encode([start, MEDIUM.repeat(40).as_bytes()].concat())
}

/// A recording that is scored, with the word behind its sound.
fn good_recording() -> String {
    let mut file = WAV.to_vec();
    file.extend_from_slice(b"LIST");
    file.extend(u32::try_from(MEDIUM.len() + 1).unwrap().to_le_bytes());
    file.extend_from_slice(format!("{MEDIUM} ").as_bytes());
    BASE64_STANDARD.encode(file)
}

fn deck(more: &Value) -> Value {
    let mut deck = json!({"content": format!("{TEXT} swim"), "subject": TEXT, "topic": TEXT, "userId": "u1"});
    deck.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    deck
}

fn speech(audio: &Value) -> Value {
    let mut speech = json!({"referenceText": format!("Good morning {TEXT}"), "userId": "u1"});
    speech
        .as_object_mut()
        .unwrap()
        .extend(audio.as_object().unwrap().clone());
    speech
}

/// Payloads of each kind: some run, others are refused for each of their fields.
fn payloads() -> Vec<(JobType, Value)> {
    let (cards, spoken, image) = (
        JobType::GenerateFlashcards,
        JobType::AssessPronunciation,
        JobType::ProcessImage,
    );
    let long = format!("{TEXT} ").repeat(40_000);
    let wrapped = |kind: &str, text: &str| format!("data:{kind};base64,{text}");
    let mut all = vec![
        (cards, deck(&json!({}))),
        (cards, deck(&json!({"content": [TEXT]}))),
        (cards, deck(&json!({"subject": {TEXT: TEXT}}))),
        (cards, deck(&json!({"topic": " "}))),
        (
            cards,
            deck(&json!({TEXT: 1e300, "difficulty": TEXT, "language": TEXT, "count": TEXT})),
        ),
        (cards, deck(&json!({"content": long, "topic": long}))),
        (cards, json!(TEXT)),
        (cards, json!([TEXT, {TEXT: TEXT}])),
        (spoken, speech(&json!({"audioBase64": good_recording()}))),
        (
            spoken,
            speech(&json!({"audioBase64": good_recording(), "referenceText": long})),
        ),
        (
            spoken,
            speech(&json!({"audioBase64": good_recording(), "language": TEXT})),
        ),
        (
            spoken,
            speech(&json!({"audioBase64": {"type": "Buffer", "data": MEDIUM}})),
        ),
        (
            spoken,
            speech(&json!({"audioBase64": {"type": "Buffer", "data": [MEDIUM]}})),
        ),
        (spoken, speech(&json!({"audioBase64": [[MEDIUM]]}))),
        (
            spoken,
            speech(&json!({"audioUrl": wrapped("audio/webm;codecs=opus", &encoded(b"\x1a\x45\xdf\xa3"))})),
        ),
        (
            image,
            json!({"imageBase64": BASE64_STANDARD.encode([PNG, MEDIUM.as_bytes()].concat())}),
        ),
        (image, json!({"imageUrl": format!("data:image/png,{MEDIUM}")})),
        (
            image,
            json!({"images": [{"imageBase64": format!("{MEDIUM}?")}, {"imageFilePath": format!("data:,{MEDIUM}")}]}),
        ),
        (image, json!({"images": MEDIUM})),
        (
            image,
            json!({"imageBase64": encoded(PNG)[..encoded(PNG).len() / 2]}),
        ),
    ];
    // Enough that the providers answer some of them.
    for _ in 0..4 {
        all.push((cards, deck(&json!({}))));
        all.push((spoken, speech(&json!({"audioBase64": good_recording()}))));
        all.push((
            image,
            json!({"imageBase64": BASE64_STANDARD.encode([PNG, MEDIUM.as_bytes()].concat())}),
        ));
    }
    // Files of each format that break off, or are of no format.
    for start in [
        &b""[..],
        b"RIFF\xff\xff\0\0WAVEfmt ",
        b"ID3\x04\0\0\0\0\0\0",
        b"OggS\0\x02",
        b"fLaC\0\0\0\x22",
        b"\0\0\0\x18ftypM4A \0\0\0\0mp42isom",
        b"<!DOCTYPE html>",
        b"<svg>",
        b"{",
        b"%PDF-1.7",
        b"\xff\xd8\xff\xe1\0\x20Exif\0\0",
        b"GIF89a",
        b"II*\0\x08\0\0\0\x01\0",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    ] {
        all.push((spoken, speech(&json!({"audioBase64": encoded(start)}))));
        all.push((image, json!({"imageBase64": encoded(start)})));
    }
    all
}

/// Places in which a text shows the student's text, or bytes of a medium.
fn shown(text: &str) -> Vec<String> {
    let sound: String = BASE64_STANDARD.encode(WAV).chars().skip(2_000).take(24).collect();
    let coded = encoded(b"");
    let words = [TEXT, MEDIUM, &sound, &coded[..16], &coded[100..116]];
    let found = words.into_iter().filter_map(|word| text.find(word));
    found
        .map(|at| {
            let start = text[..at]
                .char_indices()
                .rev()
                .nth(120)
                .map_or(0, |(start, _)| start);
            text[start..].chars().take(300).collect()
        })
        .collect()
}

#[tokio::test]
async fn no_text_and_no_medium_shows_in_logs_reasons_metrics_traces_or_answers() {
    let scene = Scene::set(Duration::ZERO).await;
    let (url, traces) = collector().await;
    let worker = scene
        .worker(&[
            ("RUST_LOG", "debug"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("CIRCUIT_BREAKER", "off"),
            ("RETRY_MAX_ATTEMPTS", "1"),
        ])
        .await;
    // Faults whose answers hold nothing of the request.
    for provider in [Provider::OpenAi, Provider::AzureSpeech, Provider::AzureVision] {
        let faults = [Fault::Html502, Fault::Garbage, Fault::CutBody];
        scene.simulator.faults().script(provider, faults).unwrap();
    }
    let mut leaks = Vec::new();
    let mut ended = [0, 0];
    for (layout, broker) in [
        scene.redis.apalis("ai-jobs", "producer"),
        scene.redis.bullmq("ai-jobs", "producer"),
    ]
    .into_iter()
    .enumerate()
    {
        for (index, (kind, payload)) in payloads().into_iter().enumerate() {
            let (id, payload) = (format!("job-{layout}-{index}"), payload.to_string());
            let payload = RawValue::from_string(payload).unwrap();
            let job = NewJob {
                id: &id,
                kind,
                payload: &payload,
                max_attempts: 1,
                delay: Duration::ZERO,
            };
            assert!(broker.enqueue(&job).await.unwrap());
        }
        for index in 0..payloads().len() {
            let id = format!("job-{layout}-{index}");
            let view = eventually(&format!("{id} has ended"), async || {
                let view = broker.find(&id).await.unwrap()?;
                matches!(view.state, JobState::Completed | JobState::Failed).then_some(view)
            })
            .await;
            ended[usize::from(view.state == JobState::Completed)] += 1;
            leaks.extend(shown(&view.error.unwrap_or_default()));
        }
    }
    assert!(ended[0] > 60 && ended[1] > 4, "{ended:?} failed and completed");

    let base = format!("http://localhost:{}", worker.port);
    let http = reqwest::Client::new();
    for body in [
        format!("{{\"content\":\"{TEXT}"),
        deck(&json!({"content": 7, "topic": [TEXT]})).to_string(),
        format!("\"{TEXT}\""),
        format!("{TEXT}\u{0}"),
        speech(&json!({"audioBase64": format!("{MEDIUM}?")})).to_string(),
        speech(&json!({"audioUrl": format!("data:audio/wav,{MEDIUM}")})).to_string(),
    ] {
        for route in ["generate-flashcards", "assess-pronunciation", "process-image"] {
            let answer = http.post(format!("{base}/api/ai/{route}")).body(body.clone());
            leaks.extend(shown(&answer.send().await.unwrap().text().await.unwrap()));
        }
    }
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap();
    leaks.extend(shown(&metrics.text().await.unwrap()));

    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0));
    let log = log.join("\n");
    assert!(log.contains("\"level\":\"DEBUG\""), "it is talkative");
    leaks.extend(shown(&log));
    let traces = String::from_utf8_lossy(&traces.lock().unwrap()).into_owned();
    assert!(
        traces.contains("backend-worker"),
        "spans arrive: {} bytes",
        traces.len()
    );
    leaks.extend(shown(&traces));
    assert!(
        leaks.is_empty(),
        "{} places, such as {:#?}",
        leaks.len(),
        &leaks[..leaks.len().min(12)]
    );
}
