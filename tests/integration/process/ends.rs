//! How replicas end: told to, told twice, killed, or mistaken for each other. No job is lost.

use std::time::Duration;

use backend_worker::{queue::JobState, simulator::Provider};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Scene, eventually};

#[tokio::test]
async fn two_hundred_mixed_jobs_survive_a_sigterm_in_the_middle() {
    let scene = Scene::set(Duration::from_millis(30)).await;
    let wav = include_bytes!("../../../samples/good_morning.wav");
    let png = include_bytes!("../../../samples/text.png");
    let b64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let folder = std::env::temp_dir().join(format!("backend-worker-test-{}", scene.redis.server.port()));
    std::fs::create_dir_all(&folder).unwrap();
    let kinds = [
        (
            "generate-flashcards",
            "ai-jobs",
            67,
            json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}),
        ),
        (
            "assess-pronunciation",
            "audio-jobs",
            67,
            json!({"referenceText": "Good morning", "audioBase64": b64(wav)}),
        ),
        (
            "process-image",
            "vision-jobs",
            66,
            json!({"imageBase64": b64(png)}),
        ),
    ];
    let mut ids = Vec::new();
    for (kind, queue, count, payload) in &kinds {
        let file = folder.join(format!("{kind}.json"));
        std::fs::write(&file, payload.to_string()).unwrap();
        let data = format!("@{}", file.display());
        let added = scene
            .enqueue(&[kind, "--data", &data, "--count", &count.to_string()])
            .await;
        ids.extend(added.into_iter().map(|id| (*kind, *queue, id)));
    }
    assert_eq!(ids.len(), 200);

    let first = scene.worker(&[("CONCURRENCY", "4")]).await;
    scene
        .simulator
        .journal()
        .wait_until(|journal| journal.entries(0, 100).len() >= 40)
        .await;
    first.signal(Signal::SIGTERM);
    let (code, log) = first.ended().await;
    assert_eq!(code, Some(0));
    let closing: Value = serde_json::from_str(log.last().unwrap()).unwrap();
    let done_by_first = closing["succeeded"].as_u64().unwrap();
    assert!((1..200).contains(&done_by_first), "{closing}");
    assert_eq!(
        (&closing["message"], &closing["lost"]),
        (&json!("stopped"), &json!(0))
    );

    let second = scene.worker(&[]).await;
    for (kind, queue, id) in &ids {
        let broker = scene.redis.apalis(queue, "onlooker");
        let view = eventually(&format!("{kind} {id} completed"), async || {
            broker
                .find(id)
                .await
                .unwrap()
                .filter(|view| view.state == JobState::Completed)
        })
        .await;
        let result = view.result.unwrap();
        assert_eq!(result["success"], true);
        match *kind {
            "generate-flashcards" => assert!(!result["flashcards"].as_array().unwrap().is_empty()),
            "assess-pronunciation" => {
                let text = result["result"]["recognizedText"].as_str().unwrap();
                assert_eq!(text.trim_end_matches('.'), "Good morning");
            }
            _ => assert!(result["result"]["text"].as_str().unwrap().contains("800x240")),
        }
    }
    let calls: usize = [Provider::OpenAi, Provider::AzureSpeech, Provider::AzureVision]
        .map(|provider| scene.simulator.journal().of(provider).len())
        .into_iter()
        .sum();
    assert_eq!(calls, 200, "each job was paid for once");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await.0, Some(0));
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn a_killed_replica_loses_no_job() {
    let scene = Scene::set(Duration::from_millis(200)).await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", "30"])
        .await;
    let lease = [("LEASE_TTL", "5s"), ("CONCURRENCY", "10")];
    let first = scene.worker(&lease).await;
    scene
        .simulator
        .journal()
        .wait_until(|journal| journal.counts(Provider::OpenAi).current >= 5)
        .await;
    first.signal(Signal::SIGKILL);
    assert_eq!(first.ended().await.0, None, "killed by a signal");
    assert!(
        broker.counts().await.unwrap().active > 0,
        "it died with jobs in its hands"
    );
    let second = scene.worker(&lease).await;
    for id in &ids {
        eventually(&format!("{id} completed"), async || {
            broker
                .find(id)
                .await
                .unwrap()
                .filter(|view| view.state == JobState::Completed)
        })
        .await;
    }
    assert_eq!(broker.counts().await.unwrap().completed, 30);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await.0, Some(0));
}

#[tokio::test]
async fn replicas_of_one_name_do_not_collide() {
    let scene = Scene::set(Duration::ZERO).await;
    let same = [("RAILWAY_REPLICA_ID", "the-same")];
    let (a, b) = (scene.worker(&same).await, scene.worker(&same).await);
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually("both hold a lease", async || {
        (scene.redis.ask::<usize>(&["ZCARD", "ai-jobs:leases"]).await == 2).then_some(())
    })
    .await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", "20"])
        .await;
    eventually("all completed", async || {
        (broker.counts().await.unwrap().completed == 20).then_some(())
    })
    .await;
    assert_eq!(scene.simulator.journal().of(Provider::OpenAi).len(), 20);
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await.0, Some(0));
    }
    assert_eq!(
        scene.redis.ask::<usize>(&["ZCARD", "ai-jobs:leases"]).await,
        0,
        "leases are handed back"
    );
}

#[tokio::test]
async fn a_second_sigterm_hands_back_at_once() {
    let scene = Scene::set(Duration::from_secs(3600)).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", "5"])
        .await;
    let worker = scene.worker(&[("DRAIN_TIMEOUT", "1h")]).await;
    scene
        .simulator
        .journal()
        .wait_until(|journal| journal.counts(Provider::OpenAi).current >= 5)
        .await;
    worker.signal(Signal::SIGTERM);
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    // Two signals at once would count as one.
    eventually("the first is heard", async || {
        worker
            .log()
            .iter()
            .any(|line| line.contains("SIGTERM received"))
            .then_some(())
    })
    .await;
    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0));
    assert!(log.last().unwrap().contains("\"released\":5"), "{log:?}");
    assert_eq!(broker.counts().await.unwrap().waiting, 5);
}
