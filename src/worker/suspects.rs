//! Runs jobs alone that may have killed a replica.
//!
//! A replica that dies takes every job in flight with it, and no record shows which of them killed it. All of them
//! become suspects: a replica runs a suspect only while it has no other job in flight, in any queue. If the suspect
//! kills a replica again, no other job takes the blame and no other job's paid call is lost.
//!
//! While a replica holds suspects it claims nothing. It waits until the other jobs have ended, runs the suspects one
//! after the other, and claims again. A waiting suspect has not begun: if the running one kills the replica, the others
//! come no closer to being poison.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// The jobs in flight in a replica, over all of its queues, and the suspects among them.
#[derive(Debug, Default)]
pub(super) struct SuspectIsolation {
    state: Mutex<IsolationState>,
    /// Notified when a job has left.
    changed: Notify,
}

#[derive(Debug, Default)]
struct IsolationState {
    /// Jobs that are no suspects.
    others: usize,
    suspects: usize,
    /// True if a suspect runs.
    runs: bool,
}

/// Counts a job as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct InFlightPresence {
    isolation: Arc<SuspectIsolation>,
    suspect: Option<Suspect>,
}

/// A suspect, and whether it runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Suspect(Arc<AtomicBool>);

impl SuspectIsolation {
    /// Lets a claimed job in. `None` where it has to go back, because a suspect runs alone.
    pub(super) fn enter(self: &Arc<Self>, is_suspect: bool) -> Option<InFlightPresence> {
        let mut state = self.state();
        match is_suspect {
            true => state.suspects += 1,
            false if state.runs => return None,
            false => state.others += 1,
        }
        Some(InFlightPresence {
            isolation: self.clone(),
            suspect: is_suspect.then(Suspect::default),
        })
    }

    /// Returns true if a suspect is here, so that nothing may be claimed.
    pub(super) fn is_on(&self) -> bool {
        self.state().suspects > 0
    }

    /// Waits until no suspect is here.
    pub(super) async fn is_over(&self) {
        self.until(|state| state.suspects == 0).await;
    }

    /// Waits until this suspect may run alone; from then on nothing else is let in before it has ended.
    pub(super) async fn may_run(&self, suspect: &Suspect) {
        self.until(|state| {
            let alone = state.others == 0 && !state.runs;
            if alone {
                state.runs = true;
                suspect.0.store(true, Ordering::Relaxed);
            }
            alone
        })
        .await;
    }

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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlightPresence {
    /// The suspect that this is, if it is one.
    pub(super) fn suspect(&self) -> Option<Suspect> {
        self.suspect.clone()
    }
}

impl Drop for InFlightPresence {
    fn drop(&mut self) {
        let mut state = self.isolation.state();
        match &self.suspect {
            Some(suspect) => {
                state.suspects -= 1;
                if suspect.0.load(Ordering::Relaxed) {
                    state.runs = false;
                }
            }
            None => state.others -= 1,
        }
        drop(state);
        self.isolation.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_suspect_waits_for_the_others_and_keeps_them_out() {
        let isolation: Arc<SuspectIsolation> = Arc::default();
        let (one, two) = (isolation.enter(false).unwrap(), isolation.enter(false).unwrap());
        let (first, second) = (isolation.enter(true).unwrap(), isolation.enter(true).unwrap());
        assert!(isolation.is_on());
        let late = isolation.enter(false).expect("a claim that was under way");
        let (a, b) = (first.suspect().unwrap(), second.suspect().unwrap());
        let mut first_runs = std::pin::pin!(isolation.may_run(&a));
        for other in [one, two, late] {
            assert!(poll!(&mut first_runs).is_pending());
            drop(other);
        }
        first_runs.await;
        assert!(isolation.enter(false).is_none(), "nothing runs beside it");
        let mut second_runs = std::pin::pin!(isolation.may_run(&b));
        assert!(poll!(&mut second_runs).is_pending(), "no other suspect either");
        drop(first);
        second_runs.await;
        let mut over = std::pin::pin!(isolation.is_over());
        assert!(poll!(&mut over).is_pending());
        drop(second);
        over.await;
        assert!(!isolation.is_on());
        assert!(isolation.enter(false).is_some());
    }

    #[tokio::test]
    async fn a_suspect_that_leaves_before_it_runs_stops_nobody() {
        let isolation: Arc<SuspectIsolation> = Arc::default();
        let (runs, waits) = (isolation.enter(true).unwrap(), isolation.enter(true).unwrap());
        isolation.may_run(&runs.suspect().unwrap()).await;
        drop(waits);
        assert!(isolation.enter(false).is_none(), "the one still runs");
        drop(runs);
        assert!(isolation.enter(false).is_some());
    }
}
