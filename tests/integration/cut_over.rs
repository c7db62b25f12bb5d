//! The guides of `docs/operations.md`, followed from start to end while jobs come in: the Node worker alone, both
//! side by side, ours alone, and back.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backend_worker::simulator::Provider;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

use crate::{
    check::{check, of},
    support::{Node, PATIENCE, Scene, TestRedis, eventually, node_folder},
};

const QUEUE: (&str, &str) = ("QUEUES", "bullmq:ai-jobs=6");

/// The worker that is replaced: BullMQ, Bottleneck, a breaker in Redis, see `benches/peer`.
struct NodeWorker {
    process: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl NodeWorker {
    /// With two calls at a time.
    async fn start(scene: &Scene) -> Self {
        let variable = |name| {
            let mut of = scene.launcher.env.iter().filter(|(n, _)| *n == name);
            of.next().unwrap().1.clone()
        };
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer/worker.js"))
            .env("NODE_PATH", node_folder().join("node_modules"))
            .env("REDIS_URL", scene.redis.server.url())
            .env("STUB_URL", variable("OPENAI_BASE_URL"))
            .env("API_KEY", variable("OPENAI_API_KEY"))
            .envs([
                ("CONCURRENCY", "6"),
                ("LIMIT_RPM", "6000"),
                ("MAX_CONCURRENT", "2"),
            ])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed (sh scripts/setup-node.sh)");
        let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(PATIENCE, stdout.next_line()).await;
        assert_eq!(ready.unwrap().unwrap().as_deref(), Some("READY"));
        Self {
            process,
            _stdout: stdout,
        }
    }

    /// SIGTERM: it finishes what it holds.
    async fn stop(mut self) {
        let pid = Pid::from_raw(self.process.id().unwrap().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        assert!(status.expect("it drains").unwrap().success());
    }
}

/// The web API: it adds jobs all the time, and knows of no worker.
struct Producer {
    node: Arc<Node>,
    /// Jobs of a type that only the Node worker knows come too.
    foreign: Arc<AtomicBool>,
    added: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Producer {
    async fn start(redis: &TestRedis) -> Self {
        let node = Arc::new(Node::start(redis, "ai-jobs").await);
        let (foreign, added) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (node, foreign, added) = (node.clone(), foreign.clone(), added.clone());
            async move {
                loop {
                    let n = added.fetch_add(1, Ordering::SeqCst);
                    let is_foreign = n % 10 == 9 && foreign.load(Ordering::SeqCst);
                    let name = if is_foreign {
                        "summarize-lecture"
                    } else {
                        "generate-flashcards"
                    };
                    let data = json!({"content": format!("cells, job-{n}"), "subject": "s", "topic": "t", "userId": "u"});
                    let backoff = json!({"type": "exponential", "delay": 2000});
                    let opts = json!({"jobId": format!("job-{n}"), "attempts": 3, "backoff": backoff});
                    node.ask("add", json!({"name": name, "data": data, "opts": opts}))
                        .await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self {
            node,
            foreign,
            added,
            task,
        }
    }

    /// Adds no more jobs of the foreign type, and waits until those that were added have completed.
    async fn end_foreign(&self) {
        self.foreign.store(false, Ordering::SeqCst);
        for n in (9..self.added.load(Ordering::SeqCst)).step_by(10) {
            self.node.until(&format!("job-{n}"), "completed").await;
        }
    }
}

/// Calls by worker: Node's, ours.
fn calls(scene: &Scene) -> (usize, usize) {
    let all = scene.simulator.journal().of(Provider::OpenAi);
    let ours = all
        .iter()
        .filter(|entry| entry.headers["user-agent"].starts_with("backend-worker/"))
        .count();
    (all.len() - ours, ours)
}

/// Waits until the workers that are named have made another twenty calls each.
async fn at_work(scene: &Scene, node: bool, ours: bool) {
    let before = calls(scene);
    eventually("they are at work", async || {
        let now = calls(scene);
        let well = (!node || now.0 >= before.0 + 20) && (!ours || now.1 >= before.1 + 20);
        well.then_some(())
    })
    .await;
}

async fn run(scene: &Scene, arguments: &[&str]) -> String {
    let output = scene.command(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn bottleneck_keys(scene: &Scene) -> usize {
    scene
        .redis
        .ask::<Vec<String>>(&["KEYS", "b_openai_*"])
        .await
        .len()
}

#[tokio::test]
async fn from_the_node_worker_to_ours_and_back_while_jobs_come_in() {
    let redis = TestRedis::start_with(&["--appendonly", "yes"]).await;
    let scene = Scene::over(redis, Duration::from_millis(20), 0).await;
    // A counter that the Node worker left without its window.
    scene
        .redis
        .ask::<String>(&["SET", "circuit:azure:failures", "2"])
        .await;
    let producer = Producer::start(&scene.redis).await;
    let node = NodeWorker::start(&scene).await;
    at_work(&scene, true, false).await;

    // 1. Check.
    let (code, answer) = check(&scene, &[QUEUE, ("ADMIN_TOKEN", "adm1n-t0ken-of-tests")]).await;
    assert_eq!(code, Some(0), "{answer}");
    assert_eq!(of(&answer, "keyspace").0, "warning", "{answer}");
    let dry = run(&scene, &["migrate", "--dry-run"]).await;
    assert!(dry.contains("0002_repair_breakers would change 1 keys"), "{dry}");

    // 2. Side by side.
    let part = [
        QUEUE,
        ("UNKNOWN_JOB_TYPE", "give-back"),
        ("OPENAI_RATE_LIMIT_RPM", "6000"),
        ("OPENAI_MAX_CONCURRENT", "2"),
    ];
    let first = scene.worker(&part).await;
    at_work(&scene, true, true).await;
    let peak = scene.simulator.journal().counts(Provider::OpenAi).peak;
    assert!(peak <= 4, "each kept its part: {peak} at a time");

    // 3. Watch.
    assert!(run(&scene, &["queue", "stats"]).await.contains("ai-jobs"));
    let failed = run(&scene, &["job", "list", "--state", "failed", "--json"]).await;
    let failed: Value = serde_json::from_str(&failed).unwrap();
    assert_eq!(failed["jobs"], json!([]));
    assert!(run(&scene, &["breaker", "status"]).await.contains("CLOSED"));
    run(&scene, &["limits"]).await;

    // 4. Alone: the jobs of the foreign type have to end first, because only the Node worker knows them.
    producer.end_foreign().await;
    node.stop().await;
    let (a, b) = (scene.worker(&[QUEUE]).await, scene.worker(&[QUEUE]).await);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.ended().await.0, Some(0));
    at_work(&scene, false, true).await;

    // 5. Retire: a limiter that was in use a moment ago is left alone.
    let retire = ["migrate", "--retire-bottleneck"];
    assert!(bottleneck_keys(&scene).await > 0);
    let left = run(&scene, &retire).await;
    assert!(left.contains("openai: still in use"), "{left}");
    let kept = bottleneck_keys(&scene).await;
    // Two minutes later.
    let last_seen = "b_openai_client_last_seen";
    let clients: Vec<String> = scene.redis.ask(&["ZRANGE", last_seen, "0", "-1"]).await;
    for client in &clients {
        scene
            .redis
            .ask::<f64>(&["ZINCRBY", last_seen, "-130000", client])
            .await;
    }
    let dry = run(&scene, &["migrate", "--dry-run", "--retire-bottleneck"]).await;
    assert!(dry.contains(&format!("would change {kept} keys")), "{dry}");
    let gone = run(&scene, &retire).await;
    assert!(gone.contains(&format!("changed {kept} keys")), "{gone}");
    assert_eq!(bottleneck_keys(&scene).await, 0);
    at_work(&scene, false, true).await;

    // Rollback: first without breaker and limits, one replica after the other, then the Node worker again.
    let plain = [
        QUEUE,
        ("CIRCUIT_BREAKER", "off"),
        ("CIRCUIT_MAX_WAIT", "0"),
        ("RETRY_MAX_ATTEMPTS", "1"),
    ];
    let (c, d) = (scene.worker(&plain).await, scene.worker(&plain).await);
    for worker in [a, b] {
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await.0, Some(0));
    }
    at_work(&scene, false, true).await;
    let node = NodeWorker::start(&scene).await;
    for worker in [c, d] {
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.ended().await.0, Some(0));
    }
    at_work(&scene, true, false).await;

    producer.task.abort();
    // The one that was being added may have arrived or not.
    let jobs = producer.added.load(Ordering::SeqCst) - 1;
    let onlooker = Node::start(&scene.redis, "ai-jobs").await;
    eventually("all jobs have ended", async || {
        let counts = onlooker.ask("counts", json!({})).await;
        ["waiting", "active", "delayed", "prioritized"]
            .iter()
            .all(|state| counts[state] == 0)
            .then_some(())
    })
    .await;
    let census = onlooker.ask("census", json!({})).await;
    let mut paid = std::collections::HashMap::new();
    for entry in scene.simulator.journal().of(Provider::OpenAi) {
        *paid.entry(entry.marker).or_insert(0) += 1;
    }
    for n in 0..jobs {
        let id = format!("job-{n}");
        assert_eq!(
            census["jobs"][&id]["state"], "completed",
            "{id}: {}",
            census["jobs"][&id]
        );
        assert_eq!(census["jobs"][&id]["attemptsMade"], 1, "{id}");
        assert_eq!(census["completed"][&id], 1, "{id} was completed once");
        assert_eq!(paid.get(&id), Some(&1), "{id} was paid for once");
    }
    let (by_node, by_ours) = calls(&scene);
    eprintln!("{jobs} jobs: {by_node} calls by the Node worker, {by_ours} by ours");
    node.stop().await;
    let locks: Vec<String> = scene.redis.ask(&["KEYS", "bull:ai-jobs:*:lock"]).await;
    assert!(locks.is_empty(), "{locks:?}");
}
