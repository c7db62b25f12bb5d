//! Redis behind Sentinels: the worker asks them for the primary, and follows it.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use backend_worker::{queue::Layout, simulator::Provider};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::{Node, Scene, TestRedis, eventually};

const JOBS: usize = 40;

/// Three Sentinels that watch a primary called `main`.
struct Sentinels {
    processes: Vec<Child>,
    ports: Vec<u16>,
    folder: PathBuf,
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Sentinels {
    fn watching(primary: u16) -> Self {
        let folder = std::env::temp_dir().join(format!("backend-worker-sentinels-{primary}"));
        std::fs::create_dir_all(&folder).unwrap();
        let (mut processes, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let file = folder.join(format!("{port}.conf"));
            let settings = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
                folder.display()
            );
            std::fs::write(&file, settings).unwrap();
            let process = Command::new("redis-server")
                .arg(&file)
                .arg("--sentinel")
                .stdout(std::process::Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            processes.push(process);
            ports.push(port);
        }
        Self {
            processes,
            ports,
            folder,
        }
    }

    fn url(&self) -> String {
        let hosts: Vec<String> = self
            .ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis+sentinel://{}/main/0", hosts.join(","))
    }

    /// Waits until each Sentinel knows the two others and the replica.
    async fn agree(&self) {
        for port in &self.ports {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
            eventually("the Sentinels know each other", async || {
                let mut socket = client.get_multiplexed_async_connection().await.ok()?;
                let mut ask = redis::cmd("SENTINEL");
                ask.arg("MASTER").arg("main");
                let main: std::collections::HashMap<String, String> =
                    ask.query_async(&mut socket).await.ok()?;
                let is_ready = main.get("num-other-sentinels")? == "2" && main.get("num-slaves")? == "1";
                is_ready.then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn the_primary_is_asked_for_and_followed() {
    let first = TestRedis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let port = first.server.port();
    let second = TestRedis::start_with(&["--replicaof", "127.0.0.1", &port.to_string()]).await;
    let mut sentinels = Sentinels::watching(port);
    sentinels.agree().await;
    // One that is away is passed over.
    sentinels.processes[0].kill().await.unwrap();
    let url = sentinels.url();
    let scene = Scene::over(first, Duration::from_millis(100), 0).await;
    let node = Node::start(&scene.redis, "ai-jobs").await;
    let jobs: Vec<Value> = (0..JOBS)
        .map(|n| {
            let data =
                json!({"content": format!("cells, {n}"), "subject": "s", "topic": "t", "userId": "u"});
            json!({"name": "generate-flashcards", "data": data, "opts": {"jobId": format!("j{n}"), "attempts": 3}})
        })
        .collect();
    node.ask("addBulk", json!({"jobs": jobs})).await;
    let worker = scene
        .worker(&[
            ("REDIS_URL", &url),
            ("CONCURRENCY", "4"),
            ("QUEUES", "bullmq:ai-jobs"),
        ])
        .await;
    scene
        .simulator
        .journal()
        .wait_until(|journal| journal.counts(Provider::OpenAi).requests >= 10)
        .await;
    // All that was written is on the replica as well; a fail-over may lose what is not.
    let pid = Pid::from_raw(scene.redis.server.pid().unwrap().cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    let broker = second.broker(Layout::Bullmq, "ai-jobs", "onlooker");
    eventually("all are completed on the new primary", async || {
        (broker.counts().await.ok()?.completed == JOBS as u64).then_some(())
    })
    .await;
    let health = worker.health().await.unwrap();
    assert_eq!(health.0, 200, "{health:?}");
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
}
