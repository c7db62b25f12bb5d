//! The same question is paid for once: a job is given the result of an equal one, or waits for it.
//!
//! Jobs are equal when their producer gives them the same key (`opts.idempotencyKey`, in the apalis layout
//! `idempotency_key`), or, with `DEDUPLICATE`, when a digest of their type and payload is the same. Before a job
//! runs, one script ([`join`](Deduplication::join)) decides: a kept result is the job's own; while another of them
//! runs, the job waits for it in its queue, and costs neither slot nor attempt; otherwise it leads.
//!
//! A job leads as long as its claim holds it, which Redis sees from the claim's lock or lease. So a leader that
//! fails, goes back or dies hands over without a word. The script that completes a leader keeps its result and wakes
//! those that wait (`queue/equal_jobs.lua`). A job that was not woken comes by itself, soon after the leader's claim would
//! have run out.
//!
//! # Layout
//! - `digest`: the digest of a payload. `equals`: the keys of equal jobs, and their results.
//! - `join.lua`, `count.lua`, and `queue/equal_jobs.lua` in front of all scripts about equal jobs.

mod digest;
mod equals;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use jobs::{JobType, apart};
use redis::RedisError;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tracing::{info, warn};

use self::equals::{by_key, leads, mark_reused, usable, waits};
use crate::{
    connection::Connection,
    deadline::answered_within,
    keys::{equal_jobs_prefix, equal_jobs_result},
    queue::{Answered, Delivery, EqualJobs, Layout, OutcomeWriter},
    redis_error::RedisErrorClass,
    script::Script,
    spending::Usd,
    telemetry::metrics::{PROCESS, labels::CellIndex},
};

static JOIN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{}{}{}",
        include_str!("common.lua"),
        include_str!("../queue/equal_jobs.lua"),
        include_str!("join.lua")
    ))
});
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{}{}{}",
        include_str!("../spending/books.lua"),
        include_str!("../spending/sums.lua"),
        include_str!("count.lua")
    ))
});

/// The scripts, as `equal jobs <operation>`, each with the SHA that identifies it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    [("join", &JOIN), ("count", &COUNT)]
        .map(|(name, script)| (format!("equal jobs {name}"), script.get_hash().to_owned()))
        .into()
}

/// How long an answer about equal jobs may take, and when Redis is asked again without one. After that the job runs
/// by itself.
const DEADLINE: Duration = Duration::from_millis(500);
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];
/// How long a result is kept under a producer's key: what the web API counts on.
const KEEP_FOR_PRODUCERS: Duration = Duration::from_hours(24);
/// How long a leader is remembered, which is longer than any job runs.
const LEADER_MS: u64 = 4 * 3600 * 1000;
/// Bounds of the time after which a waiting job comes by itself.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Which jobs without a producer's key are equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deduplicate {
    /// None.
    #[default]
    Off,
    /// Those of one student with the same type and payload.
    User,
    /// Those of any students with the same type, and the same payload apart from the student.
    Shared,
}

/// The rules by which jobs are equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeduplicationSettings {
    /// Which jobs without a producer's key are equal.
    pub mode: Deduplicate,
    /// How long their results are kept.
    pub keep_for: Duration,
}

/// A job's part among its equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It runs, and the others get its result.
    Leads,
    /// It has run, and its result is no use to the others.
    Alone,
    /// It waits.
    Waits,
    /// It was given the result of another.
    Reuses,
}

impl Part {
    /// The meaning that a job's completion has for its equals; `None` for a job without any.
    pub(crate) fn answered(equal: Option<&(EqualJobs, Self)>) -> Option<(EqualJobs, Answered)> {
        let (equal, part) = equal?;
        let answered = match part {
            Self::Leads => Answered::New,
            Self::Alone => Answered::Unusable,
            Self::Reuses => Answered::Reused,
            Self::Waits => return None,
        };
        Some((equal.clone(), answered))
    }
}

/// The part of a job among its equals.
#[derive(Debug)]
pub enum Joined {
    /// It runs.
    Leads,
    /// It waits for the leader, and comes by itself after this time.
    Waits(Duration),
    /// This is its result.
    Reuses(Value),
    /// It runs by itself: Redis did not say.
    Unknown,
}

/// Finds equal jobs over the fleet.
#[derive(Debug)]
pub struct Deduplication {
    connection: Connection,
    settings: DeduplicationSettings,
    /// The payload's field that names the student.
    student_field: Arc<str>,
    replica: String,
}

/// A result as completions keep it.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    result: &'a RawValue,
}

impl Deduplication {
    /// Finds equal jobs by these rules.
    pub fn new(
        connection: Connection,
        settings: DeduplicationSettings,
        student_field: Arc<str>,
        replica: &str,
    ) -> Self {
        Self {
            connection,
            settings,
            student_field,
            replica: replica.to_owned(),
        }
    }

    /// The equals of a job; `None` where it has none. It asks Redis nothing.
    pub async fn equals_of(
        &self,
        broker: &dyn OutcomeWriter,
        delivery: &Delivery,
        kind: JobType,
        payload: &Bytes,
        student: &str,
    ) -> Option<EqualJobs> {
        if let Some(key) = &delivery.key {
            return Some(by_key(self.connection.namespace(), broker, key));
        }
        let without = match self.settings.mode {
            Deduplicate::Off => return None,
            // Without a name, jobs of two students would look the same.
            Deduplicate::User if student.is_empty() => return None,
            Deduplicate::User => None,
            Deduplicate::Shared => Some(self.student_field.clone()),
        };
        let (size, payload) = (payload.len(), payload.clone());
        let digest = move || digest::of_payload(kind.as_str(), &payload, without.as_deref());
        let digest = apart(size, digest).await?;
        // The two rules never share a result, however they follow each other.
        let rule = match self.settings.mode {
            Deduplicate::Shared => "shared",
            _ => "user",
        };
        let digest = digest::of_texts(&[rule, &digest]);
        Some(EqualJobs {
            result_key: self.connection.named(&equal_jobs_result(&digest)).into(),
            prefix: self.connection.named(&equal_jobs_prefix(&digest)).into(),
            keep_for: self.settings.keep_for,
        })
    }

    /// Decides what becomes of a job: one round trip.
    pub async fn join(
        &self,
        broker: &dyn OutcomeWriter,
        delivery: &Delivery,
        kind: JobType,
        equal: &EqualJobs,
    ) -> Joined {
        match self.ask(broker, delivery, equal, false).await {
            Some((word, entry)) if word == "found" => match usable(kind, &entry) {
                Some(result) => self.reuse(broker, delivery, kind, result).await,
                None => {
                    warn!(
                        key = &*equal.result_key,
                        "the key holds no result of {kind} that can be used: the job runs, and its result takes that place; \
                         another program may write the key, or give it to jobs of different types"
                    );
                    match self.ask(broker, delivery, equal, true).await {
                        Some((word, left)) if word == "led" => waits(kind, &left),
                        answer => leads(answer, equal),
                    }
                }
            },
            Some((word, left)) if word == "led" => waits(kind, &left),
            answer => leads(answer, equal),
        }
    }

    /// Asks Redis, a few times where it does not answer: the job would be paid for twice.
    async fn ask(
        &self,
        broker: &dyn OutcomeWriter,
        delivery: &Delivery,
        equal: &EqualJobs,
        passes_over: bool,
    ) -> Option<(String, String)> {
        let proof = broker.proof_of(&delivery.lease);
        let mut call = JOIN.prepare_invoke();
        call.key(&*equal.result_key);
        call.arg(&*equal.prefix)
            .arg(u8::from(passes_over))
            .arg(&proof.claim)
            .arg(&*proof.token)
            .arg(&proof.leases)
            .arg(&proof.worker)
            .arg(LEADER_MS);
        let mut pauses = PAUSES.into_iter();
        loop {
            let answer = answered_within(DEADLINE, self.connection.invoke::<(String, String)>(&call)).await;
            let (why, is_final) = match answer {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => {
                    let why = error.to_string();
                    // A right that is missing is missing in a second, too.
                    let is_final =
                        RedisErrorClass::of(&error) == RedisErrorClass::Impossible || why.contains("NOPERM");
                    (why, is_final)
                }
                Err(_elapsed) => ("no answer in time".to_owned(), false),
            };
            match pauses.next().filter(|_| !is_final) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    warn!(
                        why,
                        "equal jobs cannot be looked for: the job runs by itself, and may be paid for twice; Redis may be away, or \
                         its user lacks the rights that `backend-worker check` names"
                    );
                    return None;
                }
            }
        }
    }

    /// Marks a result as reused, and counts it.
    async fn reuse(
        &self,
        broker: &dyn OutcomeWriter,
        delivery: &Delivery,
        kind: JobType,
        mut result: Value,
    ) -> Joined {
        let saved = mark_reused(&mut result);
        PROCESS.deduplicated[kind.index()][0].add(1);
        PROCESS.saved[kind.index()].add(saved.nanos());
        info!(saved_usd = %saved, "an equal job has this result already: nothing is paid for");
        if let Err(error) = self.count(broker, delivery, kind, saved).await {
            warn!(%error, "a reused result is missing in the sums of saved money");
        }
        Joined::Reuses(result)
    }

    async fn count(
        &self,
        broker: &dyn OutcomeWriter,
        delivery: &Delivery,
        kind: JobType,
        saved: Usd,
    ) -> Result<(), RedisError> {
        let page = broker.ledger_key(&delivery.lease.id);
        let own = match broker.layout() {
            Layout::Bullmq => "bw:",
            Layout::Apalis => "",
        };
        let mut call = COUNT.prepare_invoke();
        // The page bears the name of the job's hash.
        call.key(page.strip_prefix("ledger:").unwrap_or(&page));
        // Redis computes the day: a reused result is rare enough.
        call.arg(&self.replica).arg(0).arg("").arg(0);
        call.arg(own).arg(kind.as_str());
        call.arg(saved.nanos());
        let late = || RedisError::from((redis::ErrorKind::Client, "no answer in time"));
        answered_within(DEADLINE, self.connection.invoke(&call))
            .await
            .unwrap_or_else(|_elapsed| Err(late()))
    }
}
