//! The tests share these: a Redis, brokers, replicas in process and as processes, Node, a browser, and patience.
//!
//! # Layout
//! - [`TestRedis`]: a redis-server of the test's own, brokers over it, and (`counts`) the commands that it has run.
//! - `replica`: a replica in the test's process, with a handler that the test writes ([`Script`]).
//! - `cluster`: a Redis Cluster ([`TestCluster`]); with `TEST_REDIS=cluster` every [`TestRedis`] is the owner of a slot of one.
//! - `scene`: the binary, with a Redis and a simulator of the providers ([`Scene`]), and (`worker_http`) its HTTP API.
//! - `proxy`: a TCP proxy that loses, holds or cuts what passes ([`Proxy`]).
//! - `node`, `web_api`, `browser`, over `driver`: BullMQ's own library, the app's web API and Chromium as processes.
//! - `receiver`, `silent`, `sse`: a receiver of usage events, a server that never answers, a reader of event streams.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test reports a fault by a panic"
)]

mod browser;
mod cluster;
mod counts;
mod driver;
mod node;
mod proxy;
mod receiver;
mod replica;
mod scene;
mod silent;
mod sse;
mod web_api;
mod worker_http;

use std::{
    cell::Cell,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backend_worker::{
    connection::{Connection, RedisAddress},
    demo::PrivateRedis,
    queue::{
        Broker, BrokerOptions, ClaimNumber, Delivery, JobSnapshot, JobState, Layout, NewJob,
        apalis::ApalisBroker, bullmq::BullmqBroker,
    },
};
use jobs::JobType;
use serde_json::value::RawValue;

pub use browser::Browser;
pub use cluster::{TAG, TestCluster};
pub use driver::{folder as node_folder, script as node_script};
pub use node::{Node, NodeScene};
pub use proxy::{Proxy, Weather};
pub use receiver::{Call, Manner, Receiver};
pub use replica::{RunningReplica, Script, options, replica};
pub use scene::{Launcher, Scene, Worker};
pub use silent::SilentServer;
pub use sse::Sse;
pub use web_api::WebApi;
pub use worker_http::{ADMIN_TOKEN, cards};

/// How long a test waits for what must happen. Long, because the machines are slow and shared: a test that fails
/// takes this long, one that passes never does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` yields something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let waited = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// The repository's folder.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the crate is a folder of the repository")
}

/// A Redis of the test's own, with the eyes of an onlooker.
pub struct TestRedis {
    pub server: PrivateRedis,
    pub raw: redis::aio::ConnectionManager,
    /// The cluster whose node `server` is.
    _others: Option<TestCluster>,
    address: RedisAddress,
}

impl TestRedis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_program("redis-server".into(), arguments).await
    }

    /// Redis 6.2, where `scripts/setup-redis-6.2.sh` has found one.
    pub async fn start_6_2() -> Option<Self> {
        let program = root().join("target/redis-6.2/redis-server");
        if !program.exists() {
            eprintln!("skipped on Redis 6.2: run scripts/setup-redis-6.2.sh");
            return None;
        }
        Some(Self::start_program(program, &[]).await)
    }

    async fn start_program(program: PathBuf, arguments: &[&str]) -> Self {
        // The tests use no TLS, but the HTTP clients require a provider of cryptography.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let in_cluster =
            arguments.is_empty() && std::env::var("TEST_REDIS").is_ok_and(|kind| kind == "cluster");
        let (server, address, others) = match in_cluster {
            true => {
                let (server, address, others) = TestCluster::start(2, 0).await.into_owner().await;
                (server, address, Some(others))
            }
            false => {
                let server = PrivateRedis::start_program(program, arguments).await.unwrap();
                let address = server.url().into();
                (server, address, None)
            }
        };
        let client = redis::Client::open(server.url()).unwrap();
        // A command of a test may be large, and the machine busy: only a Redis that is stuck is too late.
        let config = redis::aio::ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
        let raw = client.get_connection_manager_with_config(config).await.unwrap();
        Self {
            address,
            _others: others,
            server,
            raw,
        }
    }

    pub fn connection(&self) -> Connection {
        Connection::open(&self.address).unwrap()
    }

    /// The prefix of the keys of BullMQ queues.
    pub fn prefix(&self) -> &str {
        self.address.namespace().tag().unwrap_or("bull")
    }

    /// What stands in front of the other keys.
    pub fn own(&self) -> &str {
        self.address.namespace().prefix()
    }

    /// A broker whose lease lasts `lease_ttl`.
    pub fn broker_with(
        &self,
        layout: Layout,
        queue: &str,
        worker: &str,
        lease_ttl: Duration,
    ) -> Arc<dyn Broker> {
        let options = BrokerOptions {
            lease_ttl,
            ..BrokerOptions::default()
        };
        match layout {
            Layout::Bullmq => {
                let broker = BullmqBroker::new(self.connection(), queue, worker, options);
                Arc::new(broker.under_prefix(self.prefix()))
            }
            Layout::Apalis => Arc::new(ApalisBroker::new(self.connection(), queue, worker, options)),
        }
    }

    pub fn broker(&self, layout: Layout, queue: &str, worker: &str) -> Arc<dyn Broker> {
        self.broker_with(layout, queue, worker, Duration::from_secs(15))
    }

    pub fn bullmq(&self, queue: &str, worker: &str) -> Arc<dyn Broker> {
        self.broker(Layout::Bullmq, queue, worker)
    }

    pub fn apalis(&self, queue: &str, worker: &str) -> Arc<dyn Broker> {
        self.broker(Layout::Apalis, queue, worker)
    }

    /// Runs a command, and wants an answer of type `T`.
    pub async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        for argument in &command[1..] {
            cmd.arg(argument);
        }
        cmd.query_async(&mut self.raw.clone()).await.unwrap()
    }
}

/// A payload that no handler minds in tests with a scripted one.
pub fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// Enqueues a job of this type. `payload` is JSON.
pub async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: &str, max_attempts: u32) {
    let payload = raw(payload);
    let job = NewJob {
        id,
        kind,
        payload: &payload,
        max_attempts,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap(), "{id} was there before");
}

/// Enqueues a job with the id `id`.
pub async fn enqueue(broker: &dyn Broker, id: &str) {
    enqueue_with(broker, id, 3).await;
}

pub async fn enqueue_with(broker: &dyn Broker, id: &str, max_attempts: u32) {
    let payload = format!(r#"{{"n":"{id}"}}"#);
    add(broker, id, JobType::GenerateFlashcards, &payload, max_attempts).await;
}

/// Waits until so many jobs are completed at least.
pub async fn until_completed(broker: &dyn Broker, count: u64) {
    eventually(&format!("{count} jobs completed"), async || {
        // A busy machine may keep an answer of Redis longer than a call waits for it.
        let counts = broker.counts().await.ok()?;
        (counts.completed >= count).then_some(())
    })
    .await;
}

/// Claims the one job that is there, with the first number from `number` on that finds it: one that found nothing is
/// used up. Also returns the next number.
pub async fn claim_one(broker: &dyn Broker, number: ClaimNumber) -> (Delivery, ClaimNumber) {
    let number = Cell::new(number);
    let delivery = eventually("a job to claim", async || {
        let claimed = broker.claim(number.get(), 1).await.unwrap().pop();
        number.set(number.get().next());
        claimed
    });
    (delivery.await, number.get())
}

/// The job, once it is completed or a dead letter.
pub async fn ended(broker: &dyn Broker, id: &str) -> JobSnapshot {
    eventually(&format!("{id} has ended"), async || {
        let view = broker.find(id).await.ok()??;
        matches!(view.state, JobState::Completed | JobState::Failed).then_some(view)
    })
    .await
}

/// The job as an onlooker sees it.
pub async fn view(broker: &dyn Broker, id: &str) -> JobSnapshot {
    broker
        .find(id)
        .await
        .unwrap()
        .unwrap_or_else(|| panic!("job {id} is gone"))
}
