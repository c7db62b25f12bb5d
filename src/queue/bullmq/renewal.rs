//! What stands in for a lease of the whole replica. The layout knows only locks of jobs: this keeps a replica that does
//! not renew from claiming what it could not hold, and one that has lived through an outage from robbing the others.

use std::time::{Duration, Instant};

/// Since when, and until when, this replica holds what stands in for a lease.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// How long the last one holds; `None` before the first.
    until: Option<Instant>,
    /// Since when it is unbroken. Before that is a whole ttl ago, locks that have run out are their owners' to renew.
    since: Option<Instant>,
}

impl Renewal {
    pub(super) fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Redis has answered a renewal that was sent then.
    pub(super) fn renew(&mut self, sent: Instant, ttl: Duration) {
        if !self.holds() {
            self.since = Some(sent);
        }
        self.until = sent.checked_add(ttl);
    }

    pub(super) fn may_sweep(&self, ttl: Duration) -> bool {
        self.holds() && self.since.is_some_and(|since| since.elapsed() >= ttl)
    }
}
