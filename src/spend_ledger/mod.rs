//! The spend ledger records paid calls in Redis, so that a repeated delivery does not pay for them again.
//!
//! Each job has a page, a hash that is deleted when the job completes or after the time to live. The worker writes a
//! mark before it sends a paid call, and replaces the mark by the answer before it writes anything else about the job.
//! A job that is delivered again (its replica was killed, its ack was lost) continues from the stored answers. A mark
//! without an answer means that the provider may have billed the call; [`UnknownCalls`] decides what happens to its
//! job.
//!
//! An entry carries a digest of the payload, so that another job under the same id finds nothing. While Redis is away
//! the worker makes calls without the ledger: the replica holds the answer in memory, and loses it only if it dies too.
//!
//! A paid call does not wait for the ledger alone: its entry is opened in the gate's round trip (`opening`), and the answer
//! is sent at the same time as the permit's settlement. The same scripts reserve the most that a call may cost, and
//! book its cost ([`crate::spending`]), also when the ledger itself is switched off.

mod batched_scripts;
mod opening;
mod page;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::batched_scripts::{CLOSE, ClosingRequest, LedgerBatchers, OPEN};
pub use self::{
    opening::{LedgerOpening, OpeningAnswer, open_admitted},
    page::{LedgerEntry, LedgerPage, OpenedCall},
};
use crate::{
    connection::Connection,
    script,
    spending::{accounts::SpendAccounts, books::SpendBooks},
};

/// The ledger's scripts, as `ledger <operation>`, each with the names that identify it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    let named = [("open", &*OPEN), ("close", &*CLOSE)];
    script::logged_names(named.map(|(name, script)| (format!("ledger {name}"), script)))
}

/// The libraries of the scripts, which run as functions.
#[cfg(test)]
pub(crate) fn library_codes() -> Vec<String> {
    let scripts = [&OPEN, &CLOSE];
    scripts
        .into_iter()
        .filter_map(|script| script.library_code())
        .collect()
}

/// How soon bookings that Redis did not take are sent again.
const BOOK_AGAIN: Duration = Duration::from_millis(500);

/// The rule for a job with an earlier call that was sent and never answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownCalls {
    /// The call is made again, and perhaps paid for twice.
    Retry,
    /// The job fails, and an operator decides.
    Fail,
}

/// Counts of a replica since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    /// Paid calls sent.
    pub sent: u64,
    /// Answers that were found in the ledger: calls that were not made again.
    pub reused: u64,
    /// Calls found whose answer was lost.
    pub unknown: u64,
    /// Of these, calls that were made again: each may have been paid for twice.
    pub resent: u64,
    /// Calls or answers that could not be written down, with Redis away or the answer too long.
    pub unrecorded: u64,
}

#[derive(Debug, Default)]
struct LedgerCounters {
    sent: AtomicU64,
    reused: AtomicU64,
    unknown: AtomicU64,
    resent: AtomicU64,
    unrecorded: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The ledger, as one replica holds it.
#[derive(Debug)]
pub struct SpendLedger {
    connection: Connection,
    trips: LedgerBatchers,
    books: Arc<SpendBooks>,
    /// True if answers are kept; otherwise calls are only booked.
    keeps_answers: bool,
    lease: Duration,
    unknown: UnknownCalls,
    counters: LedgerCounters,
}

impl SpendLedger {
    /// A ledger whose pages outlive their last entry by `keep_for`, unless their job is completed before; `None`
    /// keeps no answers, and books calls only. A replica that is silent for `lease` has lost its calls.
    pub fn new(
        connection: Connection,
        keep_for: Option<Duration>,
        unknown: UnknownCalls,
        books: Arc<SpendBooks>,
        lease: Duration,
    ) -> Self {
        Self {
            trips: LedgerBatchers::new(&connection, &books, keep_for.unwrap_or_default(), lease),
            connection,
            books,
            keeps_answers: keep_for.is_some(),
            lease,
            unknown,
            counters: LedgerCounters::default(),
        }
    }

    /// The books of this replica.
    pub const fn books(&self) -> &Arc<SpendBooks> {
        &self.books
    }

    /// Sums, budgets and kill switch, for operators.
    pub fn accounts(&self) -> SpendAccounts {
        SpendAccounts::new(self.connection.clone(), self.books.budgets)
    }

    /// Books waiting calls, and the open calls of replicas that have gone silent, until `stop`. Stop it after the
    /// last call has ended: the calls that wait by then are booked before it returns, unless Redis is away.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.lease / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle_ticks = 0u64;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    idle_ticks = if self.books.is_idle() { idle_ticks + 1 } else { 0 };
                    // A replica without calls of its own only sweeps the reservations of others, once a lease.
                    if !idle_ticks.is_multiple_of(3) {
                        continue;
                    }
                }
                () = self.books.late.notified() => {}
            }
            while !stop.is_cancelled() {
                let before = self.books.waiting();
                self.trips.close(ClosingRequest::Sweep).await;
                let left = self.books.waiting();
                if left == 0 {
                    break;
                }
                if left >= before {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(BOOK_AGAIN) => {}
                    }
                }
            }
        }
        loop {
            let before = self.books.waiting();
            self.trips.close(ClosingRequest::Sweep).await;
            match self.books.waiting() {
                0 => return,
                left if left >= before => {
                    let why = "Redis is away: another replica will book them as possibly paid";
                    return warn!(calls = left, "{left} paid calls are not booked, {why}");
                }
                _ => {}
            }
        }
    }

    /// Counts of the calls that were sent, and of those that were not sent again.
    pub fn spending(&self) -> LedgerTotals {
        let LedgerCounters {
            sent,
            reused,
            unknown,
            resent,
            unrecorded,
        } = &self.counters;
        let [sent, reused, unknown, resent, unrecorded] =
            [sent, reused, unknown, resent, unrecorded].map(|counter| counter.load(Ordering::Relaxed));
        LedgerTotals {
            sent,
            reused,
            unknown,
            resent,
            unrecorded,
        }
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/ledger_entry.rs"]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
