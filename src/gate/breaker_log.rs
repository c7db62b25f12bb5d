//! Logs and counts the changes of a breaker. Redis reports each change to one call, and that call's replica logs it, so
//! that each change appears once in the fleet. `service` is that of the call.

use jobs::CalledService;
use tracing::{info, warn};

use super::{
    counters::{BreakerScope, COUNTERS},
    decision::{Effect, State},
    protocol::SettlementReply,
    settings::BreakerSettings,
    settlement::CallOutcome,
};

fn count(service: &CalledService, scope: BreakerScope, to: State) {
    COUNTERS.transitions(service, to, scope).add(1);
}

/// An admission has moved the breaker.
pub(super) fn moved(service: &CalledService, breaker: &BreakerSettings, scope: BreakerScope, to: State) {
    count(service, scope, to);
    let (name, scope) = (&*breaker.name, scope.as_str());
    match to {
        State::HalfOpen => {
            info!(breaker = name, scope, from = %State::Open, %to,
                "Circuit breaker {name}: OPEN → HALF_OPEN (timeout passed)");
        }
        State::Open | State::Closed => {
            info!(breaker = name, scope, from = %State::HalfOpen, %to, "Circuit breaker {name}: HALF_OPEN → {to}");
        }
    }
}

/// An outcome was counted.
pub(super) fn settled(
    service: &CalledService,
    breaker: &BreakerSettings,
    scope: BreakerScope,
    outcome: CallOutcome,
    settled: SettlementReply,
) {
    if let Effect::Opened | Effect::Reopened | Effect::Closed = settled.effect {
        count(service, scope, settled.state);
    }
    let (name, scope) = (&*breaker.name, scope.as_str());
    let SettlementReply {
        effect,
        state,
        count,
        failed,
        of_calls,
    } = settled;
    let (failure_threshold, success_threshold) = (breaker.failure_threshold, breaker.success_threshold);
    let failure = || {
        warn!(
            breaker = name,
            scope,
            failures = count,
            threshold = failure_threshold,
            failed,
            of_calls,
            "Circuit breaker {name}: Failure {count}/{failure_threshold}"
        );
    };
    let success = || {
        info!(
            breaker = name,
            scope,
            successes = count,
            threshold = success_threshold,
            "Circuit breaker {name}: HALF_OPEN success {count}/{success_threshold}"
        );
    };
    match effect {
        Effect::Recorded if outcome == CallOutcome::Failure && state == State::Closed => failure(),
        Effect::Recorded if outcome == CallOutcome::Success && state == State::HalfOpen => success(),
        Effect::Opened => {
            failure();
            warn!(breaker = name, scope, failures = count, from = %State::Closed, to = %state,
                "Circuit breaker {name}: CLOSED → OPEN ({count} failures)");
        }
        Effect::Reopened => {
            warn!(breaker = name, scope, from = %State::HalfOpen, to = %state,
                "Circuit breaker {name}: HALF_OPEN → OPEN");
        }
        Effect::Closed => {
            success();
            info!(breaker = name, scope, from = %State::HalfOpen, to = %state,
                "Circuit breaker {name}: HALF_OPEN → CLOSED");
        }
        _ => {}
    }
}

/// An operator has moved the breaker.
pub(super) fn moved_by_hand(service: &CalledService, breaker: &BreakerSettings, from: State, to: State) {
    count(service, BreakerScope::Fleet, to);
    let name = &*breaker.name;
    warn!(breaker = name, scope = BreakerScope::Fleet.as_str(), %from, %to, "Circuit breaker {name}: {from} → {to} (by hand)");
}
