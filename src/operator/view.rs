//! JSON that the HTTP API and the command line share.

use serde_json::{Value, json};

use crate::{
    gate::{BreakerStatus, GateStatus},
    time_format::iso,
};

/// A breaker, as the web API has always shown it.
pub(crate) fn breaker(breaker: &BreakerStatus) -> Value {
    let mut shown = json!({
        "name": breaker.name,
        "state": breaker.state.into_str(),
        "failures": breaker.failures,
        "successes": breaker.successes,
        "failureThreshold": breaker.failure_threshold,
        "successThreshold": breaker.success_threshold,
        "openedAt": breaker.opened_at.map(iso),
        "nextRetryAt": breaker.next_retry_at.map(iso),
    });
    if let Some(fault) = breaker.account_fault {
        shown["accountFault"] = json!(fault.in_words());
    }
    shown
}

/// A provider's limits.
pub(crate) fn limit(status: &GateStatus) -> Value {
    let limits = &status.limits;
    json!({
        "breaker": status.breaker.name,
        "concurrent": { "used": status.in_flight, "limit": limits.max_concurrent },
        "requestsPerMinute": { "used": status.requests, "limit": limits.requests_per_minute },
        "tokensPerMinute": { "used": status.tokens, "limit": limits.tokens_per_minute },
        "throttledUntil": status.throttled_until.map(iso),
    })
}
