//! The calls that the limits leave room for.

use std::time::Duration;

use super::decision::Reason;

/// How many calls the limits would let pass now, as far as Redis can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRoom {
    /// The number of calls; `usize::MAX` without limits.
    pub calls: usize,
    /// Time until more may pass. Zero if some may pass now.
    pub wait: Duration,
    /// Why no call may pass; `None` if calls may pass.
    pub reason: Option<Reason>,
    /// The same where the requests of a minute are spread over it.
    pub spread: SpreadRoom,
    /// Jobs in the lines that were asked about.
    pub waiting: usize,
    /// Time until the breaker lets a call pass; zero if it does now. Apart from it and `probes`, the room is that of a
    /// closed breaker.
    pub blocked_for: Duration,
    /// The number of calls that a half-open breaker lets pass; `usize::MAX` for any other.
    pub probes: usize,
}

/// How many calls may start now, where the requests of a minute are spread over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpreadRoom {
    /// The number of calls by the limit of requests alone; `usize::MAX` without one.
    pub calls: usize,
    /// Time until the next may start.
    pub wait: Duration,
    /// Time between two calls.
    pub interval: Duration,
    /// Calls that may start at once after a pause.
    pub burst: usize,
}
