//! What the stream shows: the fleet, its jobs and failures, and that Redis is away.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{FLASHCARDS, stream, url};
use crate::support::{PATIENCE, Scene, Sse, eventually};

/// Reads frames until one is as it should be.
async fn frame(stream: &mut Sse, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let frame = stream.until("frame").await;
            if wanted(&frame) {
                return frame;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("never shown: {what}"))
}

/// The item of a list of the figures of which these fields say so.
fn item<'a>(frame: &'a Value, of: &str, fields: &[(&str, &str)]) -> &'a Value {
    let items = frame["figures"][of].as_array();
    let found = items.and_then(|items| {
        items
            .iter()
            .find(|item| fields.iter().all(|(field, is)| item[field] == *is))
    });
    found.unwrap_or(&Value::Null)
}

#[tokio::test]
async fn the_fleet_is_shown_with_its_jobs_and_its_failures_and_nothing_of_their_payloads() {
    let scene = Scene::set(Duration::ZERO).await;
    let quick = [("DRAIN_TIMEOUT", "1s")];
    let (a, b) = (scene.worker(&quick).await, scene.worker(&quick).await);
    let mut stream = stream(&a).await;
    let names = [a.name.clone(), b.name.clone()];
    let fresh = frame(&mut stream, "both replicas", |frame| {
        names
            .iter()
            .all(|name| item(frame, "replicas", &[("name", name)]).is_object())
    })
    .await;
    assert_eq!(fresh["awayMs"], Value::Null);
    assert_eq!(fresh["figures"]["queues"].as_array().unwrap().len(), 6);
    assert_eq!(
        item(&fresh, "limits", &[("provider", "azure-speech")])["concurrent"],
        json!({"used": 0, "limit": 20})
    );
    assert_eq!(fresh["figures"]["minutes"].as_array().unwrap().len(), 60);
    assert_eq!(fresh["figures"]["failures"], json!([]));

    // A wrong job, whose name is as bad as a name can be.
    let (id, kind) = ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>");
    let secret = r#"{"password":"hunter2"}"#;
    let key = format!("bull:ai-jobs:{id}");
    scene
        .redis
        .ask::<()>(&[
            "HSET",
            &key,
            "name",
            kind,
            "data",
            secret,
            "opts",
            "{}",
            "timestamp",
            "1",
        ])
        .await;
    scene.redis.ask::<()>(&["LPUSH", "bull:ai-jobs:wait", id]).await;
    scene
        .redis
        .ask::<()>(&["ZADD", "bull:ai-jobs:marker", "0", "0"])
        .await;
    let failed = frame(&mut stream, "the failure", |frame| {
        item(frame, "failures", &[("jobId", id)]).is_object()
    })
    .await;
    let failure = item(&failed, "failures", &[("jobId", id)]);
    assert_eq!(
        (&failure["type"], &failure["class"], &failure["layout"]),
        (&json!(kind), &json!("permanent"), &json!("bullmq"))
    );
    assert_eq!(
        failure["error"],
        json!(format!(
            "The request could not be processed. Unknown job type: {kind}"
        ))
    );

    // A job that hangs at its provider is in flight at one of the two.
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", Fault::Delay { ms: 120_000 }, None)
        .unwrap();
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", FLASHCARDS])
        .await;
    let running = frame(&mut stream, "the job in flight", |frame| {
        frame["figures"]["replicas"].to_string().contains(&ids[0])
    })
    .await;
    let text = running.to_string();
    assert!(text.contains("generate-flashcards") && !text.contains("marzipan") && !text.contains("hunter2"));
    let works = running["figures"]["replicas"].as_array().unwrap().iter();
    let in_flight = works.flat_map(|replica| replica["queues"].as_array().unwrap());
    let in_flight: u64 = in_flight.map(|queue| queue["inFlight"].as_u64().unwrap()).sum();
    assert_eq!(in_flight, 1);

    // One that is killed is missed; one that leaves is not.
    b.signal(Signal::SIGKILL);
    let silent = frame(&mut stream, "the silent replica", |frame| {
        item(frame, "replicas", &[("name", &names[1])])["silentMs"].as_u64() > Some(15_000)
    })
    .await;
    assert!(
        item(&silent, "replicas", &[("name", &names[0])])["silentMs"]
            .as_u64()
            .unwrap()
            < 15_000
    );
    drop(stream);
    let known: Vec<String> = scene.redis.ask(&["HKEYS", "fleet:replicas"]).await;
    assert_eq!(known.len(), 2);
    faults.clear();
    a.signal(Signal::SIGTERM);
    assert_eq!(a.ended().await.0, Some(0));
    let known: Vec<String> = scene.redis.ask(&["HKEYS", "fleet:replicas"]).await;
    assert_eq!(known, [names[1].clone()]);
}

#[tokio::test]
async fn while_redis_is_away_the_last_figures_stay_with_their_age() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let mut stream = stream(&worker).await;
    stream.until("frame").await;
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "9000", "ALL"]).await;
    let away = frame(&mut stream, "an outage", |frame| {
        frame["awayMs"].as_u64() > Some(3000)
    })
    .await;
    assert!(away["ageMs"].as_u64() > Some(3000), "{away}");
    assert_eq!(away["figures"]["queues"].as_array().unwrap().len(), 6);
    // Who comes now is told the same.
    let mut late = super::stream(&worker).await;
    let told = late.until("frame").await;
    assert!(told["awayMs"].is_u64() && told["figures"].is_object());
    let back = frame(&mut stream, "its end", |frame| frame["awayMs"].is_null()).await;
    assert!(back["ageMs"].as_u64() < Some(2000), "{back}");
}

#[tokio::test]
async fn a_paused_queue_is_told_and_remembered() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let mut stream = stream(&worker).await;
    let layouts = ["apalis", "bullmq"];
    let paused = |frame: &Value, queue: &str| {
        layouts.map(|layout| item(frame, "queues", &[("queue", queue), ("layout", layout)])["paused"] == true)
    };
    let told = async |order: &str| {
        let output = scene
            .command(&["queue", order, "ai-jobs"])
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    told("pause").await;
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", FLASHCARDS])
        .await;
    let held = frame(&mut stream, "the pause", |frame| {
        let queue = item(frame, "queues", &[("queue", "ai-jobs"), ("layout", "apalis")]);
        paused(frame, "ai-jobs") == [true; 2] && queue["waiting"] == 1
    })
    .await;
    assert_eq!(paused(&held, "audio-jobs"), [false; 2]);
    let output = scene.command(&["queue", "stats"]).output().await.unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.matches("paused").count(), 2, "{table}");
    // Who comes later sees it in the plots.
    let (_, history) = super::stream(&worker).await.next().await.unwrap();
    let queues = history["queues"].as_array().unwrap();
    let last = history["points"].as_array().unwrap().last().unwrap()[1].clone();
    for (queue, point) in queues.iter().zip(last.as_array().unwrap()) {
        assert_eq!(
            point[2],
            queue.as_str().unwrap().ends_with(":ai-jobs"),
            "{history}"
        );
    }

    told("resume").await;
    frame(&mut stream, "its end", |frame| {
        paused(frame, "ai-jobs") == [false; 2]
    })
    .await;
    eventually("the job runs", async || {
        let job = reqwest::get(url(&worker, &format!("/api/job-status/{}", ids[0])))
            .await
            .unwrap();
        (job.json::<Value>().await.unwrap()["status"] == "completed").then_some(())
    })
    .await;
}
