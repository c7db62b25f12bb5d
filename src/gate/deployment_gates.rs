//! The gates of one provider's deployments: whether a call waits for a full one, and how many calls they admit together.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::{join_all, select_all};
use jobs::Provider;
use redis::RedisError;

use super::{
    decision::Reason,
    limit_room::{LimitRoom, SpreadRoom},
    provider_gate::ProviderGate,
};
use crate::{keys::WaitingLine, locks::locked};

/// Two refusals belong to one period in which a deployment is full if the second follows this soon after the first one's wait.
const SAME_PERIOD: Duration = Duration::from_secs(2);
/// Time until a half-open breaker without free probes is asked again.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// The gates of a provider's deployments, one at least, in the order in which calls try them.
#[derive(Debug)]
pub struct DeploymentGates {
    gates: Vec<Arc<ProviderGate>>,
    /// Longest time that calls wait for the limits of a deployment while another one is left.
    fallback_after: Duration,
    weights: Vec<u32>,
    /// Of each gate, the period in which its limits have refused calls.
    full: Vec<Mutex<Option<FullPeriod>>>,
}

/// A time in which the limits of a deployment refuse calls again and again.
#[derive(Debug, Clone, Copy)]
struct FullPeriod {
    since: Instant,
    /// A refusal after this begins a new period.
    until: Instant,
}

impl DeploymentGates {
    pub(super) fn new(gates: Vec<Arc<ProviderGate>>, fallback_after: Duration, weights: Vec<u32>) -> Self {
        Self {
            full: gates.iter().map(|_| Mutex::default()).collect(),
            gates,
            fallback_after,
            weights,
        }
    }

    /// The gates.
    pub fn gates(&self) -> &[Arc<ProviderGate>] {
        &self.gates
    }

    /// The gate of the first deployment.
    pub fn first(&self) -> &Arc<ProviderGate> {
        &self.gates[0]
    }

    /// The provider that the gates stand in front of.
    pub fn provider(&self) -> Provider {
        self.first().provider()
    }

    /// The shares by which calls are spread over the deployments; empty where they are not.
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Returns true if one of the deployments limits the requests of a minute.
    pub fn limits_requests(&self) -> bool {
        self.gates.iter().any(|gate| gate.limits_requests())
    }

    /// Returns true if a call waits for a deployment whose limits have refused it for `wait`, although others are left.
    ///
    /// It does not wait where calls are spread by weights, nor once calls have waited for this deployment for as long as
    /// they may in all.
    pub fn is_worth_waiting(&self, place: usize, wait: Duration) -> bool {
        let (now, is_spread) = (Instant::now(), !self.weights.is_empty());
        let Some(full) = self.full.get(place) else {
            return false;
        };
        let mut full = locked(full);
        let since = full
            .filter(|full| now <= full.until)
            .map_or(now, |full| full.since);
        *full = Some(FullPeriod {
            since,
            until: now + wait + SAME_PERIOD,
        });
        !is_spread && now.duration_since(since) + wait <= self.fallback_after
    }

    /// How many calls the deployments would admit now, as [`ProviderGate::room`] says it of one.
    ///
    /// # Errors
    /// Redis's.
    pub async fn room(&self, lines: &[WaitingLine]) -> Result<LimitRoom, RedisError> {
        if let [gate] = &*self.gates {
            return gate.room(lines).await;
        }
        let rooms = self.gates.iter().map(|gate| gate.room(lines));
        let rooms: Result<Vec<LimitRoom>, RedisError> = join_all(rooms).await.into_iter().collect();
        Ok(together(&rooms?, |place, wait| {
            self.is_worth_waiting(place, wait)
        }))
    }

    /// Resolves when a call of this replica to any of the deployments has ended after this was called.
    pub async fn freed(&self) {
        select_all(self.gates.iter().map(|gate| Box::pin(gate.freed()))).await;
    }
}

/// Adds up the room of all deployments. An open breaker leaves none, and one that lets probes pass as much as probes. Behind a
/// full deployment that calls wait for, the room of further ones does not count.
fn together(rooms: &[LimitRoom], is_worth_waiting: impl Fn(usize, Duration) -> bool) -> LimitRoom {
    let mut all = LimitRoom {
        calls: 0,
        wait: Duration::MAX,
        reason: None,
        spread: SpreadRoom {
            calls: 0,
            wait: Duration::MAX,
            interval: Duration::ZERO,
            burst: 0,
        },
        waiting: 0,
        blocked_for: Duration::MAX,
        probes: usize::MAX,
    };
    let mut per_second = 0.0;
    for (place, room) in rooms.iter().enumerate() {
        all.waiting = all.waiting.max(room.waiting);
        all.blocked_for = all.blocked_for.min(room.blocked_for);
        let (calls, wait, reason) = match (room.blocked_for, room.probes) {
            (Duration::ZERO, 0) => (0, PROBE_WAIT, Some(Reason::HalfOpen)),
            (Duration::ZERO, probes) => (room.calls.min(probes), room.wait, room.reason),
            (blocked_for, _) => (0, blocked_for, Some(Reason::Open)),
        };
        if wait < all.wait {
            (all.wait, all.reason) = (wait, reason);
        }
        all.calls = all.calls.saturating_add(calls);
        if room.blocked_for.is_zero() {
            let spread = &room.spread;
            all.spread.calls = all.spread.calls.saturating_add(spread.calls.min(calls));
            all.spread.burst = all.spread.burst.saturating_add(spread.burst);
            per_second += spread.interval.as_secs_f64().recip();
        }
        all.spread.wait = all.spread.wait.min(room.spread.wait.max(room.blocked_for));
        let is_full = calls == 0 && room.blocked_for.is_zero() && room.probes > 0;
        if is_full && is_worth_waiting(place, wait) {
            break;
        }
    }
    // Deployments without a limit of requests have an interval of zero, which makes the rate infinite.
    all.spread.interval = Duration::try_from_secs_f64(f64::recip(per_second)).unwrap_or_default();
    if all.calls > 0 {
        (all.wait, all.reason) = (Duration::ZERO, None);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn room(calls: usize, wait: Duration) -> LimitRoom {
        LimitRoom {
            calls,
            wait,
            reason: (calls == 0).then_some(Reason::Rpm),
            spread: SpreadRoom {
                calls,
                wait,
                interval: SECOND,
                burst: 2,
            },
            waiting: 7,
            blocked_for: Duration::ZERO,
            probes: usize::MAX,
        }
    }

    fn open(left: Duration) -> LimitRoom {
        LimitRoom {
            blocked_for: left,
            ..room(50, Duration::ZERO)
        }
    }

    #[test]
    fn an_open_or_full_deployment_leaves_the_room_of_the_others() {
        let all = together(&[open(30 * SECOND), room(3, Duration::ZERO)], |_, _| false);
        assert_eq!(
            (all.calls, all.wait, all.reason, all.waiting),
            (3, Duration::ZERO, None, 7)
        );
        let all = together(&[room(0, 40 * SECOND), room(3, Duration::ZERO)], |_, _| false);
        assert_eq!(all.calls, 3);
        let all = together(&[room(2, Duration::ZERO), room(3, Duration::ZERO)], |_, _| true);
        assert_eq!((all.calls, all.spread.calls, all.spread.burst), (5, 5, 4));
        assert_eq!(all.spread.interval, SECOND / 2);
    }

    #[test]
    fn all_of_them_full_wait_for_the_earliest() {
        let all = together(&[open(30 * SECOND), room(0, 20 * SECOND)], |_, _| false);
        assert_eq!(
            (all.calls, all.wait, all.reason),
            (0, 20 * SECOND, Some(Reason::Rpm))
        );
        let all = together(&[open(3 * SECOND), room(0, 20 * SECOND)], |_, _| false);
        assert_eq!(
            (all.calls, all.wait, all.reason),
            (0, 3 * SECOND, Some(Reason::Open))
        );
    }

    #[test]
    fn calls_that_wait_for_a_full_deployment_leave_the_next_one_alone() {
        let all = together(&[room(0, SECOND), room(9, Duration::ZERO)], |place, _| place == 0);
        assert_eq!((all.calls, all.wait, all.reason), (0, SECOND, Some(Reason::Rpm)));
    }

    #[test]
    fn a_deployment_without_limits_has_room_for_any_number() {
        let unlimited = LimitRoom {
            calls: usize::MAX,
            spread: SpreadRoom {
                calls: usize::MAX,
                wait: Duration::ZERO,
                interval: Duration::ZERO,
                burst: 2,
            },
            ..room(1, Duration::ZERO)
        };
        let all = together(&[open(SECOND), unlimited], |_, _| false);
        assert_eq!((all.calls, all.spread.calls), (usize::MAX, usize::MAX));
        assert_eq!(all.spread.interval, Duration::ZERO);
        let probing = LimitRoom {
            probes: 2,
            ..unlimited
        };
        assert_eq!(together(&[probing], |_, _| false).calls, 2);
    }

    #[test]
    fn calls_wait_for_a_full_deployment_for_so_long_in_all() {
        let gates = DeploymentGates {
            gates: Vec::new(),
            fallback_after: 15 * SECOND,
            weights: Vec::new(),
            full: vec![Mutex::default()],
        };
        assert!(gates.is_worth_waiting(0, SECOND) && !gates.is_worth_waiting(0, 16 * SECOND));
        let now = Instant::now();
        let full_for = |time: Duration| {
            *locked(&gates.full[0]) = now.checked_sub(time).map(|since| FullPeriod {
                since,
                until: now + SECOND,
            });
        };
        full_for(13 * SECOND);
        assert!(gates.is_worth_waiting(0, SECOND));
        full_for(20 * SECOND);
        assert!(!gates.is_worth_waiting(0, SECOND));
        *locked(&gates.full[0]) = None;
        assert!(gates.is_worth_waiting(0, SECOND), "a new period");
        let spread = DeploymentGates {
            weights: vec![1],
            ..gates
        };
        assert!(!spread.is_worth_waiting(0, SECOND));
    }
}
