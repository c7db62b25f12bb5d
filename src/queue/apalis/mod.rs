//! The apalis-redis layout, consumed with scripts of our own (`*.lua`, one operation a file; the keys are in
//! [`crate::keys`]).
//!
//! # Tour
//! A job waits in `active` (or `scheduled`, until its time), is claimed into `inflight:<worker>`, and ends in `done`
//! or `dead`. `apalis_redis` producers push into `scheduled` with a time of now; nothing announces that push, so
//! `wait` lets Redis tell us of the change (client tracking) instead of polling for it.
//!
//! A replica holds one lease a queue (`leases`, 15 s, renewed every 5 s). When it runs out and Redis was there all
//! the time (`../lease_continuity.lua`), any other replica puts back what the dead one held. Each claim carries a token,
//! `<worker>:<number>`; a job's meta names the token that may write to it, so a replica that wakes up late writes
//! nothing.

mod admin;
mod claim;
mod enqueue;
mod events;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/apalis_job.rs"]
pub(crate) mod fuzz;
mod inspect;
mod leases;
mod outcomes;
mod place_assigner;
pub(super) mod scripts;
mod wait;

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::wait::ApalisWaiter;
use super::{
    BrokerError, BrokerOptions, JobWatchers, Layout, PartialResultStore, PartialResults, QueueIdentity,
    fair::PlacingProgress,
};
use crate::{
    connection::Connection,
    keys::{ApalisKeys, ledger_key},
};

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
    parts: PartialResults,
    placing: PlacingProgress,
    has_claims_of_others: AtomicBool,
}

impl ApalisBroker {
    /// A broker for `queue` under the worker name `worker`, which no other replica must bear.
    pub fn new(connection: Connection, queue: &str, worker: &str, options: BrokerOptions) -> Self {
        let base = connection.namespace().of_queue(queue);
        let keys = ApalisKeys::new(&base);
        Self {
            parts: PartialResults::new(connection.clone(), &format!("{base}:")),
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
            has_claims_of_others: AtomicBool::new(true),
        }
    }
}

impl QueueIdentity for ApalisBroker {
    fn queue(&self) -> &str {
        &self.queue
    }

    fn layout(&self) -> Layout {
        Layout::Apalis
    }

    fn ledger_key(&self, id: &str) -> String {
        ledger_key(&self.keys.meta(id))
    }
}

impl PartialResultStore for ApalisBroker {
    fn partial_results(&self) -> &PartialResults {
        &self.parts
    }
}

/// The failed result as `apalis_redis` reads it: `Result<_, String>`.
fn err_result(reason: &str) -> Result<String, BrokerError> {
    Ok(serde_json::to_string(&Err::<(), _>(reason))?)
}
