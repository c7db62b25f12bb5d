//! Queues in Redis: the [traits](Broker) that both layouts implement, one for each concern, and the types that they
//! take and return.
//!
//! The worker's claim, renew and ack loops call a [`WorkerQueue`], operators an [`OperatorQueue`]. A broker holds no job state of its own: every operation is one
//! atomic script, safe to send again after a lost answer. The claim's token fences each operation, so that a replica
//! that lost a job can no longer write to it.

mod admin;
pub mod apalis;
mod backoff;
mod batch_replies;
mod broker_error;
mod broker_options;
pub mod bullmq;
mod claim_number;
mod fair;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/job_list.rs"]
pub(crate) mod fuzz;
mod job;
mod large_results;
mod layout;
mod list_removal;
mod opening;
pub mod partial_results;
mod script_names;
mod scripts;
mod snapshot;
mod traits;
pub mod watch;

pub use admin::{JobPage, ListCursor, ListQuery, ListedJob, RemovalResult, RetryOrder, RetryResult};
pub use backoff::QueueBackoff;
pub use broker_error::BrokerError;
pub use broker_options::{BrokerOptions, PayloadField};
pub use claim_number::ClaimNumber;
pub(crate) use fair::owner_of;
use job::told_equal;
pub use job::{
    Answered, ClaimProof, Completion, CompletionResults, Delivery, EqualJobs, HistoryNote, Lease, NewJob,
    Postponement, ServiceTier, SweepResult, WriteResult,
};
pub use layout::{Layout, UnknownLayout};
pub(crate) use opening::PayloadRefusal;
pub use partial_results::PartialResults;
#[cfg(test)]
pub(crate) use script_names::library_codes;
pub use script_names::script_names;
pub use snapshot::{
    HistoryLine, JobSnapshot, JobState, LinePosition, LineView, QueueCounts, UnknownState, WaitingFor,
};
pub use traits::{
    Broker, JobClaimer, JobEventSource, JobProducer, LeaseHolder, OperatorQueue, OutcomeWriter,
    PartialResultStore, QueueAdmin, QueueIdentity, QueueInspector, WorkerQueue,
};
pub use watch::JobWatchers;

use crate::time_format::millis;

/// Bytes of payloads that a script hands out at most. A script copies each payload several times, about 2 ms for a
/// megabyte, and blocks all clients of Redis during that time. So the worker reads other payloads by separate commands.
const INLINE_BYTES: usize = 256 * 1024;

/// A note as it is written into a history, after the time that Redis puts in front; empty for none.
fn line(note: Option<&HistoryNote>) -> Result<String, BrokerError> {
    Ok(note.map(serde_json::to_string).transpose()?.unwrap_or_default())
}
