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
mod enqueue;
mod events;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/bullmq_job.rs"]
pub(crate) mod fuzz;
mod inspect;
mod leases;
mod local_lease;
mod options;
mod outcomes;
mod place_assigner;
mod producer_versions;
pub(super) mod scripts;
mod wait;

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use redis::ScriptInvocation;

use self::{local_lease::LocalLease, producer_versions::ProducerVersions, wait::BullmqWaiter};
use super::{
    BrokerError, BrokerOptions, JobWatchers, Layout, PartialResultStore, PartialResults, QueueIdentity,
    WriteResult, fair::PlacingProgress,
};
use crate::{
    connection::Connection,
    keys::{BullKeys, ledger_key},
    locks::locked,
};

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
    has_claims_of_others: AtomicBool,
    watchers: JobWatchers,
    parts: PartialResults,
    placing: PlacingProgress,
}

impl BullmqBroker {
    /// A broker for `queue` under the worker name `worker`, which no other replica must bear.
    pub fn new(connection: Connection, queue: &str, worker: &str, options: BrokerOptions) -> Self {
        let keys = BullKeys::new(queue);
        let client = client_name(BullKeys::DEFAULT_PREFIX, queue, worker);
        Self {
            parts: PartialResults::new(connection.clone(), &format!("{}bw:", keys.prefix)),
            waiter: BullmqWaiter::new(connection.clone(), &keys, client),
            keys,
            connection,
            queue: queue.to_owned(),
            worker: worker.to_owned(),
            options,
            neighbours: ProducerVersions::default(),
            renewal: Mutex::default(),
            swept: AtomicUsize::new(0),
            has_claims_of_others: AtomicBool::new(true),
            watchers: JobWatchers::default(),
            placing: PlacingProgress::default(),
        }
    }

    /// The same queue under another prefix than BullMQ's own.
    #[must_use]
    pub fn under_prefix(self, prefix: &str) -> Self {
        let keys = BullKeys::under(prefix, &self.queue);
        let client = client_name(prefix, &self.queue, &self.worker);
        Self {
            parts: PartialResults::new(self.connection.clone(), &format!("{}bw:", keys.prefix)),
            waiter: BullmqWaiter::new(self.connection.clone(), &keys, client),
            keys,
            ..self
        }
    }

    fn prepare<'a>(&self, script: &'a redis::Script) -> ScriptInvocation<'a> {
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

    async fn settle(&self, call: &ScriptInvocation<'_>) -> Result<WriteResult, BrokerError> {
        Ok(WriteResult::of(self.connection.invoke(call).await?))
    }

    fn renewal(&self) -> MutexGuard<'_, LocalLease> {
        locked(&self.renewal)
    }
}

/// The name under which BullMQ's `getWorkers` finds a worker among Redis's clients.
fn client_name(prefix: &str, queue: &str, worker: &str) -> String {
    format!("{prefix}:{}:w:{worker}", BASE64_STANDARD.encode(queue))
}

impl QueueIdentity for BullmqBroker {
    fn queue(&self) -> &str {
        &self.queue
    }

    fn layout(&self) -> Layout {
        Layout::Bullmq
    }

    fn ledger_key(&self, id: &str) -> String {
        ledger_key(&format!("{}{id}", self.keys.prefix))
    }
}

impl PartialResultStore for BullmqBroker {
    fn partial_results(&self) -> &PartialResults {
        &self.parts
    }
}
