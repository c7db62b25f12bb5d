//! The gate before every provider call: a breaker and limits that all replicas share through Redis.
//!
//! A caller asks [`ProviderGate::admit`] before a call and reports with [`Permit::settle`] after it, one round trip
//! each. One atomic script settles ended calls before it admits the next ones, by Redis's clock alone. Limits apply
//! to a provider, a breaker to its name: providers that name the same breaker share it.
//!
//! # Layout
//! - One operation a file: `settle_and_admit.lua` with its parts `settle.lua` and `admit.lua`, `limit_room.lua`, `renew.lua`,
//!   `breaker_control.lua`; `replica_presence.lua` counts the replicas. Preludes: `common.lua` (keys, clock, breaker), `limits.lua`
//!   (counts of the limits). The keys are [`crate::keys::GateKeys`].
//! - `scripts`, `redis_gate`: assemble and call the scripts. `batched_gate`: batches the calls and bounds them by
//!   deadlines. `protocol`: what they exchange.
//! - `provider_gate`, `permit`, `decision`: the interface for callers. `deployment_gates`: the gates of one provider's
//!   deployments.
//! - `fallback`: decides while Redis is away. `pending_settlements`: keeps settlements until Redis is back.
//! - `settings`, `status`, `breaker_log`: configuration, operator's view, log lines.
//!
//! # Rules
//! - The replica generates a permit's id, so Redis recognises a request that is sent again. [`Gates::run`] renews the
//!   leases of permits; the slots of a killed replica come back when its leases run out.
//! - A permit cannot leak: a dropped permit is settled like any other, as a pending settlement.
//! - An outcome counts only in the epoch in which its call was admitted. Each change of state starts a new epoch.
//! - A gate never fails. While Redis is away (no answer within 250 ms, or any error) the replica uses a breaker of its
//!   own and its share of the limits, and keeps settlements for one lease.
//! - During an outage, and just before or after it, the fleet can exceed a limit: permits that Redis granted add to the
//!   shares, which are four fifths of the limit together. The bound is 1.8 times the limit, or one call a replica above
//!   the limit where that is more.

mod batched_gate;
mod breaker_log;
pub(crate) mod counters;
mod decision;
mod deployment_gates;
mod fallback;
mod limit_room;
mod pending_settlements;
mod permit;
mod protocol;
mod provider_gate;
mod redis_gate;
mod scripts;
mod settings;
mod settlement;
mod status;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use jobs::{CalledService, Provider};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::{
    batched_gate::BatchedGate,
    fallback::{LocalBreaker, LocalFallback, LocalLimits},
    provider_gate::GateContext,
    redis_gate::RedisGate,
    scripts::GateScripts,
};
pub use self::{
    decision::{Effect, Reason, Rejection, State},
    deployment_gates::DeploymentGates,
    limit_room::{LimitRoom, SpreadRoom},
    permit::Permit,
    provider_gate::{Admission, ProviderGate},
    settings::{
        BreakerSettings, DEPLOYMENT_PREFIX, FailureShare, GateSettings, GatesSettings, InvalidGate,
        LimitSettings,
    },
    settlement::{CallOutcome, Settlement},
    status::{BreakerStatus, GateStatus},
};
use crate::{connection::Connection, keys::GateKeys, script, time_format::millis, watchdog::LoopProgress};

/// How long a call waits for its gate, at most: then Redis counts as away.
const DEADLINE: Duration = Duration::from_millis(250);
/// How soon a delivery that failed is tried again.
const DELIVER_AGAIN: Duration = Duration::from_millis(500);

/// The gate's scripts, as `gate <operation>`, each with the names that identify it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    let scripts = GateScripts::new();
    script::logged_names(
        scripts
            .named()
            .map(|(name, script)| (format!("gate {name}"), script)),
    )
}

/// The libraries of the scripts that run as functions.
#[cfg(test)]
pub(crate) fn library_codes() -> Vec<String> {
    let scripts = GateScripts::new();
    let named = scripts.named().into_iter();
    named.filter_map(|(_, script)| script.library_code()).collect()
}

/// The gates of all providers, as one replica holds them.
#[derive(Debug)]
pub struct Gates {
    connection: Connection,
    scripts: Arc<GateScripts>,
    shared: Arc<GateContext>,
    lease_ttl: Duration,
    pulse: Arc<LoopProgress>,
    openai: Arc<DeploymentGates>,
    azure_speech: Arc<DeploymentGates>,
    azure_vision: Arc<DeploymentGates>,
}

impl Gates {
    /// Gates for the replica `replica`, whose name no other one bears, nor has borne before. Opens no connection.
    ///
    /// # Errors
    /// When the settings contradict each other, naming what.
    pub fn new(connection: Connection, replica: &str, settings: &GatesSettings) -> Result<Self, InvalidGate> {
        Self::with(connection, replica, settings, GateScripts::new(), DEADLINE)
    }

    fn with(
        connection: Connection,
        replica: &str,
        all: &GatesSettings,
        scripts: GateScripts,
        deadline: Duration,
    ) -> Result<Self, InvalidGate> {
        all.check()?;
        let (shared, scripts, started) = (
            Arc::new(GateContext::new(replica)),
            Arc::new(scripts),
            Instant::now(),
        );
        let mut breakers: HashMap<String, Arc<Mutex<LocalBreaker>>> = HashMap::new();
        let mut gate = |service: CalledService, settings: &GateSettings| {
            let provider = service.provider();
            let breaker = breakers
                .entry(settings.breaker.name().to_owned())
                .or_insert_with(|| Arc::new(Mutex::new(LocalBreaker::new(settings.breaker.clone()))));
            let local = LocalFallback::new(breaker.clone(), LocalLimits::new(settings.limits, started));
            let redis_gate = RedisGate {
                connection: connection.clone(),
                scripts: scripts.clone(),
                keys: GateKeys::within(connection.namespace(), settings.breaker.name(), provider.as_str()),
                settings: settings.clone(),
                lease_ttl: all.lease_ttl,
            };
            Arc::new(ProviderGate::new(
                service,
                shared.clone(),
                BatchedGate::new(redis_gate, deadline),
                local,
            ))
        };
        let mut openai = vec![gate(CalledService::of(Provider::OpenAi), &all.openai)];
        for (further, settings) in (1..).zip(&all.fallbacks) {
            let service = CalledService::further(further, settings.breaker.name().into());
            openai.push(gate(service, settings));
        }
        let mut only = |provider: Provider| {
            let gates = vec![gate(CalledService::of(provider), all.of(provider))];
            Arc::new(DeploymentGates::new(gates, all.fallback_after, Vec::new()))
        };
        Ok(Self {
            azure_speech: only(Provider::AzureSpeech),
            azure_vision: only(Provider::AzureVision),
            openai: Arc::new(DeploymentGates::new(
                openai,
                all.fallback_after,
                all.weights.clone(),
            )),
            connection,
            scripts,
            shared,
            lease_ttl: all.lease_ttl,
            pulse: Arc::default(),
        })
    }

    /// The gate of one provider: of its first deployment.
    pub fn gate(&self, provider: Provider) -> &Arc<ProviderGate> {
        self.deployments(provider).first()
    }

    /// The gates of a provider's deployments.
    pub const fn deployments(&self, provider: Provider) -> &Arc<DeploymentGates> {
        match provider {
            Provider::OpenAi => &self.openai,
            Provider::AzureSpeech => &self.azure_speech,
            Provider::AzureVision => &self.azure_vision,
        }
    }

    /// All gates.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ProviderGate>> {
        Provider::ALL
            .into_iter()
            .flat_map(|provider| self.deployments(provider).gates())
    }

    /// A gate with the breaker of that name: any will do to read or move the breaker.
    pub fn with_breaker(&self, name: &str) -> Option<&Arc<ProviderGate>> {
        self.all().find(|gate| gate.breaker() == name)
    }

    /// Returns true from a failed request to Redis until its next successful write.
    pub fn is_redis_away(&self) -> bool {
        self.shared.redis_away.load(Ordering::Relaxed)
    }

    /// Resolves when [`Self::run`] has learned how many replicas there are. Before that, this replica's share of the
    /// limits would be all of them, should Redis go away.
    pub async fn counted(&self) {
        self.shared.replicas_counted.cancelled().await;
    }

    /// Beats while [`Self::run`] makes progress.
    pub const fn pulse(&self) -> &Arc<LoopProgress> {
        &self.pulse
    }

    /// Renews the leases of calls in flight and delivers pending settlements, until `stop`. Without it, calls lose
    /// their permits after one lease. Stop it after the last call has ended.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.lease_ttl / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pulse.beat();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    let renewals = futures_util::future::join_all(self.all().map(|gate| gate.renew()));
                    tokio::join!(renewals, self.appear(self.lease_ttl));
                }
                () = tokio::time::sleep(DELIVER_AGAIN), if !self.shared.replicas_counted.is_cancelled() => {
                    self.appear(self.lease_ttl).await;
                }
                () = self.shared.settlement_pending.notified() => self.deliver_waiting().await,
                () = tokio::time::sleep(DELIVER_AGAIN), if self.all().any(|gate| gate.has_pending_settlements()) => {
                    self.deliver_waiting().await;
                }
            }
        }
        self.pulse.end();
        self.deliver_waiting().await;
        self.appear(Duration::ZERO).await;
    }

    async fn deliver_waiting(&self) {
        for gate in self.all() {
            gate.send_pending_settlements().await;
        }
    }

    /// Tells the other replicas that this one is there for so long, and learns how many there are.
    async fn appear(&self, ttl: Duration) {
        let mut call = self.scripts.presence.prepare_invoke();
        call.key(self.connection.named(GateKeys::REPLICAS))
            .arg(&self.shared.replica)
            .arg(millis(ttl));
        match self.connection.invoke::<u32>(&call).await {
            Ok(replicas) => {
                self.shared.redis_works();
                self.shared.replicas.store(replicas.max(1), Ordering::Relaxed);
                self.shared.replicas_counted.cancel();
            }
            Err(error) => self.shared.redis_failed(&error),
        }
    }
}

#[cfg(test)]
mod tests;
