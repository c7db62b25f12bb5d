//! How long the jobs of a killed replica wait until another claims them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::Script;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::field::{Field, QUEUE};

/// What a worker holds: hash of the job, field of the claim, its value. KEYS 1 queue, ARGV 1 worker.
const HELD: &str = r"
local held, bull, q, worker = {}, 'bull:' .. KEYS[1] .. ':', KEYS[1], ARGV[1]
for _, id in ipairs(redis.call('LRANGE', bull .. 'active', 0, -1)) do
  local token = redis.call('GET', bull .. id .. ':lock')
  if token and string.sub(token, 1, #worker + 1) == worker .. ':' then
    held[#held + 1] = { bull .. id, 'bw:claim', redis.call('HGET', bull .. id, 'bw:claim'), 'finishedOn' }
  end
end
for _, id in ipairs(redis.call('SMEMBERS', q .. ':inflight:' .. worker)) do
  held[#held + 1] = { q .. ':meta:' .. id, 'claim', redis.call('HGET', q .. ':meta:' .. id, 'claim'), 'done_at' }
end
return held";

/// A job that a killed replica held.
struct Orphan {
    since: Instant,
    hash: String,
    field: String,
    claim: String,
    ended: String,
}

/// Watches over the jobs of killed replicas.
#[derive(Default)]
pub(crate) struct Recovery {
    orphans: Mutex<Vec<Orphan>>,
    waits: Mutex<Vec<Duration>>,
}

impl Recovery {
    /// Takes down what a replica held that was killed then.
    pub(crate) async fn bereave(&self, field: &Field, worker: &str, since: Instant, at: f64) {
        let held: Vec<(String, String, Option<String>, String)> = field
            .connection
            .invoke(Script::new(HELD).prepare_invoke().key(QUEUE).arg(worker))
            .await
            .unwrap();
        let ids = held.iter().map(|(hash, ..)| {
            let (_, id) = hash.rsplit_once(':').expect("a job's hash is named after it");
            (id.to_owned(), at)
        });
        field.record().bereaved.get_or_insert_default().extend(ids);
        let orphans = held.into_iter().map(|(hash, field, claim, ended)| Orphan {
            since,
            hash,
            field,
            claim: claim.unwrap_or_default(),
            ended,
        });
        lock(&self.orphans).extend(orphans);
    }

    /// Looks after the orphans until `stop`, and until each has been claimed.
    pub(crate) async fn watch(&self, field: &Field, stop: &CancellationToken) {
        while !stop.is_cancelled() || !lock(&self.orphans).is_empty() {
            sleep(Duration::from_millis(50)).await;
            let orphans = std::mem::take(&mut *lock(&self.orphans));
            let mut look = redis::pipe();
            for orphan in &orphans {
                look.cmd("HMGET")
                    .arg(&orphan.hash)
                    .arg(&orphan.field)
                    .arg(&orphan.ended);
            }
            if orphans.is_empty() {
                continue;
            }
            let found: Vec<(Option<String>, Option<String>)> = field.connection.query(&look).await.unwrap();
            let mut left = Vec::new();
            for (orphan, (claim, ended)) in orphans.into_iter().zip(found) {
                let claim = claim.unwrap_or_default();
                if !claim.is_empty() && claim != orphan.claim {
                    lock(&self.waits).push(orphan.since.elapsed());
                } else if ended.is_none() {
                    left.push(orphan);
                }
                // Else its last word arrived after it had died: the job is done.
            }
            lock(&self.orphans).extend(left);
        }
    }

    /// The waits, ascending.
    pub(crate) fn waits(&self) -> Vec<Duration> {
        let mut waits = lock(&self.waits).clone();
        waits.sort();
        waits
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
