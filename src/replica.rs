//! One replica, wired from its configuration: brokers, gates, an apalis worker for each queue, the HTTP server.

mod background_loops;
mod spool_replay;

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use jobs::MemoryBudget;
use tracing::{info, warn};

use self::{background_loops::BackgroundLoops, spool_replay::SpoolReplay};
use crate::{
    config::{Config, QueueSpec},
    connection::Connection,
    deduplication::Deduplication,
    dialects::SharedDialects,
    gate::Gates,
    http_api::{Dashboard, EventStreams, HttpServer, HttpState},
    media_helper::{HelperLimits, HelperPool},
    migrate::{self, MigrateError, Migrator},
    monitor::Monitor,
    operator::Operator,
    queue::{Broker, Layout, OperatorQueue, WorkerQueue, apalis::ApalisBroker, bullmq::BullmqBroker},
    ratelimit::RateLimits,
    spend_ledger::SpendLedger,
    spending::{
        SpendBooks,
        accounts::SpendAccounts,
        webhook::{Forwarder, KEPT_EVENTS, MOST_EVENTS},
    },
    unserved_queues::UnservedQueueWatch,
    watchdog::WEDGED_AFTER,
    worker::{
        Runtime, RuntimeOptions,
        dispatcher::Dispatcher,
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

fn dispatcher(
    config: &Config,
    connection: &Connection,
    gates: Option<Arc<Gates>>,
    ledger: Arc<SpendLedger>,
    rules: OutcomeRules,
) -> anyhow::Result<Dispatcher> {
    let decoder = HelperPool::new(
        config.media_helper.clone(),
        HelperLimits::for_recordings_of(config.handlers.media.max_bytes),
    );
    Ok(Dispatcher {
        jobs: jobs::Jobs::with_store(
            &config.handlers,
            decoder,
            MemoryBudget::new(config.media_memory / 2),
            Some(Arc::new(SharedDialects::new(connection.clone()))),
        )
        .context("cannot build the providers' clients")?,
        gates,
        // Apart from the media: a job holds room of both at a time.
        payloads: MemoryBudget::new(config.media_memory / 2),
        ledger: Some(ledger),
        deduplication: Deduplication::new(
            connection.clone(),
            config.deduplication,
            student_field(config),
            &config.replica,
        ),
        student_field: student_field(config),
        retry: config.retry,
        tries_by_type: config.tries_by_type.clone(),
        rules,
        unknown_types: config.unknown_types,
        tiers: config.tiers.clone(),
    })
}

fn http_state(
    config: &Config,
    connection: &Connection,
    runtime: &Runtime,
    operator: Operator,
    ledger: Arc<SpendLedger>,
) -> HttpState {
    let workers = runtime.workers().to_vec();
    let monitor = Monitor::new(
        workers.clone(),
        operator.clone(),
        Some(ledger),
        connection.clone(),
        &config.replica,
    );
    let monitor = Arc::new(monitor.watching_webhook(config.webhook.is_some()));
    HttpState {
        workers,
        dashboard: Dashboard::new(monitor.clone(), operator.clone()),
        operator,
        monitor,
        accounts: SpendAccounts::new(connection.clone(), config.spending.budgets),
        rate_limits: RateLimits::new(connection.clone()),
        user_window: config.user_window,
        ip_window: config.ip_window,
        streams: EventStreams::default(),
        access: config.access.clone(),
        started: Instant::now(),
    }
}

/// An operator's hands on what the configuration names.
///
/// # Errors
/// When the URL of Redis is none, or the gates contradict each other.
pub fn operator(config: &Config) -> anyhow::Result<Operator> {
    let connection = Connection::open(&config.redis).context("REDIS_URL")?;
    Ok(Operator::new(
        operator_side(brokers(config, &connection)),
        gates(config, &connection)?,
    ))
}

/// The money of what the configuration names.
///
/// # Errors
/// When the URL of Redis is none.
pub fn accounts(config: &Config) -> anyhow::Result<SpendAccounts> {
    let connection = Connection::open(&config.redis).context("REDIS_URL")?;
    Ok(SpendAccounts::new(connection, config.spending.budgets))
}

fn brokers(config: &Config, connection: &Connection) -> Vec<Arc<dyn Broker>> {
    config
        .queues
        .iter()
        .map(|spec| broker(spec, connection, config))
        .collect()
}

fn operator_side(brokers: Vec<Arc<dyn Broker>>) -> Vec<Arc<dyn OperatorQueue>> {
    brokers
        .into_iter()
        .map(|broker| broker as Arc<dyn OperatorQueue>)
        .collect()
}

fn gates(config: &Config, connection: &Connection) -> anyhow::Result<Option<Arc<Gates>>> {
    let gates = config
        .gates
        .as_ref()
        .map(|settings| Gates::new(connection.clone(), &config.replica, settings));
    Ok(gates.transpose().context("breakers and limits")?.map(Arc::new))
}

fn ledger(config: &Config, connection: &Connection) -> Arc<SpendLedger> {
    let (prices, budgets) = (config.spending.prices.clone(), config.spending.budgets);
    let events = match config.webhook {
        Some(_) => MOST_EVENTS,
        None => KEPT_EVENTS,
    };
    let books = Arc::new(SpendBooks::new(&config.replica, prices, budgets).keeping_events(events));
    let (ttl, lease) = (config.ledger_ttl, config.broker.lease_ttl);
    Arc::new(SpendLedger::new(
        connection.clone(),
        ttl,
        config.unknown_calls,
        books,
        lease,
    ))
}

fn forwarder(config: &Config, connection: &Connection) -> anyhow::Result<Option<Arc<Forwarder>>> {
    let forwarder = config
        .webhook
        .clone()
        .map(|settings| Forwarder::new(connection.clone(), &config.replica, settings));
    Ok(forwarder
        .transpose()
        .context("the client of USAGE_WEBHOOK_URL cannot be built")?
        .map(Arc::new))
}

/// The payload's field that names the student: the fair line takes turns by the same field.
fn student_field(config: &Config) -> Arc<str> {
    let field = config.broker.fairness.as_ref().map(|name| name.as_str());
    field.unwrap_or("userId").into()
}

/// The broker of one queue.
pub fn broker(spec: &QueueSpec, connection: &Connection, config: &Config) -> Arc<dyn Broker> {
    broker_as(spec, connection, config, &config.replica)
}

/// The broker of one queue, in the name of `replica`.
fn broker_as(spec: &QueueSpec, connection: &Connection, config: &Config, replica: &str) -> Arc<dyn Broker> {
    let (connection, name) = (connection.clone(), &spec.name);
    match spec.layout {
        Layout::Bullmq => {
            let broker = BullmqBroker::new(connection, name, replica, config.broker);
            Arc::new(broker.under_prefix(&config.bullmq_prefix))
        }
        Layout::Apalis => Arc::new(ApalisBroker::new(connection, name, replica, config.broker)),
    }
}
