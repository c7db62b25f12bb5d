//! What stands in for a lease of the whole replica. The layout knows only locks of jobs: this keeps a replica that does
//! not renew from claiming what it could not hold, and one that has lived through an outage from robbing the others.

use std::time::{Duration, Instant};

/// When this replica last renewed.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// How long the last one holds; `None` before the first.
    until: Option<Instant>,
    /// Before this, locks that have run out are their owners' to renew.
    sweep_from: Option<Instant>,
}

impl Renewal {
    pub(super) fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Redis has answered a renewal that was sent then.
    pub(super) fn renew(&mut self, sent: Instant, ttl: Duration) {
        if self.until.is_some() && !self.holds() {
            self.sweep_from = sent.checked_add(ttl / 2);
        }
        self.until = sent.checked_add(ttl);
    }

    pub(super) fn may_sweep(&self) -> bool {
        self.holds() && self.sweep_from.is_none_or(|from| from <= Instant::now())
    }
}
