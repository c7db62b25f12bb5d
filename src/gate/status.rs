//! The status of a gate as operators see it: the state of its breaker, and the use of its limits.

use jobs::{AccountFault, Provider};

use super::{
    decision::State,
    protocol::GateReading,
    settings::{GateSettings, LimitSettings, limits_name},
};

/// How long the status reports an account's fault after its last occurrence while the breaker is closed, ms. Jobs that
/// met the fault retry within a minute, so they refresh it while it lasts.
const FAULT_LASTS: u64 = 180_000;

/// One provider's gate. Times are of Redis's clock, ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateStatus {
    /// The breaker.
    pub breaker: BreakerStatus,
    /// The provider that the limits protect.
    pub provider: Provider,
    /// The limits.
    pub limits: LimitSettings,
    /// Calls in flight.
    pub in_flight: u64,
    /// Requests that count now.
    pub requests: u64,
    /// Tokens that count now.
    pub tokens: u64,
    /// Until when the fleet leaves the provider alone, if it does.
    pub throttled_until: Option<u64>,
    /// When this was read.
    pub now: u64,
}

/// A breaker, which several providers may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Its name.
    pub name: String,
    /// Its state. OPEN becomes HALF_OPEN with the first call after `next_retry_at`.
    pub state: State,
    /// Failures that count.
    pub failures: u32,
    /// Successes in HALF_OPEN.
    pub successes: u32,
    /// Probes and successes in HALF_OPEN.
    pub attempts: u32,
    /// Failures that open it.
    pub failure_threshold: u32,
    /// Successes that close it.
    pub success_threshold: u32,
    /// When it opened, unless it is closed.
    pub opened_at: Option<u64>,
    /// When the breaker last left CLOSED; `None` while it is closed. Unlike `opened_at`, a failed probe does not reset
    /// it.
    pub not_closed_since: Option<u64>,
    /// When an open one lets a probe pass.
    pub next_retry_at: Option<u64>,
    /// The account's fault that jobs wait for: no credit, a refused key, a missing model.
    pub account_fault: Option<AccountFault>,
}

impl GateStatus {
    /// The name of its limits: the provider's, or that of one of its further deployments.
    pub fn name(&self) -> &str {
        limits_name(self.provider, &self.breaker.name)
    }

    pub(super) fn new(provider: Provider, settings: &GateSettings, reading: &GateReading) -> Self {
        let breaker = &settings.breaker;
        let opened_at = reading.opened_at.filter(|_| reading.state != State::Closed);
        Self {
            breaker: BreakerStatus {
                name: breaker.name.clone(),
                state: reading.state,
                failures: reading.failures,
                successes: reading.successes,
                attempts: reading.attempts,
                failure_threshold: breaker.failure_threshold,
                success_threshold: breaker.success_threshold,
                opened_at,
                not_closed_since: reading.not_closed_since,
                next_retry_at: reading.open_until,
                account_fault: reading
                    .fault
                    .filter(|(_, at)| reading.state != State::Closed || reading.now < at + FAULT_LASTS)
                    .map(|(fault, _)| fault),
            },
            provider,
            limits: settings.limits,
            in_flight: reading.in_flight,
            requests: reading.requests,
            tokens: reading.tokens,
            throttled_until: Some(reading.throttled_until).filter(|until| *until > reading.now),
            now: reading.now,
        }
    }
}
