//! No secret leaves the process: not in a log at its most talkative, not in an answer, not in Redis.

use std::{fs, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use backend_worker::simulator::{Fault, Provider, SimulatorOptions};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{PATIENCE, Scene, TestRedis, eventually};

const PASSWORD: &str = "redis-pass-7391";
const ADMIN: &str = "admin-token-of-tests-5520";
const READ: &str = "read-token-of-tests-8846";

/// Everything that Redis holds, as one text.
pub(crate) async fn everything(redis: &TestRedis) -> String {
    let mut all = String::new();
    for key in redis.ask::<Vec<String>>(&["KEYS", "*"]).await {
        let kind: String = redis.ask(&["TYPE", &key]).await;
        let read: Vec<&str> = match kind.as_str() {
            "string" => vec!["GET", &key],
            "hash" => vec!["HGETALL", &key],
            "list" => vec!["LRANGE", &key, "0", "-1"],
            "set" => vec!["SMEMBERS", &key],
            "zset" => vec!["ZRANGE", &key, "0", "-1"],
            _ => vec!["XRANGE", &key, "-", "+"],
        };
        let value: redis::Value = redis.ask(&read).await;
        all.push_str(&format!("{key} {value:?}\n"));
    }
    all
}

#[tokio::test]
async fn no_secret_shows_in_logs_answers_or_redis() {
    let scene = Scene::set(Duration::ZERO).await;
    let keys = SimulatorOptions::default().keys;
    let secrets = [
        keys.openai.as_str(),
        keys.speech.as_str(),
        keys.vision.as_str(),
        PASSWORD,
        ADMIN,
        READ,
    ];
    for secret in secrets {
        assert!(secret.len() >= 8, "{secret} is long enough to be found");
    }
    let acl = format!("ACL SETUSER worker on >{PASSWORD} ~* &* +@all");
    scene
        .redis
        .ask::<String>(&acl.split(' ').collect::<Vec<_>>())
        .await;
    let url = format!(
        "redis://worker:{PASSWORD}@127.0.0.1:{}",
        scene.redis.server.port()
    );
    let env = [
        ("REDIS_URL", url.as_str()),
        ("ADMIN_TOKEN", ADMIN),
        ("READ_TOKEN", READ),
        ("RUST_LOG", "trace"),
        // No job waits for a breaker here.
        ("OPENAI_BREAKER_FAILURES", "100"),
        ("AZURE_BREAKER_FAILURES", "100"),
    ];
    // Each provider echoes its key in a refusal, and then breaks off.
    for (provider, key) in [
        (Provider::OpenAi, &keys.openai),
        (Provider::AzureSpeech, &keys.speech),
        (Provider::AzureVision, &keys.vision),
    ] {
        let body = json!({"error": {"code": "x", "message": format!("Incorrect key provided: {key}")}});
        let refusal = Fault::Status {
            status: 400,
            retry_after: None,
            retry_after_ms: None,
            body: Some(body.to_string()),
        };
        scene
            .simulator
            .faults()
            .script(provider, [refusal, Fault::Reset, Fault::Html502])
            .unwrap();
    }

    let folder = std::env::temp_dir().join(format!("backend-worker-secrets-{}", scene.redis.server.port()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("log");
    let log = fs::File::create(&file).unwrap();
    let mut worker = scene.command(&["run"]);
    worker
        .envs(env)
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log));
    let mut worker = worker.spawn().unwrap();
    let port = eventually("the worker is ready", async || {
        let log = fs::read_to_string(&file).unwrap();
        let at = log.find("http://localhost:")? + "http://localhost:".len();
        log[at..].split('/').next()?.parse::<u16>().ok()
    })
    .await;

    let mut shown = String::new();
    let png = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        include_bytes!("../../samples/text.png"),
    );
    let wav = include_bytes!("../../samples/good_morning.wav");
    let wav = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, wav);
    let image = folder.join("image.json");
    fs::write(&image, json!({ "imageBase64": png }).to_string()).unwrap();
    let speech = folder.join("speech.json");
    fs::write(
        &speech,
        json!({ "referenceText": "Good morning", "audioBase64": wav }).to_string(),
    )
    .unwrap();
    let cards = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let (image, speech) = (format!("@{}", image.display()), format!("@{}", speech.display()));
    for (kind, data) in [
        ("generate-flashcards", &cards),
        ("assess-pronunciation", &speech),
        ("process-image", &image),
    ] {
        for _ in 0..2 {
            let mut command = scene.command(&["enqueue", kind, "--data", data, "--wait"]);
            let output = tokio::time::timeout(PATIENCE, command.envs(env).output())
                .await
                .unwrap()
                .unwrap();
            shown.push_str(&format!("{output:?}"));
            shown.push_str(&String::from_utf8_lossy(&output.stdout));
        }
    }
    for command in [
        &["check", "--json"][..],
        &["breaker", "status"],
        &["queue", "stats"],
        &["migrate", "--status"],
    ] {
        let output = scene.command(command).envs(env).output().await.unwrap();
        shown.push_str(&format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let http = reqwest::Client::new();
    for token in [READ, ADMIN, "wrong"] {
        for path in [
            "/api/health",
            "/api/queue/stats",
            "/api/circuit-breakers/status",
            "/api/rate-limits/status",
        ] {
            let url = format!("http://localhost:{port}{path}");
            shown.push_str(
                &http
                    .get(url)
                    .bearer_auth(token)
                    .send()
                    .await
                    .unwrap()
                    .text()
                    .await
                    .unwrap(),
            );
        }
        let url = format!("http://localhost:{port}/api/circuit-breakers/reset/nobody");
        shown.push_str(
            &http
                .post(url)
                .bearer_auth(token)
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap(),
        );
    }
    kill(Pid::from_raw(worker.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(
        tokio::time::timeout(PATIENCE, worker.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    );

    let log = fs::read_to_string(&file).unwrap();
    assert!(
        log.contains("TRACE") && log.contains("OPENAI_API_KEY=(set)"),
        "it was talkative"
    );
    assert!(
        shown.contains("[key]"),
        "a provider's echo was shown without the key: {shown}"
    );
    let stored = everything(&scene.redis).await;
    for secret in secrets {
        for (place, text) in [("log", &log), ("answers", &shown), ("Redis", &stored)] {
            let at = text.find(secret);
            let around = at.map(|at| {
                text[at.saturating_sub(200)..]
                    .chars()
                    .take(300)
                    .collect::<String>()
            });
            assert!(around.is_none(), "{secret} is in the {place}: {around:?}");
        }
    }
    fs::remove_dir_all(folder).unwrap();
}

/// A core dump would hold keys and payloads. The worker is started where dumps are allowed as far as this host allows
/// them.
#[tokio::test]
async fn a_worker_that_crashes_leaves_no_core_dump() {
    let scene = Scene::set(Duration::ZERO).await;
    let folder = std::env::temp_dir().join(format!("no-core-{}", scene.redis.server.port()));
    fs::create_dir_all(&folder).unwrap();
    let plain = scene.command(&["run"]);
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$@\"", "sh"])
        .arg(plain.as_std().get_program())
        .arg("run")
        .env_clear()
        .envs(
            plain
                .as_std()
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(&folder)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut worker = command.spawn().unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap();
        if line.expect("the worker gets ready").contains("ready") {
            break;
        }
    }
    let pid = worker.id().unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGABRT).unwrap();
    let status = worker.wait().await.unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
    assert!(!status.core_dumped());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::remove_dir_all(folder).unwrap();
}
