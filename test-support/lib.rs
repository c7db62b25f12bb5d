//! What the tests share: a Redis, brokers, a replica in process, and patience.

mod browser;
mod counts;
mod driver;
mod node;
#[allow(dead_code, reason = "the gate's tests and the chaos suite have other weather")]
pub(crate) mod proxy;
#[allow(dead_code, reason = "the chaos suite asks less of it")]
mod receiver;
mod replica;
#[allow(dead_code, reason = "the chaos suite asks more of a worker")]
mod scene;
#[allow(dead_code, reason = "the chaos suite loads no media")]
mod silent;
mod sse;
mod web_api;

use std::{
    cell::Cell,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backend_worker::{
    connection::Connection,
    demo::PrivateRedis,
    queue::{
        Broker, BrokerOptions, ClaimNumber, Delivery, JobSnapshot, Layout, NewJob, apalis::ApalisBroker,
        bullmq::BullmqBroker,
    },
};
use jobs::JobType;
use serde_json::value::RawValue;

#[allow(unused_imports, reason = "the chaos suite looks at no page")]
pub(crate) use browser::Browser;
pub(crate) use driver::{folder as node_folder, script as node_script};
pub(crate) use node::{Node, NodeScene};
pub(crate) use proxy::{Proxy, Weather};
#[allow(unused_imports, reason = "the chaos suite names some")]
pub(crate) use receiver::{Call, Manner, Receiver};
pub(crate) use replica::{RunningReplica, Script, options, replica};
#[allow(unused_imports, reason = "the chaos suite names the launcher")]
pub(crate) use scene::{Launcher, Scene, Worker};
#[allow(unused_imports, reason = "the chaos suite loads no media")]
pub(crate) use silent::SilentServer;
pub(crate) use sse::Sse;
pub(crate) use web_api::WebApi;

/// How long a test waits for what must happen. Long, because the machines are slow and shared: a test that fails
/// takes this long, one that passes never does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` yields something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
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

/// A Redis of the test's own, with the eyes of an onlooker.
pub(crate) struct TestRedis {
    pub(crate) server: PrivateRedis,
    pub(crate) raw: redis::aio::ConnectionManager,
}

impl TestRedis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        Self::start_program("redis-server".into(), arguments).await
    }

    /// Redis 6.2, where `scripts/setup-redis-6.2.sh` has found one.
    pub(crate) async fn start_6_2() -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/redis-6.2/redis-server");
        if !program.exists() {
            eprintln!("skipped on Redis 6.2: run scripts/setup-redis-6.2.sh");
            return None;
        }
        Some(Self::start_program(program, &[]).await)
    }

    async fn start_program(program: PathBuf, arguments: &[&str]) -> Self {
        // The tests use no TLS, but the HTTP clients require a provider of cryptography.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = PrivateRedis::start_program(program, arguments).await.unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        // A command of a test may be large, and the machine busy: only a Redis that is stuck is too late.
        let config = redis::aio::ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
        let raw = client.get_connection_manager_with_config(config).await.unwrap();
        Self { server, raw }
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::open(&self.server.url().into()).unwrap()
    }

    /// A broker whose lease lasts `lease_ttl`.
    pub(crate) fn broker_with(
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
            Layout::Bullmq => Arc::new(BullmqBroker::new(self.connection(), queue, worker, options)),
            Layout::Apalis => Arc::new(ApalisBroker::new(self.connection(), queue, worker, options)),
        }
    }

    pub(crate) fn broker(&self, layout: Layout, queue: &str, worker: &str) -> Arc<dyn Broker> {
        self.broker_with(layout, queue, worker, Duration::from_secs(15))
    }

    pub(crate) fn bullmq(&self, queue: &str, worker: &str) -> Arc<dyn Broker> {
        self.broker(Layout::Bullmq, queue, worker)
    }

    pub(crate) fn apalis(&self, queue: &str, worker: &str) -> Arc<dyn Broker> {
        self.broker(Layout::Apalis, queue, worker)
    }

    /// Runs a command, and wants an answer of type `T`.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        for argument in &command[1..] {
            cmd.arg(argument);
        }
        cmd.query_async(&mut self.raw.clone()).await.unwrap()
    }
}

/// A payload that no handler minds in tests with a scripted one.
pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// Enqueues a job with the id `id`.
pub(crate) async fn enqueue(broker: &dyn Broker, id: &str) {
    enqueue_with(broker, id, 3).await;
}

pub(crate) async fn enqueue_with(broker: &dyn Broker, id: &str, max_attempts: u32) {
    let payload = raw(&format!(r#"{{"n":"{id}"}}"#));
    let job = NewJob {
        id,
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap(), "{id} was there before");
}

/// Waits until so many jobs are completed at least.
pub(crate) async fn until_completed(broker: &dyn Broker, count: u64) {
    eventually(&format!("{count} jobs completed"), async || {
        (broker.counts().await.unwrap().completed >= count).then_some(())
    })
    .await;
}

/// Claims the one job that is there, with the first number from `number` on that finds it: one that found nothing is
/// used up. Also returns the next number.
pub(crate) async fn claim_one(broker: &dyn Broker, number: ClaimNumber) -> (Delivery, ClaimNumber) {
    let number = Cell::new(number);
    let delivery = eventually("a job to claim", async || {
        let claimed = broker.claim(number.get(), 1).await.unwrap().pop();
        number.set(number.get().next());
        claimed
    });
    (delivery.await, number.get())
}

/// The job as an onlooker sees it.
pub(crate) async fn view(broker: &dyn Broker, id: &str) -> JobSnapshot {
    broker
        .find(id)
        .await
        .unwrap()
        .unwrap_or_else(|| panic!("job {id} is gone"))
}
