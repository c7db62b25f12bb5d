//! The states of an exploration: the gates' keys, the progress of the calls, the possible next steps.

use std::collections::BTreeMap;

use crate::gate::settlement::CallOutcome;

pub(super) const MOST_IN_FLIGHT: usize = 2;
pub(super) const MOST_PROBES: u32 = 2;

/// All that the gates store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) state: Option<String>,
    pub(super) failures: Option<String>,
    pub(super) successes: Option<u32>,
    pub(super) opened_at: Option<u64>,
    pub(super) attempts: Option<String>,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) probes: Vec<(String, u64)>,
    pub(super) wins: Vec<BTreeMap<String, String>>,
    pub(super) leases: Vec<Vec<(String, u64)>>,
    pub(super) lease_data: Vec<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Idle,
    Running { epoch: u64 },
    Ended,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) calls: Vec<Call>,
    pub(super) ticks: [(u64, u32); 3],
    pub(super) resets: u32,
    pub(super) now: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Admit(usize),
    End(usize, CallOutcome),
    Crash(usize),
    Tick(usize),
    Reset,
}

impl Place {
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        // Calls of one provider are alike: the first idle one stands for all.
        for provider in 0..2 {
            let idle = (0..self.calls.len()).find(|i| i % 2 == provider && self.calls[*i] == Call::Idle);
            events.extend(idle.map(Event::Admit));
        }
        for (i, call) in self.calls.iter().enumerate() {
            if matches!(call, Call::Running { .. }) {
                let ends = [CallOutcome::Success, CallOutcome::Failure, CallOutcome::Ignored];
                events.extend(ends.map(|outcome| Event::End(i, outcome)));
                events.push(Event::Crash(i));
            }
        }
        events.extend((0..3).filter(|i| self.ticks[*i].1 > 0).map(Event::Tick));
        events.extend((self.resets > 0).then_some(Event::Reset));
        events
    }
}

impl Stored {
    pub(super) fn epoch(&self) -> u64 {
        self.meta.get("epoch").map_or(0, |epoch| epoch.parse().unwrap())
    }

    /// The state is the one that the scripts wrote last.
    pub(super) fn is_ours(&self) -> bool {
        self.meta.get("seen").map(String::as_str) == Some(self.state())
    }

    pub(super) fn state(&self) -> &str {
        self.state.as_deref().unwrap_or("CLOSED")
    }

    /// The state that an outcome may change.
    pub(super) fn breaker(&self) -> impl PartialEq + std::fmt::Debug {
        (
            self.state().to_owned(),
            self.failures.clone(),
            self.successes,
            self.opened_at,
        )
    }

    pub(super) fn live_leases(&self, now: u64) -> Vec<Vec<(String, u64)>> {
        let live = |leases: &Vec<(String, u64)>| leases.iter().filter(|(_, e)| *e > now).cloned().collect();
        self.leases.iter().map(live).collect()
    }

    pub(super) fn check(&self, now: u64) {
        let probes = u32::try_from(self.probes.iter().filter(|(_, expires)| *expires > now).count()).unwrap();
        let successes = self.successes.unwrap_or(0);
        match self.state() {
            "HALF_OPEN" if self.is_ours() => assert!(probes + successes <= MOST_PROBES, "I1: {self:#?}"),
            "OPEN" => assert!(self.opened_at.is_some_and(|at| at <= now), "I7: {self:#?}"),
            "CLOSED" if self.is_ours() => {
                assert!(
                    self.successes.is_none() && self.opened_at.is_none() && probes == 0,
                    "CLOSED: {self:#?}"
                );
            }
            _ => {}
        }
        for live in self.live_leases(now) {
            assert!(live.len() <= MOST_IN_FLIGHT, "I3: {self:#?}");
        }
    }
}
