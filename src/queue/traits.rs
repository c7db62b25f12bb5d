//! The interface to a queue in Redis, which both layouts (apalis and BullMQ) implement: one trait for each concern.
//!
//! | trait | used by |
//! |---|---|
//! | [`JobClaimer`], [`LeaseHolder`], [`OutcomeWriter`] | the worker, as [`WorkerQueue`] |
//! | [`QueueAdmin`], [`JobProducer`], [`JobEventSource`] | operator, HTTP and command line, as [`OperatorQueue`] |
//! | [`QueueInspector`], [`PartialResultStore`] | both |
//!
//! [`Broker`] is all of them: `replica` builds one for each queue, and gives each caller only its side. So the HTTP
//! side cannot claim a job, and the worker cannot remove one.
//!
//! Every operation is one round trip unless it says otherwise, has a deadline, and may be sent again.

use std::{convert::Infallible, fmt, time::Duration};

use async_trait::async_trait;

use super::{
    BrokerError, ClaimNumber, ClaimProof, Completion, CompletionResults, Delivery, EqualJobs, HistoryNote,
    JobPage, JobSnapshot, JobWatchers, Layout, Lease, LinePosition, ListQuery, NewJob, PartialResults,
    Postponement, QueueCounts, RemovalResult, RetryOrder, RetryResult, SweepResult, WriteResult,
};
use crate::keys::WaitingLine;

/// A queue in Redis, and its names.
pub trait QueueIdentity: Send + Sync + fmt::Debug {
    /// The queue's name.
    fn queue(&self) -> &str;

    /// How it is laid out.
    fn layout(&self) -> Layout;

    /// The key of a job's page in the [ledger](crate::spend_ledger).
    fn ledger_key(&self, id: &str) -> String;
}

/// Takes jobs from a queue.
#[async_trait]
pub trait JobClaimer: QueueIdentity {
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

    /// The job's owner, hashed; `None` where the queue is not shared fairly.
    fn owner(&self, delivery: &Delivery) -> Option<u64>;
}

/// Holds on to this replica's claimed jobs, and returns jobs to the queue.
#[async_trait]
pub trait LeaseHolder: QueueIdentity {
    /// Renews this replica's lease on the queue, and returns those of `held` that it has lost. What the queue counts
    /// as this replica's while it is not among `held` goes back, unless it was claimed a moment ago.
    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError>;

    /// Returns true if the last renewal saw what a dead replica may have left. Otherwise a sweep would find nothing.
    fn has_claims_of_others(&self) -> bool;

    /// Puts back a chunk of what dead replicas held.
    async fn recover(&self) -> Result<SweepResult, BrokerError>;

    /// Puts jobs back where they were, next in line, as if they had not been claimed. Returns how many were still ours.
    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError>;

    /// Marks a previously lost job that runs alone. If this delivery is lost too, it counts towards `max_lost`.
    async fn mark_started(&self, lease: &Lease) -> Result<WriteResult, BrokerError>;

    /// Gives up this replica's lease, and puts back whatever it still holds.
    async fn remove_replica(&self) -> Result<(), BrokerError>;
}

/// Writes the outcomes of claimed jobs, and what happens to a job before its outcome.
#[async_trait]
pub trait OutcomeWriter: QueueIdentity {
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

    /// Makes a job a dead letter.
    async fn fail(
        &self,
        lease: &Lease,
        reason: &str,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError>;

    /// Reports progress in percent, and a failed attempt.
    async fn progress(
        &self,
        lease: &Lease,
        percent: u8,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError>;

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
}

/// Adds jobs to a queue.
#[async_trait]
pub trait JobProducer: QueueIdentity {
    /// Adds a job; `false` when its id is known already.
    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError>;
}

/// Reads a queue and its jobs, and changes nothing.
#[async_trait]
pub trait QueueInspector: QueueIdentity {
    /// The keys that hold the jobs which a claim may take.
    fn waiting_lines(&self) -> Vec<WaitingLine>;

    /// Counts the jobs in each state.
    async fn counts(&self) -> Result<QueueCounts, BrokerError>;

    /// How old the job is that is next in line, by Redis's clock; zero where nothing waits, or its age is not known.
    async fn oldest_waiting(&self) -> Result<Duration, BrokerError>;

    /// Position of a waiting job in the order of claims; without an id, only the number of waiting jobs.
    async fn line_position(&self, id: &str) -> Result<LinePosition, BrokerError>;

    /// Looks up a job.
    async fn find(&self, id: &str) -> Result<Option<JobSnapshot>, BrokerError>;

    /// Reads the type of a job from its payload, where [`find`](Self::find) returns none. The payload may be large.
    async fn kind(&self, _id: &str) -> Result<Option<String>, BrokerError> {
        Ok(None)
    }

    /// Lists a page of the jobs in one state, newest first. Looks at a bounded number of ids, so that a page may be
    /// short, or empty, while more follow it.
    async fn list(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError>;
}

/// Carries out an operator's orders.
#[async_trait]
pub trait QueueAdmin: QueueIdentity {
    /// Puts dead letters back into the queue, and says for each id what became of it. One round trip for each chunk.
    /// The same order, sent again, retries nothing twice.
    async fn retry(&self, ids: &[&str], order: &RetryOrder<'_>) -> Result<Vec<RetryResult>, BrokerError>;

    /// Removes a job that is not active, with all that is kept of it.
    async fn remove(&self, id: &str) -> Result<RemovalResult, BrokerError>;

    /// Stops or resumes handing out jobs, for every replica.
    async fn set_paused(&self, paused: bool) -> Result<(), BrokerError>;
}

/// Follows the changes of watched jobs.
#[async_trait]
pub trait JobEventSource: QueueInspector {
    /// The watchers of this queue's jobs.
    fn watchers(&self) -> &JobWatchers;

    /// Reports changes of watched jobs to the [`JobWatchers`], and returns only with an error. A later call with the
    /// same `position` resumes where this call stopped.
    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError>;
}

/// Keeps the parts that results have so far: a worker shows them, and clients follow them.
pub trait PartialResultStore: QueueIdentity {
    /// The parts of results that jobs have so far.
    fn partial_results(&self) -> &PartialResults;
}

/// The side of a queue that a worker needs: it claims jobs, holds them and writes their outcomes.
pub trait WorkerQueue:
    JobClaimer + LeaseHolder + OutcomeWriter + PartialResultStore + QueueInspector
{
}

impl<Q: JobClaimer + LeaseHolder + OutcomeWriter + PartialResultStore + QueueInspector> WorkerQueue for Q {}

/// The side of a queue that operators and producers need: it adds, shows, follows, retries and removes jobs.
pub trait OperatorQueue:
    JobProducer + QueueInspector + QueueAdmin + JobEventSource + PartialResultStore
{
}

impl<Q: JobProducer + QueueInspector + QueueAdmin + JobEventSource + PartialResultStore> OperatorQueue for Q {}

/// One queue in Redis, seen by one replica: both sides.
pub trait Broker: WorkerQueue + OperatorQueue {}

impl<Q: WorkerQueue + OperatorQueue> Broker for Q {}
