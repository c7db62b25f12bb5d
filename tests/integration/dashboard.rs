//! The dashboard's routes: the page, its stream, and what stands in the way of strangers.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Scene, Sse, TestRedis, Worker, eventually};

const FLASHCARDS: &str = r#"{"content":"marzipan","subject":"s","topic":"t","userId":"u"}"#;

fn url(worker: &Worker, path: &str) -> String {
    format!("http://localhost:{}{path}", worker.port)
}

async fn stream(worker: &Worker) -> Sse {
    Sse::open(&url(worker, "/api/dashboard/events")).await
}

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
    tokio::time::timeout(crate::support::PATIENCE, found)
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

async fn calls(redis: &TestRedis, command: &str) -> u64 {
    let stats: String = redis.ask(&["INFO", "commandstats"]).await;
    let line = stats.lines().find_map(|line| {
        line.strip_prefix(&format!("cmdstat_{command}:calls="))?
            .split(',')
            .next()
    });
    line.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn the_page_is_open_and_its_data_is_not() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene
        .worker(&[("READ_TOKEN", "r3ad"), ("ADMIN_TOKEN", "adm1n")])
        .await;
    let page = reqwest::get(url(&worker, "/dashboard")).await.unwrap();
    assert_eq!(page.status(), 200);
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, is) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(header(name), is);
    }
    let text = page.text().await.unwrap();
    assert!(
        text.starts_with("<!doctype html>") && text.len() < 100_000,
        "{}",
        text.len()
    );
    assert!(!text.contains("r3ad") && !text.contains(&worker.name));

    let events = url(&worker, "/api/dashboard/events");
    let refused = reqwest::get(&events).await.unwrap();
    assert_eq!(refused.status(), 401);
    let in_url = reqwest::get(format!("{events}?token=r3ad")).await.unwrap();
    assert_eq!(in_url.status(), 401, "a token in a URL is none");
    for token in ["r3ad", "adm1n"] {
        let mut stream = Sse::open_with(&events, Some(token)).await;
        assert_eq!(stream.next().await.unwrap().0, "history");
        stream.until("frame").await;
    }
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
    assert_eq!(failure["error"], json!(format!("Unknown job type: {kind}")));

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
async fn redis_is_read_once_for_all_viewers_and_not_at_all_for_none() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    // Only a sampling reads whole hashes: the fleet's minutes, its replicas, and three gates.
    const HASHES: u64 = 5;
    let before = calls(&scene.redis, "hgetall").await;
    let mut first = stream(&worker).await;
    first.until("frame").await;
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(stream(&worker).await);
    }
    let begun = calls(&scene.redis, "hgetall").await;
    assert!(begun > before);
    const FRAMES: u64 = 3;
    for _ in 0..FRAMES {
        first.until("frame").await;
    }
    let read = calls(&scene.redis, "hgetall").await - begun;
    let once = HASHES * (FRAMES - 1)..=HASHES * (FRAMES + 1);
    assert!(once.contains(&read), "{read} for ten viewers");
    for other in &mut others {
        other.until("frame").await;
    }

    drop((first, others));
    // What was under way when the last one left may still have been read.
    let beat = async || -> f64 { scene.redis.ask(&["ZSCORE", "fleet:seen", &worker.name]).await };
    let next_beat = async || {
        let last = beat().await;
        eventually("a heartbeat", async || (beat().await > last).then_some(())).await;
    };
    next_beat().await;
    let left = calls(&scene.redis, "hgetall").await;
    next_beat().await;
    assert_eq!(calls(&scene.redis, "hgetall").await, left, "somebody still reads");
    // Who comes back finds what was seen before, and figures of now.
    let mut again = stream(&worker).await;
    let (name, history) = again.next().await.unwrap();
    assert_eq!(name, "history");
    assert!(history["points"].as_array().unwrap().len() >= 4, "{history}");
    assert_eq!(history["queues"].as_array().unwrap().len(), 6);
    assert!(again.until("frame").await["ageMs"].as_u64() < Some(2000));
}

#[tokio::test]
async fn there_is_room_for_so_many_viewers_and_then_for_the_next() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let mut viewers = Vec::new();
    for _ in 0..32 {
        viewers.push(stream(&worker).await);
    }
    let refused = reqwest::get(url(&worker, "/api/dashboard/events")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    viewers.pop();
    eventually("a place comes free", async || {
        let answer = reqwest::get(url(&worker, "/api/dashboard/events")).await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
    // Streams do not hold up a stop.
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
    viewers[0].rest().await;
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
    let mut late = self::stream(&worker).await;
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
    let (_, history) = self::stream(&worker).await.next().await.unwrap();
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

/// In the apalis layout the type is a part of the payload, which is large where it holds media, and is dropped then once
/// the job has ended.
#[tokio::test]
async fn the_type_of_a_job_is_told_in_either_layout() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let audio = include_bytes!("../../samples/good_morning.wav");
    let audio = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, audio);
    assert!(audio.len() > 16 * 1024, "large enough to be dropped");
    let file = std::env::temp_dir().join(format!("backend-worker-type-{}.json", worker.port));
    std::fs::write(
        &file,
        json!({ "referenceText": "Good morning", "audioBase64": audio }).to_string(),
    )
    .unwrap();
    let data = format!("@{}", file.display());
    let ended = scene
        .enqueue(&["assess-pronunciation", "--data", &data, "--wait"])
        .await;
    std::fs::remove_file(file).unwrap();
    let ended: Value = serde_json::from_str(&ended.concat()).unwrap();

    // As other producers of the layout leave them, and no queue that is served hands them out.
    let padding = "x".repeat(300_000);
    let (small, large, wrong) = (
        json!({"data": {"content": "c"}, "type": "generate-flashcards"}).to_string(),
        json!({"type": "process-image", "data": {"imageBase64": padding}}).to_string(),
        "{\"type\": 7}".to_owned(),
    );
    scene.redis.ask::<()>(&["SET", "ai-jobs:paused", "1"]).await;
    for (id, payload) in [("small", &small), ("large", &large), ("wrong", &wrong)] {
        scene
            .redis
            .ask::<()>(&["HSET", "ai-jobs:data", id, payload])
            .await;
        scene.redis.ask::<()>(&["RPUSH", "ai-jobs:active", id]).await;
    }
    for (id, kind) in [
        (ended["id"].as_str().unwrap(), json!("assess-pronunciation")),
        ("small", json!("generate-flashcards")),
        ("large", json!("process-image")),
        ("wrong", Value::Null),
    ] {
        let job = reqwest::get(url(&worker, &format!("/api/job-status/{id}")))
            .await
            .unwrap();
        let job: Value = job.json().await.unwrap();
        assert_eq!(
            (&job["layout"], &job["type"]),
            (&json!("apalis"), &kind),
            "{id}: {job}"
        );
    }
    let list = reqwest::get(url(&worker, "/api/jobs?state=waiting&queue=apalis:ai-jobs"))
        .await
        .unwrap();
    let list = list.json::<Value>().await.unwrap();
    let kinds: Vec<_> = list["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["type"].clone())
        .collect();
    assert_eq!(
        kinds,
        [Value::Null, json!("process-image"), json!("generate-flashcards")]
    );
}

#[tokio::test]
async fn a_job_is_looked_for_in_the_queue_that_is_named() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("QUEUES", "bullmq:one,bullmq:two")]).await;
    for (queue, reason) in [("one", "first"), ("two", "second")] {
        let key = |name: &str| format!("bull:{queue}:{name}");
        scene
            .redis
            .ask::<()>(&[
                "HSET",
                &key("1"),
                "name",
                "x",
                "failedReason",
                reason,
                "opts",
                "{}",
            ])
            .await;
        scene
            .redis
            .ask::<()>(&["ZADD", &key("failed"), "1700000000000", "1"])
            .await;
    }
    let look = async |query: &str| {
        let answer = reqwest::get(url(&worker, &format!("/api/job-status/1{query}"))).await;
        let answer = answer.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(look("").await.1["error"], "first");
    assert_eq!(look("?queue=two").await.1["error"], "second");
    let (status, job) = look("?queue=bullmq:two").await;
    assert_eq!((status, &job["layout"]), (200, &json!("bullmq")));
    let (status, refused) = look("?queue=three").await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("bullmq:one"));
    let mut events = Sse::open(&url(&worker, "/api/job-events?jobId=1&queue=two")).await;
    assert_eq!(events.until("failed").await["error"], "second");
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_through_a_browser_on_this_host() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let port = worker.port;
    let client = reqwest::Client::new();
    let post = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = client.post(url(&worker, path)).body(FLASHCARDS);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let here = format!("http://localhost:{port}");
    let reset = "/api/circuit-breakers/reset/openai";
    for fine in [
        vec![],
        vec![("origin", here.as_str()), ("sec-fetch-site", "same-origin")],
        vec![("sec-fetch-site", "none")],
    ] {
        assert_eq!(post(reset, &fine).await, 200, "{fine:?}");
    }
    let rebound = format!("evil.example:{port}");
    for strange in [
        vec![("origin", "http://evil.example")],
        vec![("origin", "null")],
        vec![("sec-fetch-site", "cross-site")],
        // Another port of this host is another page's.
        vec![("origin", "http://localhost:1"), ("sec-fetch-site", "same-site")],
        // A name that its owner has bound to 127.0.0.1.
        vec![("host", rebound.as_str())],
    ] {
        for path in [
            reset,
            "/api/jobs/generate-flashcards",
            "/api/jobs/1/retry",
            "/api/jobs/retry",
        ] {
            assert_eq!(post(path, &strange).await, 403, "{path} {strange:?}");
        }
        let mut request = client.delete(url(&worker, "/api/jobs/1"));
        for (name, value) in &strange {
            request = request.header(*name, *value);
        }
        assert_eq!(request.send().await.unwrap().status(), 403, "{strange:?}");
    }
    let waiting: u64 = scene.redis.ask(&["LLEN", "ai-jobs:active"]).await;
    assert_eq!(waiting, 0);

    // With a token it is the token that counts.
    let closed = scene.worker(&[("ADMIN_TOKEN", "adm1n")]).await;
    let reset = client
        .post(url(&closed, reset))
        .header("host", "ops.example")
        .header("origin", "https://ops.example");
    let without = reset.try_clone().unwrap().send().await.unwrap();
    assert_eq!(without.status(), 401);
    assert_eq!(reset.bearer_auth("adm1n").send().await.unwrap().status(), 200);
}
