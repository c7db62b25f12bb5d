//! One replica, wired from its configuration: a broker and an apalis worker for each queue, and the HTTP server.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, QueueSpec},
    connection::Connection,
    ops::{Ops, Server},
    queue::{Broker, Layout, apalis::ApalisBroker, bullmq::BullmqBroker},
    worker::{Runtime, RuntimeOptions, dispatch::Dispatcher, outcome::OutcomeRules, vitals::Tally},
};

/// A replica that is ready to run.
#[derive(Debug)]
pub struct Replica {
    runtime: Runtime,
    server: Server,
    name: String,
}

impl Replica {
    /// Binds the HTTP port and builds everything else. Redis need not be there yet.
    ///
    /// # Errors
    /// When the port is taken, or an HTTP client cannot be built.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            replica = config.replica,
            "backend-worker starts: {}",
            config.effective()
        );
        if let Some(drain) = config.platform_drain.filter(|drain| *drain < config.drain) {
            warn!(
                "RAILWAY_DEPLOYMENT_DRAINING_SECONDS is {} s, shorter than DRAIN_TIMEOUT ({} s): jobs in flight \
                will be killed at a deployment",
                drain.as_secs(),
                config.drain.as_secs()
            );
        }
        let connection = Connection::open(&config.redis_url).context("REDIS_URL")?;
        let rules = OutcomeRules {
            retry: config.retry,
            max_wait: config.max_wait,
            replica: config.replica.clone(),
        };
        let dispatcher = Dispatcher {
            jobs: jobs::Jobs::new(&config.handlers).context("cannot build the providers' clients")?,
            retry: config.retry,
            rules: rules.clone(),
            unknown_types: config.unknown_types,
        };
        let queues = config
            .queues
            .iter()
            .map(|spec| (broker(spec, &connection, config), spec.concurrency));
        let options = RuntimeOptions {
            rules,
            deadline: config.deadline,
            drain: config.drain,
            renew_every: config.broker.lease_ttl / 3,
        };
        let runtime = Runtime::new(queues, Arc::new(dispatcher), &options);
        let server = Server::bind(config.port)
            .await
            .with_context(|| format!("cannot bind PORT {}", config.port))?;
        Ok(Self {
            runtime,
            server,
            name: config.replica.clone(),
        })
    }

    /// The port of its HTTP server.
    ///
    /// # Errors
    /// The operating system's.
    pub fn port(&self) -> std::io::Result<u16> {
        self.server.port()
    }

    /// Runs until `stop` resolves and the jobs in flight have ended; `hasten` hands them back at once.
    ///
    /// # Errors
    /// When a worker ends by itself, which is a fault.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send,
        hasten: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<Tally> {
        let port = self.port()?;
        let done = CancellationToken::new();
        let server = tokio::spawn(
            self.server
                .serve(Ops::new(self.runtime.workers().to_vec()), done.clone()),
        );
        info!(
            port,
            replica = self.name,
            "ready: health at http://localhost:{port}/api/health"
        );
        let tally = self.runtime.run(stop, hasten).await;
        done.cancel();
        server
            .await
            .context("the HTTP server died")?
            .context("the HTTP server failed")?;
        let tally = tally?;
        info!(
            processed = tally.processed(),
            succeeded = tally.succeeded,
            failed = tally.failed,
            put_off = tally.put_off,
            released = tally.released,
            lost = tally.lost,
            "stopped"
        );
        Ok(tally)
    }
}

/// The broker of one queue.
pub fn broker(spec: &QueueSpec, connection: &Connection, config: &Config) -> Arc<dyn Broker> {
    let (connection, name, replica) = (connection.clone(), &spec.name, &config.replica);
    match spec.layout {
        Layout::Bullmq => Arc::new(BullmqBroker::new(connection, name, replica, config.broker)),
        Layout::Apalis => Arc::new(ApalisBroker::new(connection, name, replica, config.broker)),
    }
}
