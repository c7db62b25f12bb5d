//! Keeps settlements that Redis has not confirmed, until they can be sent again.
//!
//! A settlement expires after one lease: the permit's own lease has run out by then, and the outcome no longer counts.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::settlement::Settlement;

/// Bounds the memory of an outage with thousands of short calls a second.
const MOST: usize = 10_000;

/// A settlement that waits.
#[derive(Debug, Clone)]
pub(super) struct PendingSettlement {
    pub(super) id: Arc<str>,
    pub(super) settlement: Settlement,
    expires: Instant,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct PendingSettlements {
    settlements: VecDeque<PendingSettlement>,
    keep_for: Duration,
}

impl PendingSettlements {
    pub(super) const fn new(keep_for: Duration) -> Self {
        Self {
            settlements: VecDeque::new(),
            keep_for,
        }
    }

    /// Adds a settlement; when there are too many, in place of the oldest.
    pub(super) fn push(&mut self, now: Instant, id: Arc<str>, settlement: Settlement) {
        if self.settlements.len() >= MOST {
            self.settlements.pop_front();
        }
        self.settlements.push_back(PendingSettlement {
            id,
            settlement,
            expires: now + self.keep_for,
        });
    }

    /// Takes up to `most` that are still worth telling, the oldest first.
    pub(super) fn take(&mut self, now: Instant, most: usize) -> Vec<PendingSettlement> {
        while self
            .settlements
            .front()
            .is_some_and(|settlement| settlement.expires <= now)
        {
            self.settlements.pop_front();
        }
        self.settlements
            .drain(..most.min(self.settlements.len()))
            .collect()
    }

    /// Returns unsent settlements to the front; they keep their age.
    pub(super) fn put_back(&mut self, settlements: Vec<PendingSettlement>) {
        for settlement in settlements.into_iter().rev() {
            if self.settlements.len() < MOST {
                self.settlements.push_front(settlement);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.settlements.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::settlement::CallOutcome;

    const TTL: Duration = Duration::from_secs(15);

    fn push(pending: &mut PendingSettlements, now: Instant, id: &str) {
        pending.push(now, id.into(), Settlement::new(CallOutcome::Success));
    }

    fn ids(settlements: &[PendingSettlement]) -> Vec<&str> {
        settlements.iter().map(|settlement| &*settlement.id).collect()
    }

    #[test]
    fn keeps_the_order_and_drops_what_is_older_than_a_lease() {
        let (mut pending, start) = (PendingSettlements::new(TTL), Instant::now());
        push(&mut pending, start, "a");
        push(&mut pending, start + TTL / 2, "b");
        push(&mut pending, start + TTL / 2, "c");
        let taken = pending.take(start, 2);
        assert_eq!(ids(&taken), ["a", "b"]);
        pending.put_back(taken);
        assert_eq!(ids(&pending.take(start + TTL, 9)), ["b", "c"]);
        assert!(pending.is_empty());
    }

    #[test]
    fn is_bounded_and_prefers_the_newest() {
        let (mut pending, now) = (PendingSettlements::new(TTL), Instant::now());
        for n in 0..=MOST {
            push(&mut pending, now, &n.to_string());
        }
        let taken = pending.take(now, usize::MAX);
        assert_eq!((taken.len(), &*taken[0].id), (MOST, "1"));
        push(&mut pending, now, "newer");
        pending.put_back(taken);
        assert_eq!(
            pending.take(now, usize::MAX).last().map(|l| l.id.to_string()),
            Some("newer".to_owned())
        );
    }
}
