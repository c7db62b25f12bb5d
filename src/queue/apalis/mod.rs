//! The apalis-redis layout, consumed with scripts of our own (`*.lua`, one operation a file; the keys are in
//! [`crate::keys`]).
//!
//! # Tour
//! A job waits in `active` (or `scheduled`, until its time), is claimed into `inflight:<worker>`, and ends in `done`
//! or `dead`. `apalis_redis` producers push into `scheduled` with a time of now; nothing announces that push, so
//! `wait` lets Redis tell us of the change (client tracking) instead of polling for it.
//!
//! A replica holds one lease a queue (`leases`, 15 s, renewed every 5 s). When it runs out and Redis was there all
//! the time (`../witness.lua`), any other replica puts back what the dead one held. Each claim carries a token,
//! `<worker>:<number>`; a job's meta names the token that may write to it, so a replica that wakes up late writes
//! nothing.

mod admin;
mod claim;
mod completions;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inspect;
mod lost_claims;
mod place_assigner;
pub(super) mod scripts;
mod wait;

use std::{convert::Infallible, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::wait::ApalisWaiter;
use super::{
    Broker, BrokerError, BrokerOptions, ClaimNumber, ClaimProof, Completion, CompletionResults, Delivery,
    EqualJobs, HistoryNote, INLINE_BYTES, JobPage, JobSnapshot, JobWatchers, Layout, Lease, LinePosition,
    ListQuery, NewJob, Postponement, QueueCounts, RemovalResult, RetryOrder, RetryResult, SweepResult,
    WriteResult, fair::PlacingProgress, line, millis,
};
use crate::{
    connection::Connection,
    keys::{ApalisKeys, WaitingLine, ledger_key},
};

/// Attempts of a job whose producer named none, or nonsense.
const DEFAULT_MAX_ATTEMPTS: u32 = 3;
/// Leases that one script renews at most, because it blocks Redis for all clients.
const RENEWALS: usize = 100;
/// Bytes of payloads after which a claim takes no further job: its answer has to arrive in time.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A completion deletes payloads above this size, bytes: they hold media, which no later reader needs.
const WORTH_KEEPING: usize = 16 * 1024;
/// As [`RENEWALS`], for the scripts that move each job with several commands.
const MOVE_CHUNK: usize = 50;

/// The payload of a job in this layout: its type and its data, as one JSON object.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskEnvelope<'a> {
    /// [`jobs::JobType`], by name.
    #[serde(rename = "type")]
    pub kind: String,
    /// The handler's payload.
    #[serde(borrow)]
    pub data: &'a RawValue,
}

/// One queue in the apalis-redis layout, seen by one replica.
#[derive(Debug)]
pub struct ApalisBroker {
    connection: Connection,
    queue: String,
    worker: String,
    keys: ApalisKeys,
    inflight: String,
    session: String,
    options: BrokerOptions,
    waiter: ApalisWaiter,
    watchers: JobWatchers,
    placing: PlacingProgress,
}

impl ApalisBroker {
    /// A broker for `queue` under the worker name `worker`, which no other replica must bear.
    pub fn new(connection: Connection, queue: &str, worker: &str, options: BrokerOptions) -> Self {
        let keys = ApalisKeys::new(queue);
        Self {
            waiter: ApalisWaiter::new(connection.clone(), &keys),
            inflight: keys.inflight(worker),
            session: keys.session(worker),
            keys,
            connection,
            queue: queue.to_owned(),
            worker: worker.to_owned(),
            options,
            watchers: JobWatchers::default(),
            placing: PlacingProgress::default(),
        }
    }

    async fn delay(
        &self,
        lease: &Lease,
        later: &Postponement<'_>,
        adds_up: bool,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = scripts::RETRY_AT.prepare_invoke();
        call.key(&self.inflight)
            .key(&self.keys.scheduled)
            .key(&self.keys.fair);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix)
            .arg(&self.keys.history_prefix);
        call.arg(millis(later.delay))
            .arg(u8::from(later.counts))
            .arg(later.reason)
            .arg(line(later.note)?)
            .arg(later.gate.unwrap_or_default())
            .arg(u8::from(adds_up));
        Ok(settled(self.connection.invoke(&call).await?))
    }
}

#[async_trait]
impl Broker for ApalisBroker {
    fn queue(&self) -> &str {
        &self.queue
    }

    fn layout(&self) -> Layout {
        Layout::Apalis
    }

    fn ledger_key(&self, id: &str) -> String {
        ledger_key(&self.keys.meta(id))
    }

    async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        self.waiter.wait(limit).await
    }

    async fn claim(&self, number: ClaimNumber, count: usize) -> Result<Vec<Delivery>, BrokerError> {
        self.claim_jobs(number, count).await
    }

    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError> {
        let mut lost = Vec::new();
        let mut chunks = held.chunks(RENEWALS);
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let mut call = scripts::RENEW.prepare_invoke();
            call.key(&self.keys.leases)
                .key(&self.keys.workers)
                .key(&self.inflight)
                .key(&self.keys.witness)
                .key(&self.keys.fair);
            call.arg(&self.worker)
                .arg(millis(self.options.lease_ttl))
                .arg(&self.keys.meta_prefix);
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            let (ours, positions): (usize, Vec<usize>) = self.connection.invoke(&call).await?;
            lost.extend(positions.into_iter().filter_map(|i| chunk.get(i).cloned()));
            if chunks.len() == 0 {
                if ours > held.len() - lost.len() {
                    self.put_back_strays(held).await?;
                }
                return Ok(lost);
            }
        }
    }

    async fn recover(&self) -> Result<SweepResult, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::RECOVER.prepare_invoke();
        call.key(&keys.leases)
            .key(&keys.workers)
            .key(&keys.active)
            .key(&keys.dead)
            .key(&keys.ended_dead)
            .key(&keys.witness);
        call.arg(&keys.inflight_prefix)
            .arg(&keys.meta_prefix)
            .arg(MOVE_CHUNK)
            .arg(self.options.max_lost);
        call.arg(millis(self.options.lease_ttl))
            .arg(&keys.session_prefix)
            .arg(&keys.history_prefix);
        let (requeued, poisoned, more): (u64, u64, bool) = self.connection.invoke(&call).await?;
        Ok(SweepResult {
            requeued,
            poisoned,
            more,
        })
    }

    async fn complete_all(
        &self,
        completions: &[Completion],
        _next: Option<ClaimNumber>,
    ) -> CompletionResults {
        CompletionResults {
            settled: self.complete_jobs(completions).await,
            claimed: None,
        }
    }

    async fn retry_at(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError> {
        self.delay(lease, &later, true).await
    }

    async fn put_off(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError> {
        self.delay(lease, &later, false).await
    }

    fn proof_of(&self, lease: &Lease) -> ClaimProof {
        ClaimProof {
            claim: self.keys.meta(&lease.id),
            token: lease.token.clone(),
            leases: self.keys.leases.clone(),
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
        let keys = &self.keys;
        let mut call = scripts::AWAIT.prepare_invoke();
        call.key(&self.inflight)
            .key(&keys.active)
            .key(&keys.scheduled)
            .key(&keys.data)
            .key(&keys.fair);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&keys.meta_prefix)
            .arg(millis(delay))
            .arg(reason)
            .arg(&*equal.prefix);
        Ok(settled(self.connection.invoke(&call).await?))
    }

    async fn wake_equal(&self, equal: &EqualJobs) -> Result<(), BrokerError> {
        let mut call = scripts::WAKE.prepare_invoke();
        call.key(&self.keys.active).key(&self.keys.scheduled);
        call.arg(&*equal.prefix);
        Ok(self.connection.invoke(&call).await?)
    }

    async fn fail(
        &self,
        lease: &Lease,
        reason: &str,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::FAIL.prepare_invoke();
        call.key(&self.inflight)
            .key(&keys.dead)
            .key(&keys.ended_dead)
            .key(&keys.fair);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&keys.meta_prefix)
            .arg(&keys.history_prefix);
        call.arg(err_result(reason)?).arg(reason).arg(line(note)?);
        Ok(settled(self.connection.invoke(&call).await?))
    }

    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError> {
        let mut released = 0;
        for chunk in leases.chunks(MOVE_CHUNK) {
            let mut call = scripts::RELEASE.prepare_invoke();
            call.key(&self.inflight)
                .key(&self.keys.active)
                .key(&self.keys.data)
                .key(&self.keys.fair)
                .arg(&self.keys.meta_prefix);
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            released += self.connection.invoke::<usize>(&call).await?;
        }
        Ok(released)
    }

    async fn mark_started(&self, lease: &Lease) -> Result<WriteResult, BrokerError> {
        let mut call = scripts::BEGIN.prepare_invoke();
        call.key(&self.inflight)
            .arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix);
        Ok(settled(self.connection.invoke(&call).await?))
    }

    async fn progress(
        &self,
        lease: &Lease,
        percent: u8,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = scripts::PROGRESS.prepare_invoke();
        call.key(&self.inflight);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix)
            .arg(&self.keys.history_prefix);
        call.arg(percent).arg(line(note)?);
        Ok(settled(self.connection.invoke(&call).await?))
    }

    async fn remove_replica(&self) -> Result<(), BrokerError> {
        let mut call = scripts::LEAVE.prepare_invoke();
        call.key(&self.inflight)
            .key(&self.keys.active)
            .key(&self.keys.leases)
            .key(&self.keys.workers)
            .key(&self.session)
            .key(&self.keys.data)
            .key(&self.keys.fair);
        call.arg(&self.worker).arg(&self.keys.meta_prefix).arg(MOVE_CHUNK);
        while self.connection.invoke::<u64>(&call).await? > 0 {}
        Ok(())
    }

    async fn payload_size(&self, id: &str) -> Result<u64, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSTRLEN").arg(&self.keys.data).arg(id);
        let (size,) = self.connection.query(&pipeline).await?;
        Ok(size)
    }

    async fn payload(&self, id: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget(&self.keys.data, id);
        let (payload,) = self.connection.for_large()?.query(&pipeline).await?;
        Ok(payload)
    }

    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError> {
        let envelope = TaskEnvelope {
            kind: job.kind.as_str().to_owned(),
            data: job.payload,
        };
        let mut payload = serde_json::to_vec(&envelope)?;
        if payload.len() > INLINE_BYTES {
            let mut pipeline = redis::pipe();
            pipeline.hset_nx(&self.keys.data, job.id, std::mem::take(&mut payload));
            self.connection
                .for_large()?
                .query::<()>(pipeline.ignore())
                .await?;
        }
        let mut call = scripts::ENQUEUE.prepare_invoke();
        call.key(&self.keys.data)
            .key(&self.keys.active)
            .key(&self.keys.scheduled);
        call.arg(job.id).arg(payload).arg(&self.keys.meta_prefix);
        call.arg(job.max_attempts)
            .arg(millis(job.delay))
            .arg(job.kind.as_str());
        Ok(self.connection.invoke(&call).await?)
    }

    fn waiting_lines(&self) -> Vec<WaitingLine> {
        vec![WaitingLine {
            key: self.keys.active.clone(),
            counted_by: "LLEN",
        }]
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

    async fn kind(&self, id: &str) -> Result<Option<String>, BrokerError> {
        self.read_kind(id).await
    }

    fn watchers(&self) -> &JobWatchers {
        &self.watchers
    }

    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError> {
        self.poll_watched(position).await
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
        let mut pipeline = redis::pipe();
        if paused {
            pipeline.set(&self.keys.paused, 1);
        } else {
            pipeline.del(&self.keys.paused);
        }
        Ok(self.connection.query(pipeline.ignore()).await?)
    }
}

fn settled(applied: bool) -> WriteResult {
    if applied {
        WriteResult::Applied
    } else {
        WriteResult::Lost
    }
}

/// The failed result as `apalis_redis` reads it: `Result<_, String>`.
fn err_result(reason: &str) -> Result<String, BrokerError> {
    Ok(serde_json::to_string(&Err::<(), _>(reason))?)
}
