//! Who may call: tokens that are refused at the start, forwarders on this host, and the trace that a guess leaves.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf, process::Stdio, time::Duration};

use reqwest::Client;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::support::{Scene, Worker, eventually};

const RESET: &str = "/api/circuit-breakers/reset/openai";
const OFF: (&str, &str) = ("ADMIN_FROM_LOOPBACK", "off");

async fn post(url: &str, host: Option<&str>) -> (u16, String) {
    let mut request = Client::new().post(url).json(&json!({}));
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_token_that_is_too_short_or_no_text_is_refused_at_the_start() {
    let scene = Scene::set(Duration::ZERO).await;
    let start = async |name: &str, value: &[u8]| {
        let mut command = scene.command(&["run"]);
        let output = command
            .env(name, OsStr::from_bytes(value))
            .output()
            .await
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for name in ["ADMIN_TOKEN", "READ_TOKEN", "ENQUEUE_TOKEN"] {
        for (value, why) in [
            (b"fifteen-letters".as_slice(), "16 characters"),
            (b"\xff\xfe-this-is-no-text-at-all", "not UTF-8"),
        ] {
            let (code, told) = start(name, value).await;
            assert_eq!(code, Some(64), "{name}: {told}");
            assert!(told.contains(name) && told.contains(why), "{told}");
            assert!(!told.contains("fifteen"), "{told}");
        }
    }
    let (_, told) = start("OPENAI_BASE_URL", b"https://user:hunter2@proxy.example").await;
    assert!(
        told.contains("OPENAI_BASE_URL") && !told.contains("hunter2"),
        "{told}"
    );
}

#[tokio::test]
async fn changing_routes_are_off_unless_they_are_configured() {
    let scene = Scene::set(Duration::ZERO).await;
    let closed = scene.worker(&[OFF]).await;
    let (code, why) = post(&format!("http://127.0.0.1:{}{RESET}", closed.port), None).await;
    assert_eq!(code, 401, "{why}");
    assert!(why.contains("this route is off"), "{why}");
    let open = scene.worker(&[]).await;
    assert_eq!(
        post(&format!("http://127.0.0.1:{}{RESET}", open.port), None)
            .await
            .0,
        200
    );

    let tokens = [
        ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
        ("ENQUEUE_TOKEN", "enqueue-t0ken-of-tests"),
    ];
    let worker = scene.worker(&tokens).await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", worker.port);
    let cards = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"});
    let send = async |path: &str, token: &str| {
        let request = Client::new().post(url(path)).bearer_auth(token).json(&cards);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(
        send("/api/ai/generate-flashcards", "enqueue-t0ken-of-tests").await,
        202
    );
    assert_eq!(
        send("/api/ai/generate-flashcards", "adm1n-t0ken-of-tests").await,
        202
    );
    assert_eq!(send(RESET, "enqueue-t0ken-of-tests").await, 401);
}

/// A page whose name was bound to this host after it was loaded sends that name.
#[tokio::test]
async fn without_a_read_token_a_name_reads_nothing() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let read = async |path: &str, host: &str| {
        let url = format!("http://127.0.0.1:{}{path}", worker.port);
        let answer = Client::new().get(url).header("host", host).send().await.unwrap();
        answer.status().as_u16()
    };
    for path in [
        "/api/queue/stats",
        "/api/jobs?state=failed",
        "/metrics",
        "/api/dashboard/events",
    ] {
        assert_eq!(read(path, "rebound.example:3002").await, 403, "{path}");
        assert_eq!(read(path, "localhost:3002").await, 200, "{path}");
    }
    assert_eq!(
        read("/api/health", "rebound.example").await,
        200,
        "health is open"
    );
}

#[tokio::test]
async fn a_guess_at_a_token_is_logged_and_counted() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("ADMIN_TOKEN", "adm1n-t0ken-of-tests")]).await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", worker.port);
    for _ in 0..20 {
        let guess = Client::new()
            .post(url(RESET))
            .bearer_auth("wrong-guess-at-a-token");
        assert_eq!(guess.send().await.unwrap().status(), 401);
    }
    let lines = eventually("the guess is logged", async || {
        let log = worker.log();
        let lines: Vec<String> = log
            .into_iter()
            .filter(|line| line.contains("was refused"))
            .collect();
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert!(lines.len() < 20 && lines[0].contains(RESET), "{lines:?}");
    assert!(!lines.concat().contains("wrong-guess"), "{lines:?}");
    let metrics = reqwest::get(url("/metrics")).await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("backend_worker_http_denied_total 20\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_users_window_cannot_be_avoided() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("USER_RATE_LIMIT", "2")]).await;
    let url = format!("http://127.0.0.1:{}/api/jobs/process-image", worker.port);
    let send = async |body: String| {
        let request = Client::new().post(&url).body(body).send().await.unwrap();
        (request.status().as_u16(), request.text().await.unwrap())
    };
    let image = r#""imageUrl":"https://images.example/a.png""#;
    let (code, why) = send(format!(r#"{{{image},"userId":"a","userId":"b"}}"#)).await;
    assert_eq!(code, 400, "{why}");
    let long = "u".repeat(1_000);
    let (code, why) = send(format!(r#"{{{image},"userId":"{long}"}}"#)).await;
    assert_eq!(code, 400, "{why}");
    assert!(why.contains("userId") && !why.contains("uuuu"), "{why}");
    let mut codes = Vec::new();
    for body in [
        format!("{{{image}}}"),
        format!(r#"{{{image},"userId":""}}"#),
        format!("{{{image}}}"),
    ] {
        codes.push(send(body).await.0);
    }
    assert_eq!(
        codes,
        [202, 202, 429],
        "jobs without a user share their address's window"
    );
}

/// A forwarder as a process, on a port of its own; killed when it is dropped.
struct Forwarder {
    _process: Child,
    folder: PathBuf,
    port: u16,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Forwarder {
    /// Starts the program with a configuration; `None` where it is not installed.
    async fn start(program: &str, arguments: &[&str], configuration: &str, worker: &Worker) -> Option<Self> {
        let place = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
            .iter()
            .map(|folder| PathBuf::from(folder).join(program))
            .find(|path| path.exists());
        let Some(place) = place else {
            eprintln!("{program} is not installed: not tried");
            return None;
        };
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let folder = std::env::temp_dir().join(format!("forwarder-{program}-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let configuration = configuration
            .replace("{folder}", folder.to_str().unwrap())
            .replace("{port}", &port.to_string())
            .replace("{worker}", &worker.port.to_string());
        let file = folder.join("configuration");
        std::fs::write(&file, configuration).unwrap();
        let process = Command::new(place)
            .args(arguments)
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let started = Self {
            _process: process,
            folder,
            port,
        };
        eventually(&format!("{program} forwards"), async || {
            let health = reqwest::get(format!("http://127.0.0.1:{port}/api/health")).await;
            health.ok().filter(|answer| answer.status() == 200).map(drop)
        })
        .await;
        Some(started)
    }
}

const NGINX: &str = "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {}
http {
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server { listen 127.0.0.1:{port}; location / { proxy_pass http://127.0.0.1:{worker}; } }
}
";

const HAPROXY: &str = "defaults
  mode {mode}
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen worker
  bind 127.0.0.1:{port}
  server worker 127.0.0.1:{worker}
";

/// Forwarders that say nothing of themselves: the whole world comes from 127.0.0.1 through them.
#[tokio::test]
async fn a_forwarder_on_this_host_opens_nothing() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[OFF]).await;
    for (program, arguments, configuration) in [
        ("nginx", &["-c"][..], NGINX.to_owned()),
        ("haproxy", &["-db", "-f"], HAPROXY.replace("{mode}", "http")),
        ("haproxy", &["-db", "-f"], HAPROXY.replace("{mode}", "tcp")),
    ] {
        let Some(forwarder) = Forwarder::start(program, arguments, &configuration, &worker).await else {
            continue;
        };
        let url = format!("http://127.0.0.1:{}{RESET}", forwarder.port);
        for host in [None, Some("localhost"), Some("worker.example")] {
            let (code, why) = post(&url, host).await;
            assert_eq!(code, 401, "{program}, {host:?}: {why}");
        }
    }
}
