//! The types that a broker takes and returns: new jobs, deliveries, delays and outcomes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jobs::JobType;
use serde::{Deserialize, Serialize};

use super::{BrokerError, QueueBackoff};
use crate::telemetry::trace::TraceContext;

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
    /// The claim that this replica holds.
    pub lease: Lease,
    /// The job's type, where the layout keeps it beside the payload.
    pub kind: Option<String>,
    /// The payload; `None` when it is so large that the claim has left it out, or the queue knows an id without one.
    /// [`JobClaimer::payload`](super::JobClaimer::payload) distinguishes the two.
    pub payload: Option<Bytes>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many attempts the producer allows.
    pub max_attempts: u32,
    /// How the producer wants the attempts spaced; `None` leaves it to the worker.
    pub backoff: Option<QueueBackoff>,
    /// How long the job has been made to wait by limits and breakers so far.
    pub waited: Duration,
    /// True if this is the job's first delivery to any worker.
    pub first: bool,
    /// Earlier deliveries that ended without an outcome.
    pub lost: u32,
    /// The trace that its producer was in, where the layout carries one.
    pub trace: Option<TraceContext>,
    /// The key that its producer gives to equal jobs.
    pub key: Option<Arc<str>>,
    /// The tier of the provider that its producer asks for.
    pub tier: Option<ServiceTier>,
    /// Its priority in the BullMQ layout. A larger number comes later, and 0 comes first.
    pub priority: u32,
}

/// How quickly, and at which price, a provider serves a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceTier {
    /// The usual one.
    Standard,
    /// The cheaper one, for jobs that no student waits for.
    Flex,
}

impl ServiceTier {
    /// The tier that a producer names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "flex" => Some(Self::Flex),
            "standard" | "default" | "auto" => Some(Self::Standard),
            _ => None,
        }
    }
}

#[cfg(any(test, fuzzing))]
impl Delivery {
    /// The first delivery of a job that gets three attempts.
    pub(crate) fn first_of(kind: Option<String>, payload: Option<Bytes>) -> Self {
        Self {
            lease: Lease {
                id: "1".into(),
                token: "w:1".into(),
            },
            kind,
            payload,
            attempt: 1,
            max_attempts: 3,
            backoff: None,
            waited: Duration::ZERO,
            first: true,
            lost: 0,
            trace: None,
            key: None,
            tier: None,
            priority: 0,
        }
    }
}

/// A job that has ended well.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The claim that this replica holds.
    pub lease: Lease,
    /// Its result, JSON.
    pub result: String,
    /// The jobs that are equal to it, if that is known.
    pub equal: Option<(EqualJobs, Answered)>,
}

/// Longest key of a producer, bytes; a longer one is ignored.
const LONGEST_KEY: usize = 512;

/// The key that a producer gives to equal jobs.
pub(super) fn producer_key(text: &str) -> Option<Arc<str>> {
    (1..=LONGEST_KEY).contains(&text.len()).then(|| text.into())
}

/// Jobs that ask for the same: one of them leads and is run, the others get its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EqualJobs {
    /// Key of the result that one of them has left.
    pub result_key: Arc<str>,
    /// Prefix of the keys by which they find each other.
    pub prefix: Arc<str>,
    /// How long a result is kept.
    pub keep_for: Duration,
}

/// The meaning of a job's completion for the jobs that are equal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Its result is kept for them.
    New,
    /// It was given the result of one of them.
    Reused,
    /// Its result is its own; the next of them is run.
    Unusable,
}

impl Answered {
    /// Its word in scripts and files.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reused => "reused",
            Self::Unusable => "unusable",
        }
    }

    /// The meaning that has this word.
    pub(crate) fn named(word: &str) -> Option<Self> {
        [Self::New, Self::Reused, Self::Unusable]
            .into_iter()
            .find(|answered| answered.as_str() == word)
    }
}

/// The argument of completion scripts that concerns equal jobs (`equal_jobs.lua`).
pub(super) fn told_equal(equal: Option<&(EqualJobs, Answered)>) -> String {
    let Some((equal, answered)) = equal else {
        return String::new();
    };
    let keep_ms = super::millis(equal.keep_for).max(1);
    format!(
        "{} {keep_ms} {} {}",
        answered.as_str(),
        equal.prefix,
        equal.result_key
    )
}

/// How Redis recognises that a claim still holds its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimProof {
    /// Key of the claim's lock, or of the hash whose `claim` is its token.
    pub claim: String,
    /// Its token.
    pub token: Arc<str>,
    /// The zset with the lease of the claim's worker; empty where the claim has a lock.
    pub leases: String,
    /// The worker.
    pub worker: String,
}

/// The results of completions, and of a claim in the same call.
#[derive(Debug)]
pub struct CompletionResults {
    /// The result of each write.
    pub settled: Vec<Result<WriteResult, BrokerError>>,
    /// The jobs claimed into their slots; `None` if the call made no claim, so that the claim's number is unused.
    pub claimed: Option<Result<Vec<Delivery>, BrokerError>>,
}

/// The result of a write of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// The outcome is written, by this call or by an earlier send of it.
    Applied,
    /// The claim no longer holds the job: nothing was written.
    Lost,
}

impl WriteResult {
    /// Reads the answer of a script that writes an outcome.
    pub(super) const fn of(is_applied: bool) -> Self {
        if is_applied { Self::Applied } else { Self::Lost }
    }
}

/// Puts a job off.
#[derive(Debug, Clone)]
pub struct Postponement<'a> {
    /// From now, by Redis's clock.
    pub delay: Duration,
    /// True if this delivery used up one of the job's attempts.
    pub counts: bool,
    /// Why the job waits, as the operator's views show it.
    pub reason: &'a str,
    /// The gate that it waits for, by its provider's name.
    pub gate: Option<&'a str>,
    /// A line for the job's history.
    pub note: Option<&'a HistoryNote>,
}

/// One line of a job's history: an attempt that failed, or a retry by hand. Redis adds the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryNote {
    /// The delivery, from 1.
    pub attempt: u32,
    /// The try within the delivery, from 1; 0 when the job failed outside of a provider call.
    pub r#try: u32,
    /// [`jobs::FailureClass`], by name; `poison` after too many lost deliveries, `retried` for a retry by hand.
    pub class: String,
    /// The cause of the failure.
    pub cause: String,
    /// Wait before the next try, ms; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delay_ms: Option<u64>,
    /// Which replica ran it, or who gave the order.
    pub replica: String,
}

/// The result of a sweep for orphaned jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepResult {
    /// Put back, to be claimed again.
    pub requeued: u64,
    /// Failed, because too many deliveries ended without an outcome.
    pub poisoned: u64,
    /// True if another sweep would find more.
    pub more: bool,
}
