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
//! settlement.

mod writings;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use jobs::{Call, Class, Failure, Reply, apart};
use redis::{RedisError, Script};
use ring::digest::digest;
use serde_json::value::RawValue;
use tracing::{info, warn};

use self::writings::{DEADLINE, Writings, in_time};
use crate::{connection::Connection, deadline::answered_within, queue::Delivery};

static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("open.lua")));
static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("keep.lua")));
static CLOSE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("close.lua")));

/// The ledger's scripts, as `ledger <operation>`, each with the SHA that identifies it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    [("open", &OPEN), ("keep", &KEEP), ("close", &CLOSE)]
        .map(|(name, script)| (format!("ledger {name}"), script.get_hash().to_owned()))
        .into()
}

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
    marks: Writings<String>,
    answers: Writings<u8>,
    unknown: UnknownCalls,
    counters: Counters,
}

impl Ledger {
    /// A ledger whose pages outlive their last entry by `keep_for`, unless their job is completed before.
    pub fn new(connection: Connection, keep_for: Duration, unknown: UnknownCalls) -> Self {
        Self {
            marks: Writings::new(&OPEN, &connection, keep_for),
            answers: Writings::new(&KEEP, &connection, keep_for),
            connection,
            unknown,
            counters: Counters::default(),
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

    /// The page of the job that was delivered, under this key.
    pub async fn page(self: &Arc<Self>, key: String, delivery: &Delivery) -> Page {
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
}

impl Page {
    fn field(&self, call: &Call) -> String {
        format!("{}:{}", self.payload, call.step)
    }

    /// The answer that an earlier delivery has paid for. It needs no gate: nothing is sent.
    pub async fn kept(&self, call: &Call) -> Option<Reply> {
        if self.fresh || !call.paid {
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

    /// Marks a call that is about to be sent.
    ///
    /// # Errors
    /// [`Class::Permanent`] when its answer was lost once before, and lost answers are not to be paid for again.
    pub async fn open(&self, call: &Call) -> Result<Opened<'_>, Failure> {
        let sending = self.sendings.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            page: self,
            field: self.field(call),
            mark: format!("?{}:{sending}", self.token),
        };
        let counters = &self.ledger.counters;
        let found = self
            .ledger
            .marks
            .write(&self.key, &entry.field, entry.mark.clone());
        match found.await.as_deref() {
            None => count(&counters.unrecorded),
            Some("") => {}
            Some(found) => {
                if let Some(reply) = read(found) {
                    return Ok(Opened::Kept(self.reuse(call, reply)));
                }
                count(&counters.unknown);
                if self.ledger.unknown == UnknownCalls::Fail {
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
        Ok(Opened::Send(entry))
    }
}

impl Entry<'_> {
    /// Records how the call ended. Stores an answer, takes the mark back after a refusal, and leaves the mark if the
    /// outcome is unknown.
    pub async fn close(self, result: &Result<Reply, Failure>) {
        let Self { page, field, mark } = self;
        let counters = &page.ledger.counters;
        match result {
            Ok(reply) => {
                let answer = written(reply);
                if answer.len() > LONGEST_ANSWER {
                    return count(&counters.unrecorded);
                }
                if page
                    .ledger
                    .answers
                    .write(&page.key, &field, answer)
                    .await
                    .is_none()
                {
                    count(&counters.unrecorded);
                }
            }
            Err(failure) if failure.is_answer_lost() || failure.class() == Class::Cancelled => {}
            Err(_) => Self { page, field, mark }.take_back().await,
        }
    }

    /// Closes the entry of a call that was not sent after all.
    pub async fn withdraw(self) {
        self.page.ledger.counters.sent.fetch_sub(1, Ordering::Relaxed);
        self.take_back().await;
    }

    /// Removes the mark. One that stays while Redis is away counts as an unknown answer later, which is the safe side.
    async fn take_back(self) {
        let mut script = CLOSE.prepare_invoke();
        script.key(&self.page.key).arg(self.field).arg(self.mark);
        let taken_back = self.page.ledger.connection.invoke::<()>(&script);
        let warned = |error: &RedisError| warn!(%error, "the ledger is not written");
        let _ = in_time(async { taken_back.await.inspect_err(warned).ok() }).await;
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
