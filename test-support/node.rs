//! BullMQ's own library as producer and onlooker: a Node process that does as it is told, see `tests/node/driver.mjs`.

use std::sync::Arc;

use backend_worker::queue::Broker;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    TestCluster, TestRedis,
    driver::{Driver, script},
    eventually,
};

/// A Node process on one queue; it ends with its standard input.
pub struct Node(Mutex<Driver>);

impl Node {
    pub async fn start(redis: &TestRedis, queue: &str) -> Self {
        Self::start_as(redis, queue, "5").await
    }

    /// With a BullMQ of this version: `5.1`, `5` or `6`.
    pub async fn start_as(redis: &TestRedis, queue: &str, version: &str) -> Self {
        Self::start_under(redis, queue, version, redis.prefix()).await
    }

    /// With a BullMQ of this version, and this prefix of its keys.
    pub async fn start_under(redis: &TestRedis, queue: &str, version: &str, prefix: &str) -> Self {
        Self::start_at(&redis.server.port().to_string(), queue, version, prefix)
    }

    /// On a cluster, over ioredis's own client for clusters.
    pub async fn start_on_cluster(cluster: &TestCluster, queue: &str, prefix: &str) -> Self {
        let ports: Vec<String> = (0..cluster.len())
            .map(|at| cluster.port(at).to_string())
            .collect();
        Self::start_at(&ports.join(","), queue, "5", prefix)
    }

    fn start_at(ports: &str, queue: &str, version: &str, prefix: &str) -> Self {
        let mut command = script("driver.mjs");
        command
            .arg(ports)
            .arg(queue)
            .arg(version)
            .arg(prefix)
            .kill_on_drop(true);
        Self(Mutex::new(Driver::start(&mut command)))
    }

    /// Kills the process, and its workers with it.
    pub async fn kill(self) {
        self.0.into_inner().process.kill().await.unwrap();
    }

    /// Has one operation of the driver done.
    pub async fn ask(&self, op: &str, args: Value) -> Value {
        self.try_to(op, args)
            .await
            .unwrap_or_else(|error| panic!("{op}: {error}"))
    }

    /// As [`Self::ask`]; `Err` is what the operation threw.
    pub async fn try_to(&self, op: &str, args: Value) -> Result<Value, String> {
        self.0.lock().await.ask(op, &args).await
    }

    /// Adds a job of the type `process-image`.
    pub async fn add(&self, id: &str, opts: Value) {
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
    pub async fn look(&self, id: &str) -> Value {
        self.ask("look", json!({"id": id})).await
    }

    pub async fn until(&self, id: &str, state: &str) -> Value {
        eventually(&format!("Node sees {id} {state}"), async || {
            let job = self.look(id).await;
            (job["state"] == state).then_some(job)
        })
        .await
    }

    /// Waits until the job's events so far are these, in this order, apart from those of its progress.
    pub async fn expect_events(&self, id: &str, expected: &[&str]) {
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
    pub async fn event(&self, name: &str) -> Value {
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

/// A queue in the BullMQ layout that Node and this worker share.
pub struct NodeScene {
    pub redis: TestRedis,
    pub node: Node,
    pub broker: Arc<dyn Broker>,
}

impl NodeScene {
    pub async fn set() -> Self {
        let redis = TestRedis::start().await;
        let node = Node::start(&redis, "q").await;
        let broker = redis.bullmq("q", "w");
        broker.renew(&[]).await.unwrap();
        Self { redis, node, broker }
    }
}
