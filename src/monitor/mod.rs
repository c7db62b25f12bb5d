//! Reads the state of the fleet for metrics, alerts and the dashboard.
//!
//! # Layout
//! - [`Monitor`]: reads Redis for all three, within a second, and reuses a reading that is fresh enough.
//! - `exposition`: the answer of `GET /metrics`. `process`: the process's own figures.
//! - [`heartbeats`]: the live replicas of the fleet, and the jobs that they run.
//! - [`outcome_counts`]: the outcomes of the fleet's jobs, by the minute.
//! - [`alerts`]: the rules of the alerts, and their evaluation.

pub mod alerts;
mod exposition;
pub mod heartbeats;
pub mod outcome_counts;
mod process;
mod write_probe;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{OptionFuture, try_join_all};
use tokio::{sync::Mutex, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::{
    heartbeats::{Heartbeats, ReplicaHeartbeat},
    outcome_counts::{MinuteCounts, OutcomeReporter},
    write_probe::WriteProbe,
};
use crate::{
    connection::Connection,
    gate::{BreakerStatus, GateStatus},
    operator::Operator,
    queue::{BrokerError, Layout, QueueCounts},
    spend_ledger::SpendLedger,
    spending::{
        accounts::{BudgetStatus, SpendAccounts},
        webhook::Standing,
    },
    telemetry::metrics::PROCESS,
    worker::QueueWorker,
};

/// How long a reading serves metrics and alerts.
const FRESH: Duration = Duration::from_secs(5);
/// How long Redis may take for one.
const DEADLINE: Duration = Duration::from_secs(1);
/// How often this replica reports what its jobs came to.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// One queue, as the fleet sees it.
#[derive(Debug, Clone)]
pub struct QueueReading {
    /// Its name.
    pub queue: String,
    /// How it is laid out.
    pub layout: Layout,
    /// Its jobs by state.
    pub counts: QueueCounts,
    /// How old the job is that is next in line.
    pub oldest: Duration,
}

/// The state of the fleet, as read from Redis.
#[derive(Debug, Clone, Default)]
pub struct FleetReading {
    /// The queues.
    pub queues: Vec<QueueReading>,
    /// The gates; none with breakers and limits switched off.
    pub gates: Vec<GateStatus>,
    /// Budgets and kill switch.
    pub money: Option<BudgetStatus>,
    /// How far usage events are forwarded, where they are.
    pub webhook: Option<Standing>,
    /// The outcomes of the jobs.
    pub minutes: MinuteCounts,
    /// The service that ends first, or whose model does, and when, ms since 1970, where a day is known.
    pub model_shutdown: Option<(String, u64)>,
    /// Redis's clock, ms.
    pub now: u64,
}

impl FleetReading {
    /// Every breaker, once: providers may share one.
    pub fn breakers(&self) -> Vec<&BreakerStatus> {
        let mut breakers: Vec<&BreakerStatus> = Vec::new();
        for breaker in self.gates.iter().map(|gate| &gate.breaker) {
            if breakers.iter().all(|known| known.name != breaker.name) {
                breakers.push(breaker);
            }
        }
        breakers
    }
}

#[derive(Debug, Default)]
struct CachedReading {
    read_at: Option<Instant>,
    /// `None`: Redis gave none in time.
    reading: Option<Arc<FleetReading>>,
    /// Since when there has been none.
    away_since: Option<Instant>,
}

/// Reads the fleet's numbers and this replica's own.
#[derive(Debug)]
pub struct Monitor {
    workers: Vec<Arc<QueueWorker>>,
    operator: Operator,
    ledger: Option<Arc<SpendLedger>>,
    /// True if usage events are forwarded.
    has_webhook: bool,
    reporter: OutcomeReporter,
    heartbeats: Heartbeats,
    write_probe: WriteProbe,
    last: Mutex<CachedReading>,
}

impl Monitor {
    /// A monitor of a replica called `replica`.
    pub fn new(
        workers: Vec<Arc<QueueWorker>>,
        operator: Operator,
        ledger: Option<Arc<SpendLedger>>,
        connection: Connection,
        replica: &str,
    ) -> Self {
        process::starts();
        Self {
            workers,
            operator,
            ledger,
            has_webhook: false,
            reporter: OutcomeReporter::new(connection.clone(), replica),
            write_probe: WriteProbe::new(connection.clone()),
            heartbeats: Heartbeats::new(connection, replica),
            last: Mutex::default(),
        }
    }

    /// Reads how far usage events are forwarded, too.
    #[must_use]
    pub fn watching_webhook(self, has_webhook: bool) -> Self {
        Self { has_webhook, ..self }
    }

    /// Reports to the fleet until `stop`, and once more after it.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                _ = ticks.tick() => {}
            }
            self.report().await;
            if let Err(error) = self.heartbeats.beat(&self.workers).await {
                debug!(%error, "this replica's heartbeat is not heard");
            }
        }
        if let Err(error) = self.heartbeats.leave().await {
            debug!(%error, "this replica leaves without a word");
        }
    }

    async fn report(&self) {
        if let Err(error) = self.reporter.report(&self.workers).await {
            debug!(%error, "this replica's counts are not reported yet");
        }
    }

    /// The answer of `GET /metrics`: complete but for the fleet's numbers while Redis is away.
    pub async fn metrics(&self) -> String {
        let (reading, _) = self.reading(FRESH).await;
        exposition::write(
            &self.workers,
            &self.operator,
            self.ledger.as_deref(),
            reading.as_deref(),
        )
    }

    /// The verdict on every alert.
    pub async fn alerts(&self) -> Vec<alerts::Alert> {
        let (reading, away) = self.reading(FRESH).await;
        self.judge(reading.as_deref(), away)
    }

    /// The verdict on every alert, by what was read.
    pub fn judge(&self, reading: Option<&FleetReading>, away: Option<Duration>) -> Vec<alerts::Alert> {
        // The loops call Redis all the time, so they notice an outage before a request arrives here.
        let seen = self
            .workers
            .iter()
            .filter_map(|w| w.health().redis_away_for())
            .max();
        alerts::judge(reading, seen.max(away).unwrap_or_default())
    }

    /// Redis's own words where it answers and refuses writes; looked at once a second at most.
    pub async fn write_refusal(&self) -> Option<String> {
        self.write_probe.refusal().await
    }

    /// Every replica that has been heard of.
    ///
    /// # Errors
    /// Redis's.
    pub async fn replicas(&self) -> Result<Vec<ReplicaHeartbeat>, redis::RedisError> {
        self.heartbeats.read().await
    }

    /// The last reading if it is no older than `fresh`, else another; and how long there has been none.
    pub async fn reading(&self, fresh: Duration) -> (Option<Arc<FleetReading>>, Option<Duration>) {
        let mut last = self.last.lock().await;
        if last.read_at.is_none_or(|at| at.elapsed() > fresh) {
            let began = Instant::now();
            let reading = match tokio::time::timeout(DEADLINE, self.read()).await {
                Ok(Ok(reading)) => Some(Arc::new(reading)),
                Ok(Err(error)) => {
                    debug!(%error, "the fleet's numbers cannot be read");
                    None
                }
                Err(_elapsed) => None,
            };
            last.away_since = reading.is_none().then(|| last.away_since.unwrap_or(began));
            (last.read_at, last.reading) = (Some(Instant::now()), reading);
        }
        let away = last.away_since.map(|since| since.elapsed());
        (last.reading.clone(), away)
    }

    /// The service whose model ends first, and when.
    fn model_shutdown(&self) -> Option<(String, u64)> {
        let days = self.operator.services().into_iter().map(|service| {
            let day = PROCESS.model_shutdown[service.number()].load(Ordering::Relaxed);
            (service, day)
        });
        let (service, day) = days.filter(|(_, day)| *day > 0).min_by_key(|(_, day)| *day)?;
        Some((service.name().to_owned(), day * 1000))
    }

    async fn read(&self) -> Result<FleetReading, BrokerError> {
        // Reports this replica's latest counts first, which the reading would otherwise miss.
        self.reporter.report(&self.workers).await?;
        let queues = self.operator.queues().iter().map(|broker| async move {
            Ok::<_, BrokerError>(QueueReading {
                queue: broker.queue().to_owned(),
                layout: broker.layout(),
                counts: broker.counts().await?,
                oldest: broker.oldest_waiting().await?,
            })
        });
        let accounts = self.ledger.as_ref().map(|ledger| ledger.accounts());
        // Odd keys of another program must not take all the other numbers away.
        let money = OptionFuture::from(accounts.as_ref().map(SpendAccounts::status));
        let webhook = accounts.as_ref().filter(|_| self.has_webhook);
        let webhook = OptionFuture::from(webhook.map(SpendAccounts::webhook));
        let (queues, gates, minutes, money, webhook) = tokio::join!(
            try_join_all(queues),
            self.operator.limits(),
            self.reporter.read(),
            money,
            webhook
        );
        let (minutes, now) = minutes?;
        Ok(FleetReading {
            queues: queues?,
            gates: gates?,
            money: money.and_then(Result::ok),
            webhook: webhook.and_then(Result::ok),
            minutes,
            model_shutdown: self.model_shutdown(),
            now,
        })
    }
}
