//! BullMQ's own library as producer and onlooker: a Node process that does as it is told, see `tests/node/driver.mjs`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use super::{TestRedis, eventually};

/// A Node process on one queue; it ends with its standard input.
pub(crate) struct Node {
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    process: Child,
}

/// Where the scripts and their packages are.
pub(crate) fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    assert!(
        folder.join("node_modules").exists(),
        "tests/node has no node_modules: run sh scripts/setup-node.sh"
    );
    folder
}

impl Node {
    pub(crate) async fn start(redis: &TestRedis, queue: &str) -> Self {
        Self::start_as(redis, queue, "5").await
    }

    /// With a BullMQ of this version: `5.1`, `5` or `6`.
    pub(crate) async fn start_as(redis: &TestRedis, queue: &str, version: &str) -> Self {
        let mut process = Command::new("node")
            .arg(folder().join("driver.mjs"))
            .arg(redis.server.port().to_string())
            .arg(queue)
            .arg(version)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed (sh scripts/setup-node.sh)");
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self {
            pipes: Mutex::new((stdin, BufReader::new(stdout).lines())),
            process,
        }
    }

    /// Kills the process, and its workers with it.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Has one operation of the driver done.
    pub(crate) async fn ask(&self, op: &str, args: Value) -> Value {
        self.try_to(op, args)
            .await
            .unwrap_or_else(|error| panic!("{op}: {error}"))
    }

    /// As [`Self::ask`]; `Err` is what the operation threw.
    pub(crate) async fn try_to(&self, op: &str, args: Value) -> Result<Value, String> {
        let (stdin, stdout) = &mut *self.pipes.lock().await;
        let request = format!("{}\n", json!({"op": op, "args": args}));
        stdin.write_all(request.as_bytes()).await.unwrap();
        let line = stdout.next_line().await.unwrap();
        let mut answer: Value = serde_json::from_str(&line.expect("the driver has not died")).unwrap();
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// Adds a job of the type `process-image`.
    pub(crate) async fn add(&self, id: &str, opts: Value) {
        let mut opts = opts;
        opts["jobId"] = json!(id);
        let added = self
            .ask(
                "add",
                json!({"name": "process-image", "data": {"n": id}, "opts": opts}),
            )
            .await;
        assert_eq!(added, id);
    }

    /// A job as Node sees it; null when it is gone.
    pub(crate) async fn look(&self, id: &str) -> Value {
        self.ask("look", json!({"id": id})).await
    }

    pub(crate) async fn until(&self, id: &str, state: &str) -> Value {
        eventually(&format!("Node sees {id} {state}"), async || {
            let job = self.look(id).await;
            (job["state"] == state).then_some(job)
        })
        .await
    }

    /// Waits until the job's events so far are these, in this order, apart from those of its progress.
    pub(crate) async fn expect_events(&self, id: &str, expected: &[&str]) {
        let mut seen = Vec::new();
        let wait = eventually("the events arrive", async || {
            let all = self.ask("events", json!({})).await;
            let of_job = all.as_array().unwrap().iter();
            let of_job = of_job.filter(|e| e["jobId"] == id && e["event"] != "progress");
            let names: Vec<String> = of_job.map(|e| e["event"].as_str().unwrap().to_owned()).collect();
            (names.len() >= expected.len()).then_some(names)
        });
        seen.extend(wait.await);
        assert_eq!(seen, expected, "events of {id}");
    }

    /// The last event of this name, once there is one.
    pub(crate) async fn event(&self, name: &str) -> Value {
        eventually(&format!("the event {name}"), async || {
            let all = self.ask("events", json!({})).await;
            all.as_array()
                .unwrap()
                .iter()
                .rfind(|e| e["event"] == name)
                .cloned()
        })
        .await
    }
}
