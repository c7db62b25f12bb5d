//! Jobs that may have killed a replica run alone.
//!
//! A replica that dies takes every job in flight with it, and nothing tells which of them killed it. All of them are
//! suspects from then on: a suspect runs only while nothing else is in flight in its replica, in any queue. If it kills
//! again, no other job is blamed and no other job's paid call is lost.
//!
//! While a replica holds a suspect it claims nothing. It waits until the other jobs have ended, runs the suspect, and
//! claims again. It holds one suspect at a time; further ones go back to the head of their queue for other replicas.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What is in flight in a replica, over all of its queues, and the suspect among it.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    state: Mutex<State>,
    /// Notified when a job has left.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    suspect: Option<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It waits until the other jobs have ended.
    Waits,
    /// It runs alone.
    Runs,
}

/// Counts a job as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Presence {
    isolation: Arc<Isolation>,
    is_suspect: bool,
}

impl Isolation {
    /// Lets a claimed job in. `None` where it has to go back: another suspect is here, or a suspect runs alone.
    pub(super) fn enter(self: &Arc<Self>, is_suspect: bool) -> Option<Presence> {
        let mut state = self.state();
        match (is_suspect, state.suspect) {
            (true, Some(_)) | (false, Some(Phase::Runs)) => return None,
            (true, None) => state.suspect = Some(Phase::Waits),
            (false, _) => {}
        }
        state.in_flight += 1;
        Some(Presence {
            isolation: self.clone(),
            is_suspect,
        })
    }

    /// Whether a suspect is here, so that nothing may be claimed.
    pub(super) fn is_on(&self) -> bool {
        self.state().suspect.is_some()
    }

    /// Waits until no suspect is here.
    pub(super) async fn is_over(&self) {
        self.until(|state| state.suspect.is_none()).await;
    }

    /// Waits until the suspect is alone; from then on nothing else is let in.
    pub(super) async fn suspect_is_alone(&self) {
        self.until(|state| {
            let alone = state.in_flight <= 1;
            if alone && state.suspect.is_some() {
                state.suspect = Some(Phase::Runs);
            }
            alone
        })
        .await;
    }

    async fn until(&self, mut condition: impl FnMut(&mut State) -> bool) {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.isolation.state();
        state.in_flight -= 1;
        if self.is_suspect {
            state.suspect = None;
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
        let isolation: Arc<Isolation> = Arc::default();
        let (one, two) = (isolation.enter(false).unwrap(), isolation.enter(false).unwrap());
        let suspect = isolation.enter(true).unwrap();
        assert!(isolation.is_on());
        assert!(isolation.enter(true).is_none(), "one suspect at a time");
        let late = isolation.enter(false).expect("a claim that was under way");
        let mut alone = std::pin::pin!(isolation.suspect_is_alone());
        for other in [one, two, late] {
            assert!(poll!(&mut alone).is_pending());
            drop(other);
        }
        alone.await;
        assert!(isolation.enter(false).is_none(), "nothing runs beside it");
        let mut over = std::pin::pin!(isolation.is_over());
        assert!(poll!(&mut over).is_pending());
        drop(suspect);
        over.await;
        assert!(!isolation.is_on());
        assert!(isolation.enter(false).is_some());
    }
}
