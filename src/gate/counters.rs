//! The counters of the gates of this process: `monitor` writes them out with the other metrics.

use jobs::CalledService;
use strum::EnumCount;

use super::decision::{Reason, State};
use crate::telemetry::metrics::cells::Counter;

const SERVICES: usize = CalledService::COUNT;

/// The counters of all gates.
pub(crate) static COUNTERS: GateCounters = GateCounters::new();

/// Which breaker a count is about: the fleet's, or the replica's own while Redis is away.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BreakerScope {
    Fleet,
    Replica,
}

impl BreakerScope {
    pub(crate) const ALL: [Self; 2] = [Self::Fleet, Self::Replica];

    /// As a label's value.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Replica => "replica",
        }
    }
}

/// See [`COUNTERS`].
#[derive(Debug)]
pub(crate) struct GateCounters {
    admissions: [[Counter; 2]; SERVICES],
    rejections: [[Counter; Reason::COUNT]; SERVICES],
    transitions: [[[Counter; 2]; State::COUNT]; SERVICES],
}

impl GateCounters {
    const fn new() -> Self {
        Self {
            admissions: [const { [const { Counter::new() }; 2] }; SERVICES],
            rejections: [const { [const { Counter::new() }; Reason::COUNT] }; SERVICES],
            transitions: [const { [const { [const { Counter::new() }; 2] }; State::COUNT] }; SERVICES],
        }
    }

    /// Permits granted.
    pub(crate) fn admissions(&self, service: &CalledService, scope: BreakerScope) -> &Counter {
        &self.admissions[service.number()][scope as usize]
    }

    /// Permits refused.
    pub(crate) fn rejections(&self, service: &CalledService, reason: Reason) -> &Counter {
        &self.rejections[service.number()][reason as usize]
    }

    /// Moves of the breaker behind a service.
    pub(crate) fn transitions(&self, service: &CalledService, to: State, scope: BreakerScope) -> &Counter {
        &self.transitions[service.number()][to as usize][scope as usize]
    }

    /// Number of changes of the fleet's breakers that Redis reported to this replica.
    pub(crate) fn fleet_transitions(&self) -> u64 {
        let moves = self.transitions.iter().flatten();
        moves
            .map(|scopes| scopes[BreakerScope::Fleet as usize].get())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn every_value_has_a_place_of_its_own() {
        for (at, reason) in Reason::VARIANTS.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
        for (at, state) in State::VARIANTS.iter().enumerate() {
            assert_eq!(*state as usize, at);
        }
    }
}
