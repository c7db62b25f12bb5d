//! Which keys a migration's steps are given: found by SCAN from outside, so that a script names all that it touches.

use std::collections::BTreeSet;

use crate::keys::{BottleneckKeys, GateKeys};

/// Breakers in one batch: a step then runs a few hundred commands, well below a millisecond.
const BREAKERS_A_STEP: usize = 25;
/// How long a failure counts where nothing says otherwise, ms: the window of every breaker's default.
const FAILURE_WINDOW: u64 = 60_000;
/// Bottleneck's clients show themselves every few seconds.
const CLIENT_GONE_AFTER: u64 = 120_000;

/// The set of keys that a migration works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyScope {
    /// No key at all: one step.
    Nothing,
    /// Those of all breakers, a few breakers a step.
    Breakers,
    /// Bottleneck's, a limiter a step.
    Bottleneck,
}

impl KeyScope {
    /// The pattern for SCAN.
    pub(super) const fn pattern(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Breakers => Some(GateKeys::PATTERN),
            Self::Bottleneck => Some(BottleneckKeys::PATTERN),
        }
    }

    /// The owner of a key that was found; `None` for one that is not the migration's business.
    pub(super) fn owner(self, key: &str) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Breakers => GateKeys::breaker_of(key),
            Self::Bottleneck => BottleneckKeys::limiter_of(key),
        }
    }

    /// The batches of keys, one a step.
    pub(super) fn batches(self, owners: &BTreeSet<String>) -> Vec<Vec<String>> {
        let owners: Vec<&String> = owners.iter().collect();
        match self {
            Self::Nothing => vec![Vec::new()],
            Self::Breakers => owners
                .chunks(BREAKERS_A_STEP)
                .map(|names| names.iter().flat_map(|name| GateKeys::of_breaker(name)).collect())
                .collect(),
            Self::Bottleneck => owners.iter().map(|limiter| BottleneckKeys::of(limiter)).collect(),
        }
    }

    /// The migration's own argument.
    pub(super) const fn argument(self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Breakers => Some(FAILURE_WINDOW),
            Self::Bottleneck => Some(CLIENT_GONE_AFTER),
        }
    }
}
