//! The BullMQ v5 layout, consumed with scripts of our own (`*.lua`, one operation a file; the keys are in
//! [`crate::keys`]). Node's `Queue`, `Job` and `QueueEvents` write and read it unchanged, and Node workers may serve
//! the same queue.
//!
//! # Tour
//! A job waits in `wait`, `paused` or `prioritized` (or in `delayed`, until its time), is claimed into `active`, and
//! ends in `completed` or `failed`, or is removed. A producer that adds a job sets the marker, which `wait` blocks on.
//!
//! Each claimed job has a lock that holds the claim's token, `<worker>:<number>`, and runs out unless it is renewed;
//! then any other replica puts the job back, unless the cause was an outage of Redis (`../witness.lua`). The claim
//! also leaves a mark in the job's hash, made of the token and of the count of all workers' claims. The mark
//! distinguishes a resend from a late outcome, and finds the jobs of a claim whose answer was lost. It also shows
//! whether another worker has claimed the job since: if not, a lock that ran out during an outage can be set again.
//!
//! # Not as Node does it
//! A script completes, and claims, many jobs at once. Job schedulers are not served: only a BullMQ worker could create
//! their next run, so their jobs fail and say so. Metrics are not kept.

mod admin;
mod claim;
mod completions;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inspect;
mod local_lease;
mod options;
mod place_assigner;
mod producer_versions;
pub(super) mod scripts;
mod sweep;
mod wait;

use std::{
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use self::{local_lease::LocalLease, producer_versions::ProducerVersions, wait::BullmqWaiter};
use super::{
    Broker, BrokerError, BrokerOptions, ClaimNumber, ClaimProof, Completion, CompletionResults, Delivery,
    EqualJobs, HistoryNote, INLINE_BYTES, JobPage, JobSnapshot, JobWatchers, Layout, Lease, LinePosition,
    ListQuery, NewJob, Postponement, QueueCounts, RemovalResult, RetryOrder, RetryResult, SweepResult,
    WriteResult, fair::PlacingProgress, line, millis,
};
use crate::{
    connection::Connection,
    keys::{BullKeys, WaitingLine, ledger_key},
    script::{Script, ScriptCall},
};

/// Locks that one script renews at most. A script blocks Redis for all clients, so each chunk is sized to take at most
/// 5 ms (`cargo bench --bench depth` measures it).
const RENEWALS: usize = 100;
/// Ids that a resume or a pause moves with one script, where it has to.
const LINE_CHUNK: usize = 1000;
/// Jobs that one script gives back at most.
const MOVE_CHUNK: usize = 32;
/// How long a large payload lies ready for the job that it is to become.
const APART_MS: i64 = 60_000;
/// Longest delay: its time still fits the score of a delayed job.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// One queue in the BullMQ layout, seen by one replica.
#[derive(Debug)]
pub struct BullmqBroker {
    connection: Connection,
    queue: String,
    worker: String,
    keys: BullKeys,
    options: BrokerOptions,
    waiter: BullmqWaiter,
    neighbours: ProducerVersions,
    renewal: Mutex<LocalLease>,
    /// Where the sweep for jobs without a lock goes on.
    swept: AtomicUsize,
    watchers: JobWatchers,
    placing: PlacingProgress,
}

impl BullmqBroker {
    /// A broker for `queue` under the worker name `worker`, which no other replica must bear.
    pub fn new(connection: Connection, queue: &str, worker: &str, options: BrokerOptions) -> Self {
        let keys = BullKeys::new(queue);
        Self {
            waiter: BullmqWaiter::new(connection.clone(), &keys),
            keys,
            connection,
            queue: queue.to_owned(),
            worker: worker.to_owned(),
            options,
            neighbours: ProducerVersions::default(),
            renewal: Mutex::default(),
            swept: AtomicUsize::new(0),
            watchers: JobWatchers::default(),
            placing: PlacingProgress::default(),
        }
    }

    fn prepare<'a>(&self, script: &'a Script) -> ScriptCall<'a> {
        let mut call = script.prepare_invoke();
        call.key(&self.keys.prefix);
        call
    }

    /// A field of a job's that was too large for a script's answer.
    async fn field(&self, id: &[u8], name: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget([self.keys.prefix.as_bytes(), id].concat(), name);
        let (value,) = self.connection.for_large()?.query(&pipeline).await?;
        Ok(value)
    }

    async fn delay(
        &self,
        lease: &Lease,
        later: &Postponement<'_>,
        adds_up: bool,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::RETRY_AT);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(millis(later.delay.min(LONGEST_DELAY)));
        call.arg(u8::from(later.counts))
            .arg(later.reason)
            .arg(line(later.note)?)
            .arg(later.gate.unwrap_or_default())
            .arg(u8::from(adds_up));
        self.settle(&call).await
    }

    async fn settle(&self, call: &ScriptCall<'_>) -> Result<WriteResult, BrokerError> {
        let applied: bool = self.connection.invoke(call).await?;
        Ok(if applied {
            WriteResult::Applied
        } else {
            WriteResult::Lost
        })
    }

    fn renewal(&self) -> MutexGuard<'_, LocalLease> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for BullmqBroker {
    fn queue(&self) -> &str {
        &self.queue
    }

    fn layout(&self) -> Layout {
        Layout::Bullmq
    }

    fn ledger_key(&self, id: &str) -> String {
        ledger_key(&format!("{}{id}", self.keys.prefix))
    }

    async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        self.waiter.wait(limit).await
    }

    async fn claim(&self, number: ClaimNumber, count: usize) -> Result<Vec<Delivery>, BrokerError> {
        self.claim_jobs(number, count).await
    }

    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError> {
        let sent = Instant::now();
        let mut lost = Vec::new();
        let mut chunks = held.chunks(RENEWALS);
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let mut call = self.prepare(&scripts::RENEW);
            call.arg(millis(self.options.lease_ttl));
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            let (claimed, positions, version, schedulers): (usize, Vec<usize>, Vec<u8>, u64) =
                self.connection.invoke(&call).await?;
            lost.extend(positions.into_iter().filter_map(|i| chunk.get(i).cloned()));
            if chunks.len() == 0 {
                self.neighbours
                    .record(&self.queue, &String::from_utf8_lossy(&version), schedulers);
                self.renewal().renew(sent, self.options.lease_ttl);
                if claimed > held.len() - lost.len() {
                    self.put_back_strays(held).await?;
                }
                return Ok(lost);
            }
        }
    }

    async fn recover(&self) -> Result<SweepResult, BrokerError> {
        self.sweep().await
    }

    async fn complete_all(&self, completions: &[Completion], next: Option<ClaimNumber>) -> CompletionResults {
        self.complete_jobs(completions, next).await
    }

    async fn retry_at(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError> {
        self.delay(lease, &later, true).await
    }

    async fn put_off(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError> {
        self.delay(lease, &later, false).await
    }

    fn proof_of(&self, lease: &Lease) -> ClaimProof {
        ClaimProof {
            claim: format!("{}{}:lock", self.keys.prefix, lease.id),
            token: lease.token.clone(),
            leases: String::new(),
            worker: self.worker.clone(),
        }
    }

    async fn await_equal(
        &self,
        lease: &Lease,
        delay: Duration,
        reason: &str,
        equal: &EqualJobs,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::AWAIT);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(millis(delay))
            .arg(reason)
            .arg(&*equal.prefix);
        self.settle(&call).await
    }

    async fn wake_equal(&self, equal: &EqualJobs) -> Result<(), BrokerError> {
        let mut call = self.prepare(&scripts::WAKE);
        call.arg(&*equal.prefix);
        Ok(self.connection.invoke(&call).await?)
    }

    async fn fail(
        &self,
        lease: &Lease,
        reason: &str,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::FAIL);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(reason)
            .arg(line(note)?);
        self.settle(&call).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError> {
        let mut released = 0;
        // The last first: what was claimed first is next in line in the end.
        let mut left = leases;
        while !left.is_empty() {
            let (rest, chunk) = left.split_at(left.len().saturating_sub(MOVE_CHUNK));
            let mut call = self.prepare(&scripts::RELEASE);
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            let (ours, undone): (usize, usize) = self.connection.invoke(&call).await?;
            released += ours;
            // Each call does one at least.
            left = &left[..rest.len() + undone.min(chunk.len() - 1)];
        }
        Ok(released)
    }

    async fn mark_started(&self, lease: &Lease) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::BEGIN);
        call.arg(&*lease.id).arg(&*lease.token);
        self.settle(&call).await
    }

    async fn progress(
        &self,
        lease: &Lease,
        percent: u8,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::PROGRESS);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(percent)
            .arg(line(note)?);
        self.settle(&call).await
    }

    async fn remove_replica(&self) -> Result<(), BrokerError> {
        *self.renewal() = LocalLease::default();
        self.put_back_all().await
    }

    async fn payload_size(&self, id: &str) -> Result<u64, BrokerError> {
        let mut pipeline = redis::pipe();
        let key = [self.keys.prefix.as_bytes(), id.as_bytes()].concat();
        pipeline.cmd("HSTRLEN").arg(key).arg("data");
        let (size,) = self.connection.query(&pipeline).await?;
        Ok(size)
    }

    async fn payload(&self, id: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget([self.keys.prefix.as_bytes(), id.as_bytes()].concat(), "data");
        let (payload,) = self.connection.for_large()?.query(&pipeline).await?;
        Ok(payload)
    }

    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError> {
        if !BullKeys::is_job_id(job.id) {
            return Err(BrokerError::Id(job.id.to_owned()));
        }
        let options = serde_json::json!({
            "attempts": job.max_attempts,
            "backoff": {"type": "exponential", "delay": 2000, "jitter": 0.25},
            "delay": millis(job.delay.min(LONGEST_DELAY)),
        });
        let (mut payload, apart) = (job.payload.get(), self.keys.apart(job.id));
        if payload.len() > INLINE_BYTES {
            let mut pipeline = redis::pipe();
            pipeline.hset(&apart, "data", payload).ignore();
            pipeline.pexpire(&apart, APART_MS).ignore();
            self.connection.for_large()?.query::<()>(&pipeline).await?;
            payload = "";
        }
        let mut call = self.prepare(&scripts::ENQUEUE);
        call.arg(job.id).arg(job.kind.as_str()).arg(payload);
        call.arg(options.to_string()).arg(apart);
        Ok(self.connection.invoke(&call).await?)
    }

    fn waiting_lines(&self) -> Vec<WaitingLine> {
        let [wait, _paused, prioritized] = &self.keys.waiting;
        [(wait, "LLEN"), (prioritized, "ZCARD")]
            .map(|(key, counted_by)| WaitingLine {
                key: key.clone(),
                counted_by,
            })
            .to_vec()
    }

    async fn counts(&self) -> Result<QueueCounts, BrokerError> {
        self.count_jobs().await
    }

    async fn oldest_waiting(&self) -> Result<Duration, BrokerError> {
        self.age_of_next().await
    }

    fn owner(&self, delivery: &Delivery) -> Option<u64> {
        self.owner_of(delivery.payload.as_deref()?)
    }

    async fn line_position(&self, id: &str) -> Result<LinePosition, BrokerError> {
        self.standing_of(id).await
    }

    async fn find(&self, id: &str) -> Result<Option<JobSnapshot>, BrokerError> {
        self.find_job(id).await
    }

    fn watchers(&self) -> &JobWatchers {
        &self.watchers
    }

    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError> {
        self.follow_events(position).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError> {
        self.list_jobs(query).await
    }

    async fn retry(&self, ids: &[&str], order: &RetryOrder<'_>) -> Result<Vec<RetryResult>, BrokerError> {
        self.retry_jobs(ids, order).await
    }

    async fn remove(&self, id: &str) -> Result<RemovalResult, BrokerError> {
        self.remove_job(id).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), BrokerError> {
        let mut call = self.prepare(&scripts::PAUSE);
        call.arg(if paused { "paused" } else { "resumed" })
            .arg(LINE_CHUNK);
        while !self.connection.invoke::<bool>(&call).await? {}
        Ok(())
    }
}
