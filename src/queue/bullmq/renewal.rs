//! What stands in for a lease of the whole replica. The layout knows only locks of jobs: this keeps a replica that does
//! not renew from claiming what it could not hold.

use std::time::{Duration, Instant};

/// Until when this replica holds what stands in for a lease; `None` before the first renewal.
#[derive(Debug, Default)]
pub(super) struct Renewal(Option<Instant>);

impl Renewal {
    pub(super) fn holds(&self) -> bool {
        self.0.is_some_and(|until| Instant::now() < until)
    }

    /// Redis has answered a renewal that was sent then.
    pub(super) fn renew(&mut self, sent: Instant, ttl: Duration) {
        self.0 = sent.checked_add(ttl);
    }
}
