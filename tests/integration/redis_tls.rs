//! Redis over TLS: a private authority, an ACL user, and who is refused.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use backend_worker::{check::rights::acl_rule, config::Config};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Node, PATIENCE, Scene, TestRedis};

/// A scene whose Redis speaks TLS too, with a certificate for `localhost` by an authority of its own.
struct Tls {
    scene: Scene,
    folder: PathBuf,
    port: u16,
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Makes `<name>.pem` and `<name>.key`: an authority, unless the options say otherwise.
fn certificate(folder: &Path, name: &str, options: &[&str]) {
    let made = std::process::Command::new("openssl")
        .current_dir(folder)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(["-days", "2", "-subj", &format!("/CN={name}")])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .args(options)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
}

impl Tls {
    async fn set() -> Self {
        Self::showing("CA:FALSE").await
    }

    /// The certificate of Redis has these basic constraints.
    async fn showing(constraints: &str) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = std::env::temp_dir().join(format!("backend-worker-tls-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        certificate(&folder, "ours", &[]);
        certificate(&folder, "another", &[]);
        certificate(
            &folder,
            "redis",
            &[
                "-CA",
                "ours.pem",
                "-CAkey",
                "ours.key",
                "-addext",
                &format!("basicConstraints=critical,{constraints}"),
                "-addext",
                "subjectAltName=DNS:localhost",
            ],
        );
        let file = |name: &str| folder.join(name).display().to_string();
        let redis = TestRedis::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file("redis.pem"),
            "--tls-key-file",
            &file("redis.key"),
            "--tls-auth-clients",
            "no",
        ])
        .await;
        let rule = acl_rule(&Config::from_lookup(|_| None).unwrap());
        let setuser = format!("ACL SETUSER worker on >hunter2 {rule}");
        redis.ask::<String>(&setuser.split(' ').collect::<Vec<_>>()).await;
        let mut scene = Scene::over(redis, Duration::ZERO, 0).await;
        let url = format!("rediss://worker:hunter2@localhost:{port}");
        scene.launcher.env.retain(|(name, _)| *name != "REDIS_URL");
        scene.launcher.env.push(("REDIS_URL", url));
        Self { scene, folder, port }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The finding about Redis, with these variables.
    async fn check(&self, variables: &[(&str, &str)]) -> Value {
        let mut command = self.scene.command(&["check", "--json"]);
        let output = command.envs(variables.iter().copied()).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
        let findings = answer["findings"].as_array().unwrap();
        findings.iter().find(|f| f["check"] == "redis").unwrap().clone()
    }
}

#[tokio::test]
async fn an_acl_user_runs_jobs_of_both_layouts_over_tls() {
    let tls = Tls::set().await;
    let trusted = tls.file("ours.pem");
    let trust = [("REDIS_CA_FILE", trusted.as_str())];
    let worker = tls.scene.worker(&trust).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"});
    let mut enqueue = tls.scene.command(&[
        "enqueue",
        "generate-flashcards",
        "--wait",
        "--data",
        &data.to_string(),
    ]);
    let output = enqueue.envs(trust).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let node = Node::start(&tls.scene.redis, "ai-jobs").await;
    let job = json!({"name": "generate-flashcards", "data": data, "opts": {"jobId": "from-node"}});
    node.ask("add", job).await;
    node.until("from-node", "completed").await;

    // The calls, and what waits for jobs: each socket of the user came in by the port of TLS.
    let clients: String = tls.scene.redis.ask(&["CLIENT", "LIST"]).await;
    let of_worker: Vec<&str> = clients
        .lines()
        .filter(|line| line.contains(" user=worker "))
        .collect();
    let port = format!(":{} ", tls.port);
    assert!(
        of_worker.len() > 2 && of_worker.iter().all(|line| line.contains(&port)),
        "{clients}"
    );
    let output = tls
        .scene
        .command(&["check", "--json"])
        .envs(trust)
        .output()
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rights = answer["findings"].as_array().unwrap();
    let rights = rights.iter().find(|f| f["check"] == "redis rights").unwrap();
    assert_eq!(rights["level"], "ok", "{rights}");
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_the_cure_is_named() {
    let tls = Tls::set().await;
    let (ours, another) = (tls.file("ours.pem"), tls.file("another.pem"));
    // The system's authorities, here another one, or an authority that is named.
    for variables in [("SSL_CERT_FILE", another.as_str()), ("REDIS_CA_FILE", &another)] {
        let finding = tls.check(&[variables]).await;
        assert_eq!(finding["level"], "failure");
        let (found, cure) = (
            finding["found"].as_str().unwrap(),
            finding["cure"].as_str().unwrap(),
        );
        assert!(
            found.contains("certificate") && cure.contains("REDIS_CA_FILE"),
            "{finding}"
        );
    }
    // Another name than the certificate's.
    let url = format!("rediss://worker:hunter2@127.0.0.1:{}", tls.port);
    let finding = tls.check(&[("REDIS_CA_FILE", &ours), ("REDIS_URL", &url)]).await;
    assert!(
        finding["cure"]
            .as_str()
            .unwrap()
            .contains("the host that its certificate is for"),
        "{finding}"
    );
    // A name for what is not asked.
    let mut command = tls.scene.command(&["check"]);
    command
        .env("REDIS_CA_FILE", &ours)
        .env("REDIS_URL", "redis://localhost");
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    // No TLS on that port, but HTTP.
    let plain = tls.scene.simulator.addr().port();
    let url = format!("rediss://worker:hunter2@localhost:{plain}");
    let finding = tls.check(&[("REDIS_CA_FILE", &ours), ("REDIS_URL", &url)]).await;
    assert!(
        finding["cure"]
            .as_str()
            .unwrap()
            .contains("speaks TLS on this port"),
        "{finding}"
    );
}

#[tokio::test]
async fn a_worker_that_trusts_another_authority_says_so_and_waits() {
    let tls = Tls::set().await;
    let mut process = tls
        .scene
        .command(&["run"])
        .env("REDIS_CA_FILE", tls.file("another.pem"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let told = tokio::time::timeout(PATIENCE, async {
        let mut log = String::new();
        while !log.contains("certificate") {
            log += &lines.next_line().await.unwrap().expect("it goes on");
        }
        log
    });
    let log = told.await.expect("the log names the certificate");
    assert!(!log.contains("hunter2"), "{log}");
    assert!(process.try_wait().unwrap().is_none(), "it waits");
    process.kill().await.unwrap();
}

#[tokio::test]
async fn a_server_that_shows_the_certificate_of_an_authority_is_refused_with_the_right_cure() {
    let tls = Tls::showing("CA:TRUE").await;
    let ours = tls.file("ours.pem");
    let finding = tls.check(&[("REDIS_CA_FILE", &ours)]).await;
    let cure = finding["cure"].as_str().unwrap();
    assert!(
        cure.contains("CA:FALSE") && cure.contains("REDIS_TLS_INSECURE=on"),
        "{finding}"
    );
}

/// Also where nothing fits: the authority is another, and the name is another.
#[tokio::test]
async fn any_certificate_is_accepted_where_that_is_asked_for_and_it_is_told() {
    let tls = Tls::showing("CA:TRUE").await;
    let url = format!("rediss://worker:hunter2@127.0.0.1:{}", tls.port);
    let variables = [("REDIS_URL", url.as_str()), ("REDIS_TLS_INSECURE", "on")];
    let output = tls
        .scene
        .command(&["check", "--json"])
        .envs(variables)
        .output()
        .await;
    let answer: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["check"] == "redis tls").unwrap();
    assert_eq!(finding["level"], "warning", "{finding}");
    let mut process = tls
        .scene
        .command(&["run"])
        .envs(variables)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let log = tokio::time::timeout(PATIENCE, async {
        let mut log = String::new();
        while !log.contains("ready: health") {
            log += &lines.next_line().await.unwrap().expect("it gets ready");
        }
        log
    });
    let log = log.await.expect("it gets ready");
    assert!(
        log.contains("WARN") && log.contains("any certificate of Redis is accepted"),
        "{log}"
    );
    process.kill().await.unwrap();
}

#[tokio::test]
async fn a_file_of_authorities_that_changes_is_read_again() {
    let tls = Tls::set().await;
    let trusted = tls.folder.join("trusted.pem");
    std::fs::copy(tls.file("another.pem"), &trusted).unwrap();
    let mut process = tls
        .scene
        .command(&["run"])
        .env("REDIS_CA_FILE", &trusted)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let told = tokio::time::timeout(PATIENCE, async {
        let mut log = String::new();
        while !log.contains("certificate") {
            log += &lines.next_line().await.unwrap().expect("it goes on");
        }
        // A file that holds nothing yet changes nothing.
        std::fs::write(&trusted, "").unwrap();
        std::fs::copy(tls.file("ours.pem"), &trusted).unwrap();
        while !log.contains("ready: health") {
            log += &lines.next_line().await.unwrap().expect("it goes on");
        }
        log
    });
    let log = told.await.expect("it gets ready");
    assert!(log.contains("REDIS_CA_FILE has changed"), "{log}");
    process.kill().await.unwrap();
}
