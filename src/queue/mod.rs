//! Queues: the trait [`Broker`], which stores one queue in Redis, and the types that it takes and returns.
//!
//! The worker's claim, renew and ack loops call a broker. It holds no job state of its own: every operation is one
//! atomic script, safe to send again after a lost answer. The claim's token fences each operation, so that a replica
//! that lost a job can no longer write to it.

mod admin;
pub mod apalis;
mod backoff;
mod batch_replies;
mod broker;
pub mod bullmq;
mod claim_number;
mod fair;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod job;
mod layout;
mod list_removal;
mod scripts;
mod snapshot;
pub mod watch;

use std::time::Duration;

pub use admin::{JobPage, ListCursor, ListQuery, ListedJob, RemovalResult, RetryOrder, RetryResult};
pub use backoff::QueueBackoff;
pub use broker::{Broker, BrokerError, BrokerOptions, PayloadField};
pub use claim_number::ClaimNumber;
pub(crate) use fair::owner_of;
use job::told_equal;
pub use job::{
    Answered, ClaimProof, Completion, CompletionResults, Delivery, EqualJobs, HistoryNote, Lease, NewJob,
    Postponement, SweepResult, WriteResult,
};
pub use layout::{Layout, UnknownLayout};
#[cfg(test)]
pub(crate) use scripts::library_codes;
pub use scripts::script_names;
pub use snapshot::{
    HistoryLine, JobSnapshot, JobState, LinePosition, LineView, QueueCounts, UnknownState, WaitingFor,
};
pub use watch::JobWatchers;

/// Bytes of payloads that a script hands out at most. A script copies each payload several times, about 2 ms for a
/// megabyte, and blocks all clients of Redis during that time. So the worker reads other payloads by separate commands.
const INLINE_BYTES: usize = 256 * 1024;

/// Whole milliseconds, never cut to a time-out of zero by an absurd duration.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}

/// A note as it is written into a history, after the time that Redis puts in front; empty for none.
fn line(note: Option<&HistoryNote>) -> Result<String, BrokerError> {
    Ok(note.map(serde_json::to_string).transpose()?.unwrap_or_default())
}
