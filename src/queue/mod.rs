//! Queues: the trait [`Broker`], which knows how one queue is kept in Redis, and what travels through it.
//!
//! A broker is driven by the worker's claim, renew and ack loops. It holds no job state of its own: every operation
//! is one atomic script, safe to send again after a lost answer, and fenced by the token of the claim, so that a
//! replica that lost a job cannot write to it any more.

pub mod apalis;
mod backoff;
pub mod bullmq;
mod claims;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod letters;
mod lines;
mod view;
pub mod watch;

use std::{convert::Infallible, fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jobs::JobType;
use redis::RedisError;
use serde::{Deserialize, Serialize};

use crate::telemetry::trace::TraceContext;

pub use backoff::QueueBackoff;
pub use claims::ClaimNumber;
pub use letters::{Listed, Page, Place, Query, Removal, Retried, RetryOrder};
pub use view::{Counts, HistoryLine, JobView, State, UnknownState, WaitingFor};
pub use watch::Watchers;

/// How a queue is laid out in Redis, and so who else can read and write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// That of BullMQ v5.
    Bullmq,
    /// That of `apalis_redis::RedisStorage`.
    Apalis,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Bullmq, Self::Apalis];

    /// Its name in `QUEUES`, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bullmq => "bullmq",
            Self::Apalis => "apalis",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no layout.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no queue layout (bullmq, apalis)")]
pub struct UnknownLayout(String);

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|l| l.as_str() == name)
            .ok_or_else(|| UnknownLayout(name.to_owned()))
    }
}

/// How queues are kept, whatever their layout.
#[derive(Debug, Clone, Copy)]
pub struct BrokerOptions {
    /// How long a replica may be silent before its jobs are given to others.
    pub lease_ttl: Duration,
    /// Deliveries that ended without an outcome while the job ran, after which it fails as poison; four times as many when
    /// it never did.
    pub max_lost: u32,
    /// How long completed jobs are kept, where their producer says nothing.
    pub keep_completed_for: Duration,
    /// How many completed jobs are kept, where their producer says nothing.
    pub keep_completed_count: u64,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15),
            max_lost: 3,
            keep_completed_for: Duration::from_secs(24 * 3600),
            keep_completed_count: 10_000,
        }
    }
}

/// One claim of one job: the job's id and the token that fences every later write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job's id, unique in its queue.
    pub id: Arc<str>,
    /// Unique to the claim.
    pub token: Arc<str>,
}

/// A claimed job, as the queue handed it out. The payload is raw: whether it makes sense is the handler's question.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What this replica holds.
    pub lease: Lease,
    /// The job's type, where the layout keeps it beside the payload.
    pub kind: Option<String>,
    /// The payload; `None` when the queue knows an id without one.
    pub payload: Option<Bytes>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many attempts the producer allows.
    pub max_attempts: u32,
    /// How the producer wants the attempts spaced; `None` leaves it to the worker.
    pub backoff: Option<QueueBackoff>,
    /// How long the job has been made to wait by limits and breakers so far.
    pub waited: Duration,
    /// Whether nobody has been handed this job before.
    pub first: bool,
    /// Earlier deliveries that ended without an outcome.
    pub lost: u32,
    /// The trace that its producer was in, where the layout carries one.
    pub trace: Option<TraceContext>,
}

/// What a write of an outcome came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The outcome stands, now or since an earlier send of the same call.
    Applied,
    /// The job is not ours any more: nothing was written.
    Lost,
}

/// Puts a job off.
#[derive(Debug, Clone)]
pub struct Later<'a> {
    /// From now, by Redis's clock.
    pub delay: Duration,
    /// Whether this delivery used up one of the job's attempts.
    pub counts: bool,
    /// Why, for whoever asks what the job waits for.
    pub reason: &'a str,
    /// The gate that it waits for, by its provider's name.
    pub gate: Option<&'a str>,
    /// What happened, for the job's history.
    pub note: Option<&'a Note>,
}

/// One line of a job's history: an attempt that failed, or a retry by hand. Redis adds the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The delivery, from 1.
    pub attempt: u32,
    /// The try within the delivery, from 1; 0 when the job failed outside of a provider call.
    pub r#try: u32,
    /// [`jobs::Class`], by name; `poison` after too many lost deliveries, `retried` for a retry by hand.
    pub class: String,
    /// What went wrong.
    pub cause: String,
    /// Wait before the next try, ms; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delay_ms: Option<u64>,
    /// Which replica ran it, or who gave the order.
    pub replica: String,
}

/// What a sweep for orphaned jobs found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Put back, to be claimed again.
    pub requeued: u64,
    /// Failed, because too many deliveries ended without an outcome.
    pub poisoned: u64,
    /// Whether another sweep would find more.
    pub more: bool,
}

/// A job to enqueue.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    /// Unique in the queue; enqueueing it again does nothing.
    pub id: &'a str,
    /// Its type.
    pub kind: JobType,
    /// Its payload, JSON.
    pub payload: &'a serde_json::value::RawValue,
    /// Attempts before it becomes a dead letter.
    pub max_attempts: u32,
    /// Not before this long from now.
    pub delay: Duration,
}

/// Why a broker could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Redis is away, or refused.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// This worker's lease has run out: renew before claiming.
    #[error("this worker holds no lease on the queue")]
    Unleased,
    /// A job must not be called so.
    #[error("job id {0:?} cannot be used: it is empty, holds a colon, or names a key of the queue")]
    Id(String),
    /// A job cannot be written down.
    #[error("job: {0}")]
    Job(#[from] serde_json::Error),
}

impl BrokerError {
    /// Whether Redis itself answered with an error that will not go away by asking again: a key of a wrong type,
    /// say, rather than a time-out, a restart, a replica in read-only mode or a full memory.
    pub fn is_refusal(&self) -> bool {
        use redis::{ErrorKind, ServerErrorKind};
        match self {
            Self::Redis(error) if error.code() == Some("WRONGTYPE") => true,
            Self::Redis(error) => matches!(
                error.kind(),
                ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::UnexpectedReturnType
            ),
            Self::Unleased => false,
            Self::Id(_) | Self::Job(_) => true,
        }
    }
}

/// The scripts of both layouts, as `<layout> <operation>`, each with the SHA by which Redis's SLOWLOG tells it.
pub fn script_names() -> Vec<(String, String)> {
    let all = [
        (Layout::Bullmq, bullmq::scripts::named()),
        (Layout::Apalis, apalis::scripts::named()),
    ];
    all.into_iter()
        .flat_map(|(layout, scripts)| scripts.into_iter().map(move |script| (layout, script)))
        .map(|(layout, (name, script))| {
            let name = format!("{layout} {}", name.to_ascii_lowercase());
            (name, script.get_hash().to_owned())
        })
        .collect()
}

/// Bytes of payloads that a script hands out at most. It copies each several times, some 2 ms for a megabyte, and blocks
/// Redis for everyone meanwhile: what does not fit is read by a command of its own.
const INLINE_BYTES: usize = 256 * 1024;

/// Whole milliseconds, never cut to a time-out of zero by an absurd duration.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}

/// A note as it is written into a history, after the time that Redis puts in front; empty for none.
fn line(note: Option<&Note>) -> Result<String, BrokerError> {
    Ok(note.map(serde_json::to_string).transpose()?.unwrap_or_default())
}

/// One queue in Redis, seen by one replica.
///
/// Every operation is one round trip unless it says otherwise, has a deadline, and may be sent again.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// The queue's name.
    fn queue(&self) -> &str;

    /// How it is laid out.
    fn layout(&self) -> Layout;

    /// The key of a job's page in the [ledger](crate::ledger).
    fn ledger_key(&self, id: &str) -> String;

    /// Returns `true` when there may be something to claim, `false` after `limit`.
    async fn wait(&self, limit: Duration) -> Result<bool, BrokerError>;

    /// Claims up to `count` jobs. The same `number` again, or an older one, returns what is left of that claim and
    /// claims nothing more: no job is stranded because an answer was lost or a request was late.
    async fn claim(&self, number: ClaimNumber, count: usize) -> Result<Vec<Delivery>, BrokerError>;

    /// Renews this replica's lease on the queue, and returns those of `held` that it has lost. What the queue counts
    /// as this replica's while it is not among `held` goes back, unless it was claimed a moment ago.
    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError>;

    /// Puts back a chunk of what dead replicas held.
    async fn recover(&self) -> Result<Recovered, BrokerError>;

    /// Ends a job well. `result` is JSON.
    async fn complete(&self, lease: &Lease, result: &str) -> Result<Settled, BrokerError>;

    /// Puts a job off.
    async fn retry_at(&self, lease: &Lease, later: Later<'_>) -> Result<Settled, BrokerError>;

    /// Makes a job a dead letter.
    async fn fail(&self, lease: &Lease, reason: &str, note: Option<&Note>) -> Result<Settled, BrokerError>;

    /// Puts jobs back where they were, next in line, as if they had not been claimed. Returns how many were still ours.
    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError>;

    /// Notes that a job is about to run whose earlier delivery was lost: from the next one that is lost after this on, it
    /// is on its way to be poison. A first delivery is spared the round trip.
    async fn begin(&self, lease: &Lease) -> Result<Settled, BrokerError>;

    /// Reports progress in percent, and a failed attempt.
    async fn progress(&self, lease: &Lease, percent: u8, note: Option<&Note>)
    -> Result<Settled, BrokerError>;

    /// Gives up this replica's lease, and puts back whatever it still holds.
    async fn leave(&self) -> Result<(), BrokerError>;

    /// Adds a job; `false` when its id is known already.
    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError>;

    /// Counts the jobs in each state.
    async fn counts(&self) -> Result<Counts, BrokerError>;

    /// How old the job is that is next in line, by Redis's clock; zero where nothing waits, or its age is not known.
    async fn oldest_waiting(&self) -> Result<Duration, BrokerError>;

    /// Looks up a job.
    async fn find(&self, id: &str) -> Result<Option<JobView>, BrokerError>;

    /// The type of a job of which [`find`](Self::find) tells none: what its payload says, which may be large.
    async fn kind(&self, _id: &str) -> Result<Option<String>, BrokerError> {
        Ok(None)
    }

    /// Who watches jobs of this queue.
    fn watchers(&self) -> &Watchers;

    /// Tells the [`Watchers`] what becomes of their jobs; returns only when it cannot. Called again with the
    /// `position` that it has left behind, it goes on from there.
    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError>;

    /// Lists a page of the jobs in one state, newest first. Looks at a bounded number of ids, so that a page may be
    /// short, or empty, while more follow it.
    async fn list(&self, query: &Query<'_>) -> Result<Page, BrokerError>;

    /// Puts dead letters back into the queue, and says for each id what became of it. One round trip for each chunk.
    /// The same order, sent again, retries nothing twice.
    async fn retry(&self, ids: &[&str], order: &RetryOrder<'_>) -> Result<Vec<Retried>, BrokerError>;

    /// Removes a job that is not active, with all that is kept of it.
    async fn remove(&self, id: &str) -> Result<Removal, BrokerError>;

    /// Stops or resumes handing out jobs, for every replica.
    async fn set_paused(&self, paused: bool) -> Result<(), BrokerError>;
}
