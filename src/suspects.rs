//! Keeps jobs that may have killed a replica away from the paid calls of others.
//!
//! A replica that dies takes every job in flight with it, and no record shows which of them killed it. All of them
//! become suspects, and a replica runs suspects only while it has no other job in flight, in any queue.
//!
//! - Suspects that were lost once run together. They open their payloads and load their media side by side, and each
//!   waits before its first call until all of them have come so far. Then the calls go out together. If one of them
//!   kills the replica by its input, no call of another is under way. A suspect that keeps the others waiting for too
//!   long goes back to the queue.
//! - A suspect that was lost more than once runs alone from beginning to end, and so does a suspect without company.
//!   Only a job that ran alone takes the blame for the next death.
//!
//! While a replica holds suspects it claims nothing. It waits until the other jobs have ended, runs the suspects, and
//! claims again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::locks::locked;

#[cfg(test)]
mod tests;

/// How long a suspect that is ready for its call waits for the others that run together with it.
const LONGEST_PREPARATION: Duration = Duration::from_secs(5);

/// The jobs in flight in a replica, over all of its queues, and the suspects among them.
#[derive(Debug, Default)]
pub(crate) struct SuspectIsolation {
    state: Mutex<IsolationState>,
    /// Notified when a job has left, or has come further.
    changed: Notify,
}

#[derive(Debug, Default)]
struct IsolationState {
    /// Jobs that are no suspects.
    others: usize,
    suspects: BTreeMap<u64, Standing>,
    /// The number of the next suspect.
    next: u64,
    /// When the suspects that are ready stop waiting for the others.
    closes: Option<Instant>,
}

/// Where a suspect stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// True if it was lost once, and may run beside others of its kind.
    was_lost_once: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not begun.
    Waits,
    RunsAlone,
    /// It runs beside others, and has not come to its first call.
    Prepares,
    /// It waits before its first call.
    IsReady,
    /// Its calls may be under way.
    Calls,
}

/// Counts a job as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightPresence {
    isolation: Arc<SuspectIsolation>,
    number: Option<u64>,
}

/// A suspect, as the code that runs it sees it.
#[derive(Debug, Clone)]
pub struct Suspect {
    isolation: Arc<SuspectIsolation>,
    number: u64,
}

impl SuspectIsolation {
    /// Lets a claimed job in, of which `lost` deliveries were lost. `None` where it has to go back, because suspects
    /// run.
    pub(crate) fn enter(self: &Arc<Self>, lost: u32) -> Option<InFlightPresence> {
        let mut state = self.state();
        let number = match lost {
            0 if state
                .suspects
                .values()
                .any(|suspect| suspect.phase != Phase::Waits) =>
            {
                return None;
            }
            0 => {
                state.others += 1;
                None
            }
            _ => {
                let number = state.next;
                state.next += 1;
                let standing = Standing {
                    was_lost_once: lost == 1,
                    phase: Phase::Waits,
                };
                state.suspects.insert(number, standing);
                Some(number)
            }
        };
        Some(InFlightPresence {
            isolation: self.clone(),
            number,
        })
    }

    /// Returns true if a suspect is here, so that nothing may be claimed.
    pub(crate) fn is_on(&self) -> bool {
        !self.state().suspects.is_empty()
    }

    /// Waits until no suspect is here.
    pub(crate) async fn is_over(&self) {
        self.until(|state| state.suspects.is_empty()).await;
    }

    /// Waits until the condition holds. Whatever it changes may be what others wait for.
    async fn until(&self, mut condition: impl FnMut(&mut IsolationState) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look: a change between the two is not missed.
            changed.as_mut().enable();
            if condition(&mut self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, IsolationState> {
        locked(&self.state)
    }
}

impl IsolationState {
    fn phase(&self, number: u64) -> Option<Phase> {
        self.suspects.get(&number).map(|suspect| suspect.phase)
    }

    fn set(&mut self, number: u64, phase: Phase) {
        if let Some(suspect) = self.suspects.get_mut(&number) {
            suspect.phase = phase;
        }
    }

    fn any(&self, phase: Phase) -> bool {
        self.suspects.values().any(|suspect| suspect.phase == phase)
    }

    fn is_late(&self) -> bool {
        self.closes.is_some_and(|closes| closes <= Instant::now())
    }

    /// Starts a suspect if it may run now.
    fn start(&mut self, number: u64) -> bool {
        if self.others > 0 || self.any(Phase::RunsAlone) || self.any(Phase::Calls) {
            return false;
        }
        let may_join = |(other, suspect): (&u64, &Standing)| *other != number && suspect.was_lost_once;
        let was_lost_once = self
            .suspects
            .get(&number)
            .is_some_and(|suspect| suspect.was_lost_once);
        if was_lost_once && self.suspects.iter().any(may_join) {
            let joins = !self.is_late();
            if joins {
                self.set(number, Phase::Prepares);
            }
            return joins;
        }
        let is_free = !self.any(Phase::Prepares) && !self.any(Phase::IsReady);
        if is_free {
            self.set(number, Phase::RunsAlone);
        }
        is_free
    }

    /// Lets all suspects that are ready make their calls, once no other prepares or is about to.
    fn open(&mut self) {
        let joins = |suspect: &Standing| suspect.was_lost_once && suspect.phase == Phase::Waits;
        let is_awaited = !self.is_late() && self.suspects.values().any(joins);
        if is_awaited || self.any(Phase::Prepares) {
            return;
        }
        self.closes = None;
        for suspect in self.suspects.values_mut() {
            if suspect.phase == Phase::IsReady {
                suspect.phase = Phase::Calls;
            }
        }
    }
}

impl Suspect {
    /// Waits until it may run.
    pub(crate) async fn may_run(&self) {
        self.isolation.until(|state| state.start(self.number)).await;
    }

    /// Returns true if it runs alone.
    pub(crate) fn runs_alone(&self) -> bool {
        self.isolation.state().phase(self.number) == Some(Phase::RunsAlone)
    }

    /// Waits, before its first call, until no suspect beside it prepares.
    pub async fn may_call(&self) {
        {
            let mut state = self.isolation.state();
            if state.phase(self.number) != Some(Phase::Prepares) {
                return;
            }
            state.set(self.number, Phase::IsReady);
            state.closes.get_or_insert(Instant::now() + LONGEST_PREPARATION);
        }
        self.isolation.changed.notify_waiters();
        self.isolation
            .until(|state| {
                state.open();
                state.phase(self.number) != Some(Phase::IsReady)
            })
            .await;
    }

    /// Resolves if it prepares for so long that others wait for it.
    pub(crate) async fn is_too_slow(&self) {
        loop {
            let mut closes = None;
            self.isolation
                .until(|state| {
                    closes = state
                        .closes
                        .filter(|_| state.phase(self.number) == Some(Phase::Prepares));
                    closes.is_some()
                })
                .await;
            if let Some(closes) = closes {
                tokio::time::sleep_until(closes).await;
            }
            let state = self.isolation.state();
            if state.is_late() && state.phase(self.number) == Some(Phase::Prepares) {
                return;
            }
        }
    }
}

impl InFlightPresence {
    /// The suspect that this is, if it is one.
    pub(crate) fn suspect(&self) -> Option<Suspect> {
        self.number.map(|number| Suspect {
            isolation: self.isolation.clone(),
            number,
        })
    }
}

impl Drop for InFlightPresence {
    fn drop(&mut self) {
        let mut state = self.isolation.state();
        match self.number {
            Some(number) => {
                state.suspects.remove(&number);
                if !state.any(Phase::IsReady) {
                    state.closes = None;
                }
            }
            None => state.others -= 1,
        }
        drop(state);
        self.isolation.changed.notify_waiters();
    }
}
