//! The interface between the worker and a queue in Redis, which both layouts (apalis and BullMQ) implement.
//!
//! [`Broker`] claims jobs, renews their leases and writes their outcomes; it also lists and inspects jobs for
//! operators. [`BrokerOptions`] holds the settings of a queue, [`BrokerError`] the reasons why an operation fails.

use std::{convert::Infallible, fmt, num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use redis::RedisError;

use super::{
    ClaimNumber, ClaimProof, Completion, CompletionResults, Delivery, EqualJobs, HistoryNote, JobPage,
    JobSnapshot, JobWatchers, Layout, Lease, LinePosition, ListQuery, NewJob, Postponement, QueueCounts,
    RemovalResult, RetryOrder, RetryResult, SweepResult, WriteResult,
};
use crate::{keys::WaitingLine, redis_error::RedisErrorClass};

/// One queue in Redis, seen by one replica.
///
/// Every operation is one round trip unless it says otherwise, has a deadline, and may be sent again.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// The queue's name.
    fn queue(&self) -> &str;

    /// How it is laid out.
    fn layout(&self) -> Layout;

    /// The key of a job's page in the [ledger](crate::spend_ledger).
    fn ledger_key(&self, id: &str) -> String;

    /// Returns `true` when there may be something to claim, `false` after `limit`.
    async fn wait(&self, limit: Duration) -> Result<bool, BrokerError>;

    /// Claims up to `count` jobs. The same `number` again, or an older one, returns what is left of that claim and
    /// claims nothing more: no job is stranded because an answer was lost or a request was late. Several may be under
    /// way.
    async fn claim(&self, number: ClaimNumber, count: usize) -> Result<Vec<Delivery>, BrokerError>;

    /// The bytes of a job's payload, without the payload.
    async fn payload_size(&self, id: &str) -> Result<u64, BrokerError>;

    /// A job's payload that its claim has left out.
    async fn payload(&self, id: &str) -> Result<Option<Vec<u8>>, BrokerError>;

    /// Renews this replica's lease on the queue, and returns those of `held` that it has lost. What the queue counts
    /// as this replica's while it is not among `held` goes back, unless it was claimed a moment ago.
    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError>;

    /// Puts back a chunk of what dead replicas held.
    async fn recover(&self) -> Result<SweepResult, BrokerError>;

    /// Ends jobs well. With the number of the next claim, and where the layout can do both at once, as many others are
    /// claimed into their slots.
    async fn complete_all(&self, completions: &[Completion], next: Option<ClaimNumber>) -> CompletionResults;

    /// Ends one job well. `result` is JSON.
    async fn complete(&self, lease: &Lease, result: &str) -> Result<WriteResult, BrokerError> {
        let completion = Completion {
            lease: lease.clone(),
            result: result.to_owned(),
            equal: None,
        };
        let CompletionResults { mut settled, .. } = self.complete_all(&[completion], None).await;
        settled.pop().unwrap_or(Ok(WriteResult::Lost)) // There is one for each.
    }

    /// Puts a job off. A wait for a gate that costs no attempt is added to what the job has [waited](Delivery::waited).
    async fn retry_at(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError>;

    /// Puts a job off for a limit, or because its provider names a time: however often, it is not added to what the job
    /// has waited.
    async fn put_off(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError>;

    /// Says how Redis recognises that a claim still holds its job.
    fn proof_of(&self, lease: &Lease) -> ClaimProof;

    /// Makes a job wait for the result of an equal one: until that one ends, or for `delay`. It costs no attempt.
    async fn await_equal(
        &self,
        lease: &Lease,
        delay: Duration,
        reason: &str,
        equal: &EqualJobs,
    ) -> Result<WriteResult, BrokerError>;

    /// Wakes the next of this queue's jobs that wait for an equal one.
    async fn wake_equal(&self, equal: &EqualJobs) -> Result<(), BrokerError>;

    /// Makes a job a dead letter.
    async fn fail(
        &self,
        lease: &Lease,
        reason: &str,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError>;

    /// Puts jobs back where they were, next in line, as if they had not been claimed. Returns how many were still ours.
    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError>;

    /// Marks a previously lost job that runs alone. If this delivery is lost too, it counts towards `max_lost`.
    async fn mark_started(&self, lease: &Lease) -> Result<WriteResult, BrokerError>;

    /// Reports progress in percent, and a failed attempt.
    async fn progress(
        &self,
        lease: &Lease,
        percent: u8,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError>;

    /// Gives up this replica's lease, and puts back whatever it still holds.
    async fn remove_replica(&self) -> Result<(), BrokerError>;

    /// Adds a job; `false` when its id is known already.
    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError>;

    /// The keys that hold the jobs which a claim may take.
    fn waiting_lines(&self) -> Vec<WaitingLine>;

    /// Counts the jobs in each state.
    async fn counts(&self) -> Result<QueueCounts, BrokerError>;

    /// How old the job is that is next in line, by Redis's clock; zero where nothing waits, or its age is not known.
    async fn oldest_waiting(&self) -> Result<Duration, BrokerError>;

    /// The job's owner, hashed; `None` where the queue is not shared fairly.
    fn owner(&self, delivery: &Delivery) -> Option<u64>;

    /// Position of a waiting job in the order of claims; without an id, only the number of waiting jobs.
    async fn line_position(&self, id: &str) -> Result<LinePosition, BrokerError>;

    /// Looks up a job.
    async fn find(&self, id: &str) -> Result<Option<JobSnapshot>, BrokerError>;

    /// Reads the type of a job from its payload, where [`find`](Self::find) returns none. The payload may be large.
    async fn kind(&self, _id: &str) -> Result<Option<String>, BrokerError> {
        Ok(None)
    }

    /// The watchers of this queue's jobs.
    fn watchers(&self) -> &JobWatchers;

    /// Reports changes of watched jobs to the [`JobWatchers`], and returns only with an error. A later call with the
    /// same `position` resumes where this call stopped.
    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError>;

    /// Lists a page of the jobs in one state, newest first. Looks at a bounded number of ids, so that a page may be
    /// short, or empty, while more follow it.
    async fn list(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError>;

    /// Puts dead letters back into the queue, and says for each id what became of it. One round trip for each chunk.
    /// The same order, sent again, retries nothing twice.
    async fn retry(&self, ids: &[&str], order: &RetryOrder<'_>) -> Result<Vec<RetryResult>, BrokerError>;

    /// Removes a job that is not active, with all that is kept of it.
    async fn remove(&self, id: &str) -> Result<RemovalResult, BrokerError>;

    /// Stops or resumes handing out jobs, for every replica.
    async fn set_paused(&self, paused: bool) -> Result<(), BrokerError>;
}

/// The name of a field of a payload: 1 to 64 letters, digits, `_`, `-` and `.`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PayloadField {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl PayloadField {
    const LONGEST: usize = 64;

    /// The name, unless it holds anything else.
    pub fn new(name: &str) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
        let fits = !name.is_empty() && name.len() <= Self::LONGEST && name.as_bytes().iter().all(plain);
        let mut bytes = [0; Self::LONGEST];
        fits.then(|| {
            for (place, byte) in bytes.iter_mut().zip(name.as_bytes()) {
                *place = *byte;
            }
            Self {
                bytes,
                length: name.len(),
            }
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default() // ASCII, as `new` has seen.
    }
}

impl fmt::Debug for PayloadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// How queues are kept, whatever their layout.
#[derive(Debug, Clone, Copy)]
pub struct BrokerOptions {
    /// How long a replica may be silent before its jobs are given to others.
    pub lease_ttl: Duration,
    /// Deliveries that ended without an outcome while the job ran, after which it fails as poison; four times as many
    /// when it never did.
    pub max_lost: u32,
    /// How long completed jobs are kept, where their producer says nothing.
    pub keep_completed_for: Duration,
    /// How many completed jobs are kept, where their producer says nothing.
    pub keep_completed_count: u64,
    /// The field of a job's payload that names its owner: within a priority, owners take turns. `None`: first come,
    /// first served.
    pub fairness: Option<PayloadField>,
    /// Jobs that one owner may have in flight, over the fleet; `None`: any number.
    pub most_per_owner: Option<NonZeroU32>,
    /// True if claims leave out payloads that do not fit their answer, for the job to read when there is room for them.
    pub leave_out_large: bool,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15),
            max_lost: 3,
            keep_completed_for: Duration::from_secs(24 * 3600),
            keep_completed_count: 10_000,
            fairness: PayloadField::new("userId"),
            most_per_owner: None,
            leave_out_large: false,
        }
    }
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
    /// Returns true if Redis itself answered with an error that will not go away by asking again: a key of a wrong
    /// type, say, rather than a time-out, a restart, a replica in read-only mode or a full memory.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => RedisErrorClass::of(error) == RedisErrorClass::Impossible,
            Self::Unleased => false,
            Self::Id(_) | Self::Job(_) => true,
        }
    }
}
