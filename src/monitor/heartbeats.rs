//! Heartbeats list the replicas of the fleet and the jobs that they run.
//!
//! Each replica writes its heartbeat every few seconds, into one hash for all queues and layouts. A killed replica
//! stays in the hash for a while, with the jobs that it held, so that an operator sees which replica is missing.
//!
//! The other keys cannot show this. A lease in the apalis layout names a worker of one queue; a lock in the BullMQ
//! layout names a claim, not a replica. The gate's list of replicas divides limits, and exists only with the gates
//! switched on.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use redis::RedisError;
use serde::{Deserialize, Serialize};

use crate::{
    connection::Connection,
    keys::{FLEET_REPLICAS, FLEET_SEEN},
    script::Script,
    time_format::millis,
    worker::QueueWorker,
};

static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("heartbeat.lua")));

/// A replica that has not been heard of for so long is forgotten.
const KEEP: Duration = Duration::from_secs(300);
/// Jobs in flight that a replica names, in each queue.
const MOST_JOBS: usize = 20;
/// An id of more bytes is not named.
const LONGEST_ID: usize = 200;
/// Replicas that are read.
const MOST_REPLICAS: isize = 500;

/// A replica, as it last said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaHeartbeat {
    /// Its name.
    pub name: String,
    /// When that was, ms since 1970 by Redis's clock.
    pub seen: u64,
    /// Its work.
    pub work: ReplicaWork,
}

/// The work of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaWork {
    /// Its version.
    pub version: String,
    /// For how long it has run, ms.
    pub uptime_ms: u64,
    /// Its queues.
    pub queues: Vec<QueueWork>,
}

/// The work of a replica in one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueWork {
    /// The queue's name.
    pub queue: String,
    /// How it is laid out.
    pub layout: String,
    /// How many jobs it may have in flight.
    pub slots: usize,
    /// How many it has.
    pub in_flight: usize,
    /// Jobs that have completed here since the replica started.
    pub succeeded: u64,
    /// Dead letters since then.
    pub failed: u64,
    /// The jobs in flight, those that have run for the longest.
    pub jobs: Vec<JobInFlight>,
}

/// A job in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobInFlight {
    /// Its id.
    pub id: String,
    /// Its type, once it is known.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// For how long it has run, ms.
    pub age_ms: u64,
}

impl ReplicaWork {
    fn here(started: Instant, workers: &[Arc<QueueWorker>]) -> Self {
        let queues = workers.iter().map(|worker| {
            let tally = worker.health().outcome_totals();
            let jobs = worker.slots().longest(MOST_JOBS).into_iter();
            QueueWork {
                queue: worker.broker().queue().to_owned(),
                layout: worker.broker().layout().as_str().to_owned(),
                slots: worker.slots().capacity(),
                in_flight: worker.slots().len(),
                succeeded: tally.succeeded,
                failed: tally.failed,
                jobs: jobs
                    .filter(|job| job.id.len() <= LONGEST_ID)
                    .map(|job| JobInFlight {
                        id: job.id.to_string(),
                        kind: job.kind.map(|kind| kind.as_str().to_owned()),
                        age_ms: millis(job.age),
                    })
                    .collect(),
            }
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: millis(started.elapsed()),
            queues: queues.collect(),
        }
    }
}

/// This replica's heartbeat, and the reader of all.
#[derive(Debug)]
pub struct Heartbeats {
    connection: Connection,
    replica: String,
    started: Instant,
}

impl Heartbeats {
    /// The heartbeat of `replica`, whose name no other one bears.
    pub fn new(connection: Connection, replica: &str) -> Self {
        Self {
            connection,
            replica: replica.to_owned(),
            started: Instant::now(),
        }
    }

    /// Tells the fleet what this replica does.
    ///
    /// # Errors
    /// Redis's.
    pub async fn beat(&self, workers: &[Arc<QueueWorker>]) -> Result<(), RedisError> {
        // Numbers and strings: there is nothing in it that JSON could not hold.
        let work = serde_json::to_string(&ReplicaWork::here(self.started, workers)).unwrap_or_default();
        self.say(&work).await
    }

    /// Tells the fleet that this replica leaves.
    ///
    /// # Errors
    /// Redis's; the others see it silent then, and forget it.
    pub async fn leave(&self) -> Result<(), RedisError> {
        self.say("").await
    }

    async fn say(&self, work: &str) -> Result<(), RedisError> {
        let mut call = BEAT.prepare_invoke();
        call.key(self.connection.named(FLEET_SEEN))
            .key(self.connection.named(FLEET_REPLICAS));
        call.arg(&self.replica).arg(work).arg(millis(KEEP));
        self.connection.invoke::<u64>(&call).await.map(drop)
    }

    /// Every replica that is known, by name. What another make has written of itself is left out.
    ///
    /// # Errors
    /// Redis's.
    pub async fn read(&self) -> Result<Vec<ReplicaHeartbeat>, RedisError> {
        let mut pipeline = redis::pipe();
        pipeline.zrange_withscores(self.connection.named(FLEET_SEEN), -MOST_REPLICAS, -1);
        pipeline.hgetall(self.connection.named(FLEET_REPLICAS));
        type Reading = (Vec<(Vec<u8>, f64)>, HashMap<Vec<u8>, Vec<u8>>);
        let (seen, said): Reading = self.connection.query(&pipeline).await?;
        let read = |(name, at): (Vec<u8>, f64)| {
            let work = serde_json::from_slice(said.get(&name)?).ok()?;
            let name = String::from_utf8_lossy(&name).into_owned();
            // A float to u64 saturates.
            let seen = at as u64;
            Some(ReplicaHeartbeat { name, seen, work })
        };
        let mut replicas: Vec<ReplicaHeartbeat> = seen.into_iter().filter_map(read).collect();
        replicas.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(replicas)
    }
}
