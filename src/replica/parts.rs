//! Builds the parts of a replica from the configuration.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use jobs::MemoryBudget;

use crate::{
    config::{Config, QueueSpec},
    connection::Connection,
    deduplication::Deduplication,
    dialects::SharedDialects,
    gate::Gates,
    http_api::{Dashboard, EventStreams, HttpState},
    media_helper::{HelperLimits, HelperPool},
    monitor::Monitor,
    operator::Operator,
    queue::{Broker, Layout, OperatorQueue, apalis::ApalisBroker, bullmq::BullmqBroker},
    ratelimit::RateLimits,
    spend_ledger::SpendLedger,
    spending::{
        SpendBooks,
        accounts::SpendAccounts,
        webhook::{Forwarder, KEPT_EVENTS, MOST_EVENTS},
    },
    worker::{Runtime, dispatcher::Dispatcher, outcome::OutcomeRules},
};

pub(super) fn dispatcher(
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

pub(super) fn http_state(
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

pub(super) fn brokers(config: &Config, connection: &Connection) -> Vec<Arc<dyn Broker>> {
    config
        .queues
        .iter()
        .map(|spec| broker(spec, connection, config))
        .collect()
}

pub(super) fn operator_side(brokers: Vec<Arc<dyn Broker>>) -> Vec<Arc<dyn OperatorQueue>> {
    brokers
        .into_iter()
        .map(|broker| broker as Arc<dyn OperatorQueue>)
        .collect()
}

pub(super) fn gates(config: &Config, connection: &Connection) -> anyhow::Result<Option<Arc<Gates>>> {
    let gates = config
        .gates
        .as_ref()
        .map(|settings| Gates::new(connection.clone(), &config.replica, settings));
    Ok(gates.transpose().context("breakers and limits")?.map(Arc::new))
}

pub(super) fn ledger(config: &Config, connection: &Connection) -> Arc<SpendLedger> {
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

pub(super) fn forwarder(config: &Config, connection: &Connection) -> anyhow::Result<Option<Arc<Forwarder>>> {
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
pub(super) fn student_field(config: &Config) -> Arc<str> {
    let field = config.broker.fairness.as_ref().map(|name| name.as_str());
    field.unwrap_or("userId").into()
}

/// The broker of one queue.
pub fn broker(spec: &QueueSpec, connection: &Connection, config: &Config) -> Arc<dyn Broker> {
    broker_as(spec, connection, config, &config.replica)
}

/// The broker of one queue, in the name of `replica`.
pub(super) fn broker_as(
    spec: &QueueSpec,
    connection: &Connection,
    config: &Config,
    replica: &str,
) -> Arc<dyn Broker> {
    let (connection, name) = (connection.clone(), &spec.name);
    match spec.layout {
        Layout::Bullmq => {
            let broker = BullmqBroker::new(connection, name, replica, config.broker);
            Arc::new(broker.under_prefix(&config.bullmq_prefix))
        }
        Layout::Apalis => Arc::new(ApalisBroker::new(connection, name, replica, config.broker)),
    }
}
