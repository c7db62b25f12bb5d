//! The binary as an operator runs it: processes, signals, exit codes, HTTP.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use backend_worker::{
    demo::point_to,
    queue::State,
    simulator::{Options, Provider, Running, Simulator},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{Node, PATIENCE, TestRedis, eventually};

/// A Redis, a simulator, and the variables that point a worker to both.
pub(crate) struct Scene {
    pub(crate) redis: TestRedis,
    pub(crate) simulator: Running,
    env: Vec<(&'static str, String)>,
}

impl Scene {
    pub(crate) async fn set(latency: Duration) -> Self {
        Self::set_with(latency, &[]).await
    }

    /// With further arguments for redis-server.
    pub(crate) async fn set_with(latency: Duration, redis: &[&str]) -> Self {
        let redis = TestRedis::start_with(redis).await;
        let options = Options {
            latency,
            ..Options::default()
        };
        let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), options.clone())
            .await
            .unwrap();
        let mut env = point_to(&simulator, &options);
        env.push(("REDIS_URL", redis.server.url()));
        env.push(("PORT", "0".to_owned()));
        env.push(("LOG_FORMAT", "json".to_owned()));
        env.push(("RETRY_BASE_DELAY", "20ms".to_owned()));
        env.push(("OPENAI_RATE_LIMIT_RPM", "0".to_owned()));
        env.push(("OPENAI_MAX_CONCURRENT", "0".to_owned()));
        env.push(("AZURE_VISION_RATE_LIMIT_RPM", "0".to_owned()));
        Self {
            redis,
            simulator: simulator.spawn(),
            env,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backend-worker"));
        // A clean environment, and a folder without a .env.
        command
            .env_clear()
            .envs(self.env.iter().cloned())
            .current_dir(std::env::temp_dir());
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn worker(&self, variables: &[(&str, &str)]) -> Worker {
        let mut process = self
            .command(&["run"])
            .envs(variables.iter().copied())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line}"));
                if event["message"].as_str().is_some_and(|m| m.starts_with("ready")) {
                    return event["port"].as_u64().unwrap();
                }
            }
            panic!("the worker ended before it was ready");
        });
        let port = port.await.expect("the worker gets ready");
        let log = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn({
            let log = log.clone();
            async move {
                while let Some(line) = lines.next_line().await.unwrap() {
                    log.lock().unwrap().push(line);
                }
            }
        });
        Worker {
            process,
            port,
            log,
            reader,
        }
    }

    /// `enqueue` with these arguments: its standard output, by lines.
    pub(crate) async fn enqueue(&self, arguments: &[&str]) -> Vec<String> {
        let output = self
            .command(&[&["enqueue"], arguments].concat())
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

pub(crate) struct Worker {
    process: Child,
    pub(crate) port: u64,
    log: Arc<Mutex<Vec<String>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Worker {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().unwrap().cast_signed()), signal).unwrap();
    }

    /// The exit code, and what it logged since it was ready.
    pub(crate) async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let status = tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .expect("the worker ends")
            .unwrap();
        self.reader.await.unwrap();
        let log = self.log.lock().unwrap().clone();
        (status.code(), log)
    }

    async fn health(&self) -> Option<(u16, Value)> {
        let answer = reqwest::get(format!("http://localhost:{}/api/health", self.port))
            .await
            .ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }
}

#[tokio::test]
async fn two_hundred_mixed_jobs_survive_a_sigterm_in_the_middle() {
    let scene = Scene::set(Duration::from_millis(30)).await;
    let wav = include_bytes!("../../samples/good_morning.wav");
    let png = include_bytes!("../../samples/text.png");
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
                .filter(|view| view.state == State::Completed)
        })
        .await;
        let result = view.result.unwrap();
        assert_eq!(result["success"], true);
        match *kind {
            "generate-flashcards" => assert!(result["flashcards"].as_array().unwrap().len() >= 10),
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
                .filter(|view| view.state == State::Completed)
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
        let log = worker.log.lock().unwrap();
        log.iter()
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

#[tokio::test]
async fn enqueue_waits_and_prints_the_result() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let lines = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--wait"])
        .await;
    let view: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (&view["state"], &view["progress"]),
        (&json!("completed"), &json!(100))
    );
    assert!(view["result"]["flashcards"].is_array());

    let bad = scene
        .command(&["enqueue", "generate-flashcards", "--data", "{}"])
        .output()
        .await
        .unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&bad.stderr).contains("content"),
        "{bad:?}"
    );
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn both_layouts_are_served_at_once() {
    let scene = Scene::set(Duration::ZERO).await;
    let node = Node::start(&scene.redis, "ai-jobs").await;
    let worker = scene.worker(&[]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"});
    let opts = json!({"jobId": "from-node", "attempts": 3});
    let job = json!({"name": "generate-flashcards", "data": data, "opts": opts});
    node.ask("add", job).await;
    let lines = scene
        .enqueue(&["generate-flashcards", "--data", &data.to_string(), "--wait"])
        .await;
    let view: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(view["state"], "completed", "{view}");
    let job = node.until("from-node", "completed").await;
    assert!(job["returnvalue"]["flashcards"].is_array(), "{job}");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[tokio::test]
async fn health_tells_how_the_replica_is() {
    let mut scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    scene
        .enqueue(&["generate-flashcards", "--data", &data, "--wait"])
        .await;
    let (code, health) = worker.health().await.unwrap();
    assert_eq!(
        (code, &health["status"], &health["service"]),
        (200, &json!("healthy"), &json!("worker"))
    );
    assert_eq!(
        (&health["stats"]["processed"], &health["stats"]["succeeded"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(health["stats"]["successRate"], json!("100.0%"));
    assert_eq!(health["pid"].as_u64(), worker.process.id().map(u64::from));
    for alias in ["/", "/health"] {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{alias}", worker.port))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{alias}, over IPv4 too");
    }
    let pid = Pid::from_raw(scene.redis.server.pid().unwrap().cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    let health = eventually("503", async || {
        worker.health().await.filter(|(code, _)| *code == 503)
    })
    .await
    .1;
    assert!(
        health["reason"].as_str().unwrap().contains("Redis has been away"),
        "{health}"
    );
    scene.redis.server.restart(&[]).await.unwrap();
    eventually("healthy again", async || {
        worker.health().await.filter(|(code, _)| *code == 200)
    })
    .await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_wrong_configuration_exits_with_64_and_names_the_variable() {
    let scene = Scene::set(Duration::ZERO).await;
    let output = scene
        .command(&["run"])
        .env("PORT", "http")
        .env("LEASE_TTL", "soon")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("PORT") && text.contains("LEASE_TTL"), "{text}");
}

#[tokio::test]
async fn the_log_shows_the_configuration_and_no_secret() {
    let scene = Scene::set(Duration::ZERO).await;
    let mut command = scene.command(&["run"]);
    command
        .env("OPENAI_API_KEY", "sk-very-secret")
        .env("REDIS_URL", "redis://:very-secret@127.0.0.1:1");
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut text = String::new();
    for _ in 0..4 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("a log line");
        text.push_str(&line.unwrap().unwrap());
    }
    assert!(
        text.contains("OPENAI_API_KEY=(set)") && text.contains("DRAIN_TIMEOUT=25s"),
        "{text}"
    );
    assert!(!text.contains("very-secret"), "{text}");
    process.kill().await.unwrap();
}

#[tokio::test]
async fn the_demo_leaves_nothing_running() {
    let scene = Scene::set(Duration::ZERO).await;
    let output = scene
        .command(&["demo", "--jobs", "12", "--latency", "5ms"])
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("process-image") && text.contains("12 of 12 jobs have ended"),
        "{text}"
    );
    let port = text
        .split("redis://127.0.0.1:")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let refused = tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await;
    assert!(refused.is_err(), "its Redis is gone");

    let without = scene
        .command(&["demo"])
        .env("PATH", "/nowhere")
        .output()
        .await
        .unwrap();
    assert!(
        String::from_utf8_lossy(&without.stderr).contains("redis-server is not installed"),
        "{without:?}"
    );
}
