//! One replica, wired from its configuration: brokers, gates, an apalis worker for each queue, the HTTP server.

mod background_loops;
mod parts;
mod spool_replay;

use std::sync::Arc;

use anyhow::Context;
use tracing::{info, warn};

pub use self::parts::{accounts, broker, operator};
use self::parts::{brokers, dispatcher, forwarder, gates, http_state, ledger, operator_side};
use self::{background_loops::BackgroundLoops, spool_replay::SpoolReplay};
use crate::{
    config::Config,
    connection::Connection,
    gate::Gates,
    http_api::{HttpServer, HttpState},
    migrate::{self, MigrateError, Migrator},
    operator::Operator,
    queue::WorkerQueue,
    spend_ledger::SpendLedger,
    spending::webhook::Forwarder,
    unserved_queues::UnservedQueueWatch,
    watchdog::WEDGED_AFTER,
    worker::{
        Runtime, RuntimeOptions,
        outcome::{AccountWaits, OutcomeRules},
        outcome_spool::OutcomeSpool,
        worker_health::OutcomeTotals,
    },
};

/// A replica that is ready to run.
#[derive(Debug)]
pub struct Replica {
    runtime: Runtime,
    gates: Option<Arc<Gates>>,
    ledger: Arc<SpendLedger>,
    forwarder: Option<Arc<Forwarder>>,
    ops: HttpState,
    server: HttpServer,
    migrator: Migrator,
    replay: Option<SpoolReplay>,
    handlers: jobs::Settings,
    unserved: UnservedQueueWatch,
    name: String,
}

impl Replica {
    /// Binds the HTTP port and builds everything else. Redis need not be there yet.
    ///
    /// # Errors
    /// When the port is taken, or an HTTP client cannot be built.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        log_start(config);
        let connection = Connection::open(&config.redis).context("REDIS_URL")?;
        let (brokers, gates) = (brokers(config, &connection), gates(config, &connection)?);
        let ledger = ledger(config, &connection);
        let forwarder = forwarder(config, &connection)?;
        let rules = OutcomeRules {
            retry: config.retry,
            max_wait: config.max_wait,
            account_waits: AccountWaits::of(config.gates.as_ref()),
            spreads_retries: config.spreads_retries,
            replica: config.replica.clone(),
        };
        let dispatcher = dispatcher(config, &connection, gates.clone(), ledger.clone(), rules.clone())?;
        let queues = brokers
            .iter()
            .zip(&config.queues)
            .map(|(broker, spec)| (broker.clone() as Arc<dyn WorkerQueue>, spec.concurrency));
        let spool = config.spool.as_deref().map(OutcomeSpool::open).transpose();
        let spool = spool.context("SPOOL_DIR")?;
        let options = RuntimeOptions {
            rules,
            spool: spool.clone(),
            deadline: config.deadline,
            drain: config.drain,
            renew_every: config.broker.lease_ttl / 3,
            idle_rest: config.idle_rest,
            wedged_after: WEDGED_AFTER,
            other_loops: gates
                .iter()
                .map(|gates| ("gate", gates.pulse().clone()))
                .collect(),
        };
        let replay = spool.map(|spool| SpoolReplay::new(spool, config, &connection));
        let runtime = Runtime::new(queues, Arc::new(dispatcher), &options);
        let operator = Operator::new(operator_side(brokers), gates.clone());
        let ops = http_state(config, &connection, &runtime, operator, ledger.clone());
        let server = HttpServer::bind(config.port)
            .await
            .with_context(|| format!("cannot bind PORT {}", config.port))?;
        Ok(Self {
            runtime,
            gates,
            ledger,
            forwarder,
            ops,
            server,
            unserved: UnservedQueueWatch::new(connection.clone(), &config.queues, &config.replica)
                .under_prefix(&config.bullmq_prefix),
            migrator: Migrator::new(connection, &config.replica),
            replay,
            handlers: config.handlers.clone(),
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
    ) -> anyhow::Result<OutcomeTotals> {
        let port = self.port()?;
        let loops = BackgroundLoops::start(
            self.gates.clone(),
            self.ledger.clone(),
            self.forwarder.clone(),
            self.handlers,
            self.unserved,
            self.ops,
            self.server,
        );
        let mut stop = std::pin::pin!(stop);
        let workers = self.runtime.workers().to_vec();
        let away = |away: bool| workers.iter().for_each(|w| w.health().record_redis(!away));
        let told_to_stop = tokio::select! {
            () = &mut stop => true,
            prepared = async {
                migrate::before_claiming(&self.migrator, away).await?;
                if let Some(replay) = &self.replay {
                    replay.run().await;
                }
                if let Some(gates) = &self.gates {
                    gates.counted().await;
                }
                if let Some(forwarder) = &self.forwarder {
                    forwarder.begin().await;
                }
                Ok::<_, MigrateError>(())
            } => {
                prepared.context("the keyspace cannot be used")?;
                false
            }
        };
        let tally = if told_to_stop {
            Ok(OutcomeTotals::default())
        } else {
            info!(
                port,
                replica = self.name,
                "ready: health at http://localhost:{port}/api/health"
            );
            self.runtime.run(stop, hasten).await
        };
        loops.stop().await?;
        let tally = tally?;
        let spending = self.ledger.spending();
        info!(
            processed = tally.processed(),
            succeeded = tally.succeeded,
            failed = tally.failed,
            put_off = tally.put_off,
            released = tally.released,
            lost = tally.lost,
            paid_calls = spending.sent,
            answers_reused = spending.reused,
            unknown_calls = spending.unknown,
            "stopped"
        );
        Ok(tally)
    }
}

/// Logs the version, the configuration, and what is doubtful about it.
fn log_start(config: &Config) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        replica = config.replica,
        "backend-worker starts: {}",
        config.effective()
    );
    for warning in config.warnings() {
        warn!("{warning}");
    }
    if config.redis.is_insecure() {
        warn!(
            "REDIS_TLS_INSECURE=on: any certificate of Redis is accepted, so an attacker on the network path can read and change every job; \
             name the authority in REDIS_CA_FILE instead where it is known"
        );
    }
    if let Some(fault) = config.drain_fault() {
        warn!("{fault}");
    }
    for name in config.urls_in_the_clear() {
        warn!(
            "{name} begins with http://: the key that goes with its requests travels unencrypted; use https://"
        );
    }
    for fault in config.access_faults() {
        warn!("{fault}");
    }
}
