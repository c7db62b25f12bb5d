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
//! The ledger costs one round trip a paid call, after the gate's. The answer is sent at the same time as the permit's
//! settlement. The same round trips reserve the most that a call may cost, and book its cost ([`crate::spending`]), also
//! when the ledger itself is switched off.

mod trips;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use jobs::{Call, Class, Failure, Reply, apart};
use ring::digest::digest;
use serde_json::value::RawValue;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::trips::{CLOSE, Closing, DEADLINE, OPEN, Opening, Trips};
use crate::{
    connection::Connection,
    deadline::answered_within,
    queue::Delivery,
    spending::{
        Usd,
        accounts::Accounts,
        books::{Books, CameTo, OpenCall, Payer},
        refusal::Refusal,
    },
};

/// The ledger's scripts, as `ledger <operation>`, each with the SHA that identifies it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    [("open", &OPEN), ("close", &CLOSE)]
        .map(|(name, script)| (format!("ledger {name}"), script.get_hash().to_owned()))
        .into()
}

/// How soon bookings that Redis did not take are sent again.
const BOOK_AGAIN: Duration = Duration::from_millis(500);
/// Longer answers are not kept, bytes: they would crowd Redis.
const LONGEST_ANSWER: usize = 1024 * 1024;

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
pub struct Spending {
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
struct Counters {
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
pub struct Ledger {
    connection: Connection,
    trips: Trips,
    books: Arc<Books>,
    /// Whether answers are kept; without, calls are only booked.
    keeps_answers: bool,
    lease: Duration,
    unknown: UnknownCalls,
    counters: Counters,
}

impl Ledger {
    /// A ledger whose pages outlive their last entry by `keep_for`, unless their job is completed before; `None` keeps no
    /// answers, and books calls only. A replica that is silent for `lease` has lost its calls.
    pub fn new(
        connection: Connection,
        keep_for: Option<Duration>,
        unknown: UnknownCalls,
        books: Arc<Books>,
        lease: Duration,
    ) -> Self {
        Self {
            trips: Trips::new(&connection, &books, keep_for.unwrap_or_default(), lease),
            connection,
            books,
            keeps_answers: keep_for.is_some(),
            lease,
            unknown,
            counters: Counters::default(),
        }
    }

    /// The books of this replica.
    pub const fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// Sums, budgets and kill switch, for operators.
    pub fn accounts(&self) -> Accounts {
        Accounts::new(self.connection.clone(), self.books.budgets)
    }

    /// Books waiting calls, and the open calls of replicas that have gone silent, until `stop`. Stop it after the last call
    /// has ended: the calls that wait by then are booked before it returns, unless Redis is away.
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
                self.trips.close(None).await;
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
            self.trips.close(None).await;
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
    pub fn spending(&self) -> Spending {
        let Counters {
            sent,
            reused,
            unknown,
            resent,
            unrecorded,
        } = &self.counters;
        let [sent, reused, unknown, resent, unrecorded] =
            [sent, reused, unknown, resent, unrecorded].map(|counter| counter.load(Ordering::Relaxed));
        Spending {
            sent,
            reused,
            unknown,
            resent,
            unrecorded,
        }
    }

    /// The page of the job that was delivered, under this key. The job's calls are booked for `payer`.
    pub async fn page(self: &Arc<Self>, key: String, delivery: &Delivery, payer: Payer) -> Page {
        let payload = delivery.payload.clone().unwrap_or_default();
        let digest = apart(payload.len(), move || digest(&ring::digest::SHA256, &payload)).await;
        Page {
            ledger: self.clone(),
            key,
            payload: digest
                .as_ref()
                .iter()
                .take(8)
                .map(|b| format!("{b:02x}"))
                .collect(),
            token: delivery.lease.token.clone(),
            fresh: delivery.first,
            payer,
            sendings: AtomicU32::new(0),
        }
    }
}

/// The entries of one delivery of one job.
#[derive(Debug)]
pub struct Page {
    ledger: Arc<Ledger>,
    key: String,
    payload: String,
    token: Arc<str>,
    /// This is the job's first delivery, so only this delivery can have written entries.
    fresh: bool,
    payer: Payer,
    sendings: AtomicU32,
}

/// The ledger's answer before a call.
#[derive(Debug)]
pub enum Opened<'a> {
    /// It may be sent: the mark is set.
    Send(Entry<'a>),
    /// It was made before, and this is its answer.
    Kept(Reply),
}

/// The mark of a call that is being sent.
#[derive(Debug)]
pub struct Entry<'a> {
    page: &'a Page,
    field: String,
    mark: String,
    open: OpenCall,
}

impl Page {
    fn field(&self, call: &Call) -> String {
        format!("{}:{}", self.payload, call.step)
    }

    /// The answer that an earlier delivery has paid for. It needs no gate: nothing is sent.
    pub async fn kept(&self, call: &Call) -> Option<Reply> {
        if self.fresh || !call.paid || !self.ledger.keeps_answers {
            return None;
        }
        let mut look = redis::pipe();
        look.hget(&self.key, self.field(call));
        let found = answered_within(DEADLINE, self.ledger.connection.query::<(Option<String>,)>(&look));
        let reply = read(&found.await.ok()?.ok()?.0?)?;
        Some(self.reuse(call, reply))
    }

    fn reuse(&self, call: &Call, reply: Reply) -> Reply {
        count(&self.ledger.counters.reused);
        info!(step = %call.step, "paid for before: the kept answer is used, nothing is sent");
        reply
    }

    /// Drops the kept answer of a call, so that the call is made again. An answer that cannot be dropped while Redis is
    /// away stays until the page expires.
    pub async fn drop_kept(&self, call: &Call) {
        let mut dropping = redis::pipe();
        dropping.hdel(&self.key, self.field(call)).ignore();
        let dropped = answered_within(DEADLINE, self.ledger.connection.query::<()>(&dropping)).await;
        if !matches!(dropped, Ok(Ok(()))) {
            warn!(step = %call.step, "the ledger is not reached: a useless answer stays in it");
        }
    }

    /// The cost of an answer, paid for now or by an earlier delivery; `None` if its model has no price.
    pub fn cost_of(&self, call: &Call, reply: &Reply) -> Option<Usd> {
        self.ledger.books.cost_of(call, reply)
    }

    /// Reserves the estimated cost of a call, and marks that it is about to be sent.
    ///
    /// # Errors
    /// [`Class::Permanent`] when its answer was lost once before, and lost answers are not to be paid for again; the failure
    /// of a [`Refusal`] when the budget is used up.
    pub async fn open(&self, call: &Call) -> Result<Opened<'_>, Failure> {
        let sending = self.sendings.fetch_add(1, Ordering::Relaxed);
        let ledger = &self.ledger;
        let mut entry = Entry {
            page: self,
            field: self.field(call),
            mark: format!("?{}:{sending}", self.token),
            open: ledger.books.prepare(call, &self.payer),
        };
        let opening = Opening {
            page: ledger.keeps_answers.then(|| self.key.clone()),
            field: entry.field.clone(),
            mark: entry.mark.clone(),
            id: entry.open.id,
            amount: entry.open.estimate.nanos(),
            student: self.payer.student.clone(),
            row: entry.open.row.clone(),
        };
        let counters = &ledger.counters;
        match ledger.trips.open(opening).await.as_deref() {
            None if ledger.books.budgets.any() => return Err(Refusal::Unreachable.failure(call.provider)),
            None => count(&counters.unrecorded),
            Some("") => {}
            Some(found) if found.starts_with('!') => {
                let exhausted = ledger.books.budgets.exhausted;
                return Err(Refusal::read(found, exhausted).failure(call.provider));
            }
            Some(found) => {
                if let Some(reply) = read(found) {
                    return Ok(Opened::Kept(self.reuse(call, reply)));
                }
                count(&counters.unknown);
                if ledger.unknown == UnknownCalls::Fail {
                    let message = format!(
                        "a paid call ({}) was sent before and its answer is not known: not sent again (UNKNOWN_CALL=fail)",
                        call.step
                    );
                    return Err(Failure::permanent(message).by(call.provider));
                }
                count(&counters.resent);
                warn!(step = %call.step, "a paid call was sent before and its answer is not known: it is sent again");
            }
        }
        count(&counters.sent);
        entry.open.sent();
        Ok(Opened::Send(entry))
    }
}

impl Entry<'_> {
    /// Records how the call ended. Stores an answer, takes the mark back after a refusal, and leaves the mark if the
    /// outcome is unknown. Books the cost of the call.
    pub async fn close(self, call: &Call, result: &Result<Reply, Failure>) {
        let Self {
            page,
            field,
            mark,
            open,
        } = self;
        // The booking enters the outbox first, so that it survives if this future is dropped at an await.
        let (came_to, amount) = open.end(call, result);
        let (ledger, counters) = (&page.ledger, &page.ledger.counters);
        let text = match result {
            Ok(reply) => written(reply),
            Err(failure) if failure.is_answer_lost() || failure.class() == Class::Cancelled => "?".to_owned(),
            // A mark that stays while Redis is away counts as an unknown answer later, which is the safe side.
            Err(_) => String::new(),
        };
        if text.len() > LONGEST_ANSWER {
            count(&counters.unrecorded);
            ledger.trips.close(None).await;
            return;
        }
        let note = match came_to {
            CameTo::Nothing => String::new(),
            _ => format!("{} {} {}", came_to.as_str(), amount.nanos(), call.step),
        };
        let closing = ledger.keeps_answers.then(|| Closing {
            page: page.key.clone(),
            field,
            mark,
            text,
            note,
            kind: page.payer.kind,
        });
        if !ledger.trips.close(closing).await && result.is_ok() {
            count(&counters.unrecorded);
        }
    }

    /// Closes the entry of a call that was not sent after all: takes the mark back, releases the reservation, and books
    /// nothing. A mark that stays while Redis is away counts as an unknown answer later, which is the safe side.
    pub async fn withdraw(self) {
        let Self {
            page,
            field,
            mark,
            open,
        } = self;
        open.withdraw();
        let ledger = &page.ledger;
        ledger.counters.sent.fetch_sub(1, Ordering::Relaxed);
        let closing = ledger.keeps_answers.then(|| Closing {
            page: page.key.clone(),
            field,
            mark,
            text: String::new(),
            note: String::new(),
            kind: page.payer.kind,
        });
        ledger.trips.close(closing).await;
    }
}

/// `=<tokens or -> <body>`
fn written(reply: &Reply) -> String {
    match reply.tokens {
        Some(tokens) => format!("={tokens} {}", reply.body.get()),
        None => format!("=- {}", reply.body.get()),
    }
}

/// The answer in an entry; `None` for a mark, or for what we did not write.
fn read(entry: &str) -> Option<Reply> {
    let (tokens, body) = entry.strip_prefix('=')?.split_once(' ')?;
    Some(Reply {
        body: serde_json::from_str::<Box<RawValue>>(body).ok()?,
        tokens: match tokens {
            "-" => None,
            number => Some(number.parse().ok()?),
        },
    })
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
