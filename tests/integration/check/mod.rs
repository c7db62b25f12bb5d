//! `check` and the other commands that look: each finding provoked once, and what scripts read.

mod redis_faults;

use std::time::Duration;

use backend_worker::{
    check::rights::acl_rule,
    config::Config,
    keys::MigrationKeys,
    simulator::{Fault, Provider},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{PATIENCE, Scene, TestRedis};

/// What `check --json` says with these variables, and its exit code.
pub(crate) async fn check(scene: &Scene, variables: &[(&str, &str)]) -> (Option<i32>, Value) {
    let mut command = scene.command(&["check", "--json"]);
    command.envs(variables.iter().copied());
    let output = command.output().await.unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code(), answer)
}

/// Level, finding and cure of one check.
pub(crate) fn of(answer: &Value, check: &str) -> (String, String, String) {
    let all = answer["findings"].as_array().unwrap();
    let finding = all
        .iter()
        .find(|f| f["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {answer}"));
    let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    (text("level"), text("found"), text("cure"))
}

#[track_caller]
fn expect(answer: &Value, check: &str, level: &str, found: &str, cure: &str) {
    let finding = of(answer, check);
    assert!(
        finding.0 == level && finding.1.contains(found) && finding.2.contains(cure),
        "{check}: {finding:?}"
    );
}

#[tokio::test]
async fn a_sound_deployment_passes() {
    let scene = Scene::over(
        TestRedis::start_with(&["--appendonly", "yes"]).await,
        Duration::ZERO,
        0,
    )
    .await;
    let migrated = scene.command(&["migrate"]).output().await.unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let (code, answer) = check(
        &scene,
        &[
            ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
            ("READ_TOKEN", "r3ad-t0ken-of-tests"),
            ("MEDIA_ALLOWED_HOSTS", ""),
        ],
    )
    .await;
    assert_eq!((code, &answer["ok"]), (Some(0), &json!(true)), "{answer}");
    for finding in answer["findings"].as_array().unwrap() {
        // Other work on this machine may make Redis slow.
        let well = finding["level"] == "ok" || finding["check"] == "redis latency";
        assert!(well, "{finding}");
    }
    let table = scene.command(&["check"]).output().await.unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("redis eviction") && table.contains("cure"),
        "{table}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_redis_is_told() {
    let arguments = ["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"];
    let scene = Scene::over(TestRedis::start_with(&arguments).await, Duration::ZERO, 0).await;
    let (code, answer) = check(&scene, &[]).await;
    assert_eq!(code, Some(1));
    expect(&answer, "redis eviction", "failure", "thrown away", "noeviction");
    expect(
        &answer,
        "redis persistence",
        "warning",
        "no append-only file",
        "appendonly yes",
    );
    expect(&answer, "keyspace", "warning", "0002_repair_breakers", "migrate");

    scene
        .redis
        .ask::<String>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    let info: String = scene.redis.ask(&["INFO", "memory"]).await;
    let used = info.split("used_memory:").nth(1).unwrap().lines().next().unwrap();
    let limit = (used.parse::<u64>().unwrap() * 100 / 90).to_string();
    scene
        .redis
        .ask::<String>(&["CONFIG", "SET", "maxmemory", &limit])
        .await;
    let memory = of(&check(&scene, &[]).await.1, "redis memory");
    assert!(
        memory.0 != "ok" && memory.2.contains("KEEP_COMPLETED"),
        "{memory:?}"
    );
    scene
        .redis
        .ask::<String>(&["CONFIG", "SET", "maxmemory", "0"])
        .await;

    let entry = r#"{"name":"9999_later","sha":"x","at":1,"by":"9.0.0"}"#;
    scene
        .redis
        .ask::<u8>(&["HSET", MigrationKeys::LEDGER, "9999", entry])
        .await;
    let (_, answer) = check(&scene, &[]).await;
    expect(&answer, "keyspace", "failure", "9999_later", "that version");
    scene.redis.ask::<u8>(&["DEL", MigrationKeys::LEDGER]).await;

    let primary = TestRedis::start().await;
    let port = primary.server.port().to_string();
    scene
        .redis
        .ask::<String>(&["REPLICAOF", "127.0.0.1", &port])
        .await;
    let (_, answer) = check(&scene, &[]).await;
    expect(&answer, "redis role", "failure", "refuses writes", "primary");
}

#[tokio::test]
async fn a_redis_that_is_away_or_refuses_is_told() {
    let scene = Scene::set(Duration::ZERO).await;
    scene
        .redis
        .ask::<String>(&["CONFIG", "SET", "requirepass", "right"])
        .await;
    let port = scene.redis.server.port();
    let (code, answer) = check(&scene, &[("REDIS_URL", "redis://127.0.0.1:1")]).await;
    assert_eq!(code, Some(1));
    expect(&answer, "redis", "failure", "", "host and port");
    let wrong = format!("redis://:hunter2@127.0.0.1:{port}");
    let (_, answer) = check(&scene, &[("REDIS_URL", &wrong)]).await;
    expect(&answer, "redis", "failure", "", "REDIS_URL");
    assert!(!answer.to_string().contains("hunter2"), "{answer}");
}

#[tokio::test]
async fn what_is_wrong_with_the_place_is_told() {
    let scene = Scene::set(Duration::ZERO).await;
    let variables = [
        ("OPENAI_API_KEY", ""),
        ("AZURE_SPEECH_ENDPOINT", "http://127.0.0.1:1"),
        ("AZURE_VISION_KEY", "wrong"),
        ("UPLOADS_DIR", "/nowhere"),
        ("MEDIA_ALLOWED_HOSTS", "localhost"),
        ("RAILWAY_DEPLOYMENT_DRAINING_SECONDS", "10"),
    ];
    let (code, answer) = check(&scene, &variables).await;
    assert_eq!(code, Some(1));
    expect(
        &answer,
        "openai",
        "warning",
        "generate-flashcards jobs fail",
        "OPENAI_API_KEY",
    );
    expect(
        &answer,
        "azure-speech",
        "failure",
        "not reached",
        "AZURE_SPEECH_REGION",
    );
    expect(&answer, "azure-vision", "failure", "401", "AZURE_VISION_KEY");
    expect(&answer, "uploads folder", "failure", "/nowhere", "UPLOADS_DIR");
    expect(
        &answer,
        "media hosts",
        "warning",
        "localhost",
        "MEDIA_ALLOWED_HOSTS",
    );
    expect(&answer, "drain time", "warning", "10 s", "to 30 or more");
    expect(&answer, "tokens", "warning", "loopback", "ADMIN_TOKEN");

    let (code, answer) = check(&scene, &[("PORT", "http")]).await;
    assert_eq!(code, Some(64));
    expect(
        &answer,
        "configuration",
        "failure",
        "PORT",
        "docs/configuration.md",
    );
}

#[tokio::test]
async fn a_provider_whose_key_would_travel_unencrypted_is_warned_of() {
    let scene = Scene::set(Duration::ZERO).await;
    let (_, answer) = check(&scene, &[]).await;
    expect(&answer, "provider URLs", "ok", "stay on this host", "");
    // No server listens there, but the worker starts anyway.
    let elsewhere = [
        ("OPENAI_BASE_URL", "http://proxy.invalid/v1"),
        ("AZURE_VISION_ENDPOINT", "https://vision.invalid"),
    ];
    let (_, answer) = check(&scene, &elsewhere).await;
    expect(&answer, "provider URLs", "warning", "OPENAI_BASE_URL", "https://");
    assert!(!of(&answer, "provider URLs").1.contains("AZURE"), "{answer}");
    let mut worker = scene.command(&["run"]).envs(elsewhere).spawn().unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let mut log = String::new();
    while !log.contains("ready") {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap();
        log.push_str(&line.unwrap().expect("the worker gets ready"));
    }
    assert!(log.contains("OPENAI_BASE_URL begins with http://"), "{log}");
    assert!(!log.contains("AZURE_VISION_ENDPOINT begins with"), "{log}");
    worker.kill().await.unwrap();
}

/// What of a provider's account can be told without a call that costs money, and what the fleet has found out.
#[tokio::test]
async fn the_providers_account_is_told_apart_from_the_provider() {
    let scene = Scene::set(Duration::ZERO).await;
    let faults = scene.simulator.faults();
    let answer = |status, body: &str| Fault::Status {
        status,
        retry_after: None,
        retry_after_ms: None,
        body: Some(body.to_owned()),
    };
    let scope =
        r#"{"error":{"message":"You have insufficient permissions. Missing scopes: api.model.read."}}"#;
    let key =
        r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: ab***yz."}"#;
    for (status, body, level, found, cure) in [
        (
            404,
            r#"{"detail":"Not Found"}"#,
            "warning",
            "lists no models",
            "run one job",
        ),
        (403, scope, "warning", "api.model.read", "run one job"),
        (400, key, "failure", "refused the API key (400)", "OPENAI_API_KEY"),
        (
            402,
            r#"{"error":{"message":"Insufficient Balance"}}"#,
            "failure",
            "Insufficient Balance",
            "add credit",
        ),
    ] {
        faults
            .on_match(Provider::OpenAi, "", answer(status, body), Some(1))
            .unwrap();
        let (code, answer) = check(&scene, &[]).await;
        expect(&answer, "openai", level, found, cure);
        assert_eq!(code, Some(if level == "failure" { 1 } else { 0 }), "{answer}");
        assert!(!answer.to_string().contains("***"), "{answer}");
    }
    let (_, answer) = check(&scene, &[("OPENAI_MODEL", "gpt-0")]).await;
    expect(&answer, "openai", "failure", "gpt-0", "OPENAI_MODEL");

    // What jobs have met.
    scene
        .redis
        .ask::<()>(&["SET", "circuit:openai:state", "OPEN"])
        .await;
    scene
        .redis
        .ask::<u8>(&[
            "HSET",
            "circuit:openai:meta",
            "seen",
            "OPEN",
            "fault",
            "1800000000000:credit",
        ])
        .await;
    let (code, answer) = check(&scene, &[]).await;
    assert_eq!(code, Some(1));
    expect(&answer, "account", "failure", "no credit", "breaker reset openai");
}

#[tokio::test]
async fn a_system_without_certificates_is_told() {
    let scene = Scene::set(Duration::ZERO).await;
    let (code, answer) = check(&scene, &[("SSL_CERT_FILE", "/nowhere")]).await;
    assert_eq!(code, Some(1));
    expect(&answer, "openai", "failure", "certificates", "ca-certificates");
}

/// The documented rule is enough for everything, and `check` names what is missing.
#[tokio::test]
async fn an_acl_user_with_the_documented_rule_runs_jobs_of_both_layouts() {
    let scene = Scene::set(Duration::ZERO).await;
    let rule = acl_rule(&Config::from_lookup(|_| None).unwrap());
    let setuser = format!("ACL SETUSER worker on >pass {rule}");
    scene
        .redis
        .ask::<String>(&setuser.split(' ').collect::<Vec<_>>())
        .await;
    let url = format!("redis://worker:pass@127.0.0.1:{}", scene.redis.server.port());
    let user = [("REDIS_URL", url.as_str())];
    let (_, answer) = check(&scene, &user).await;
    expect(&answer, "redis rights", "ok", "worker", "");

    let worker = scene.worker(&user).await;
    let node = crate::support::Node::start(&scene.redis, "ai-jobs").await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"});
    let opts = json!({"jobId": "from-node", "attempts": 3});
    node.ask(
        "add",
        json!({"name": "generate-flashcards", "data": data, "opts": opts}),
    )
    .await;
    node.until("from-node", "completed").await;
    let mut enqueue = scene.command(&[
        "enqueue",
        "generate-flashcards",
        "--wait",
        "--data",
        &data.to_string(),
    ]);
    let output = enqueue.envs(user).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    for command in [
        &["breaker", "reset", "openai"][..],
        &["queue", "stats"],
        &["limits"],
        &["migrate"],
    ] {
        let output = scene.command(command).envs(user).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0));
    assert!(!log.iter().any(|line| line.contains("permission")), "{log:?}");
    let refused: Vec<redis::Value> = scene.redis.ask(&["ACL", "LOG"]).await;
    assert!(refused.is_empty(), "{refused:?}");

    scene
        .redis
        .ask::<String>(&["ACL", "SETUSER", "worker", "-hset", "resetkeys", "~bull:*"])
        .await;
    let (code, answer) = check(&scene, &user).await;
    assert_eq!(code, Some(1));
    expect(&answer, "redis rights", "failure", "lacks", "+hset");
}

#[tokio::test]
async fn what_scripts_read_is_json_and_shells_are_completed() {
    let scene = Scene::set(Duration::ZERO).await;
    let run = async |arguments: &[&str]| {
        let output = scene.command(arguments).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json = async |arguments: &[&str]| serde_json::from_str::<Value>(&run(arguments).await).unwrap();
    let breakers = json(&["breaker", "status", "--json"]).await;
    assert_eq!(
        (
            &breakers["openai"]["state"],
            &breakers["azure"]["failureThreshold"]
        ),
        (&json!("CLOSED"), &json!(3))
    );
    assert_eq!(
        json(&["queue", "stats", "--json"])
            .await
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(
        json(&["limits", "--json"]).await["azure-speech"]["concurrent"]["limit"],
        json!(20)
    );
    assert!(run(&["limits"]).await.contains("azure-vision"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).await.contains("simulate"), "{shell}");
    }
}

#[tokio::test]
async fn the_health_command_says_how_the_worker_is() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let port = worker.port.to_string();
    let well = scene
        .command(&["health"])
        .env("PORT", &port)
        .output()
        .await
        .unwrap();
    assert!(well.status.success(), "{well:?}");
    assert!(
        String::from_utf8_lossy(&well.stdout).contains("\"healthy\""),
        "{well:?}"
    );
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
    let gone = scene
        .command(&["health"])
        .env("PORT", &port)
        .output()
        .await
        .unwrap();
    assert_eq!(gone.status.code(), Some(1));
}
