//! Replaces a lease of the whole replica, which this layout lacks: it has only locks of jobs. A replica that does not
//! renew must not claim jobs that it could not hold.

use std::time::{Duration, Instant};

/// The end of this replica's local lease; `None` before the first renewal.
#[derive(Debug, Default)]
pub(super) struct LocalLease(Option<Instant>);

impl LocalLease {
    pub(super) fn holds(&self) -> bool {
        self.0.is_some_and(|until| Instant::now() < until)
    }

    /// Redis has answered a renewal that was sent then.
    pub(super) fn renew(&mut self, sent: Instant, ttl: Duration) {
        self.0 = sent.checked_add(ttl);
    }
}
