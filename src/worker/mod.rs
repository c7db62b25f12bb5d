//! Runs jobs: one apalis worker for each queue, on top of a [`WorkerQueue`].
//!
//! # Layout
//! - [`runtime`]: runs the workers of all queues, and drains them at shutdown. `runtime_options`: their settings.
//! - [`queue_worker`]: the state of one queue's worker, which the parts below share.
//! - `queue_loops`: starts the claim loop and the renew loop, and leaves the queue.
//! - `claimer`: claims jobs into free slots. `claim_sequence`: the unanswered claims, and their numbers.
//!   [`claim_pauses`]: pauses the claims of a queue while a gate refuses its calls.
//! - `assigner`: gives claimed jobs their slots. [`slots`]: the jobs in flight, and the slots that bound them.
//! - `lease_keeper`: renews leases, notices lost ones, and recovers the jobs of dead replicas.
//! - [`apalis_adapter`]: everything that knows apalis, which adds the deadline and the catch of panics.
//! - [`dispatcher`]: decodes a payload, runs its handler, and returns an outcome.
//! - `delivery_run`: runs one delivery beside the signals that stop it. `delivery_stats`: facts about it, for metrics.
//! - [`outcome`]: the outcome of a delivery, and the rules that choose it.
//! - `outcome_writer`: writes an outcome until Redis answers. `completer` batches completions, and claims in the same
//!   call; `release_batcher` batches jobs that go back to the queue.
//! - [`outcome_spool`]: keeps outcomes that Redis does not take while the replica stops, for its next start.
//! - `supervisor`: restarts a loop that panics.
//! - [`worker_health`]: progress of the loops and totals of outcomes, for health checks and the last log line.

pub mod apalis_adapter;
mod assigner;
pub mod claim_pauses;
mod claim_sequence;
mod claimer;
mod completer;
mod delivery_run;
mod delivery_stats;
pub mod dispatcher;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/delivery.rs"]
pub(crate) mod fuzz;
mod lease_keeper;
pub mod outcome;
pub mod outcome_spool;
mod outcome_writer;
mod queue_loops;
pub mod queue_worker;
mod release_batcher;
pub mod runtime;
mod runtime_options;
pub mod service_tier;
pub mod slots;
mod supervisor;
pub mod worker_health;

use std::sync::Arc;

use async_trait::async_trait;

pub use claim_pauses::ClaimPauses;
pub use delivery_stats::DeliveryStats;
pub use outcome::DeliveryOutcome;
pub use queue_worker::{QueueWorker, Shutdown};
pub use runtime::Runtime;
pub use runtime_options::RuntimeOptions;
pub(crate) use supervisor::supervise;

use crate::{
    guard::StopSignals,
    queue::{Delivery, WorkerQueue},
    suspects::Suspect,
};

/// A delivery on its way to a handler.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The job.
    pub delivery: Delivery,
    /// Where it came from, and where progress goes.
    pub broker: Arc<dyn WorkerQueue>,
    /// When to let go of it.
    pub stops: StopSignals,
    /// Told which provider the job uses.
    pub claim_pauses: Arc<ClaimPauses>,
    /// Facts recorded while it runs.
    pub stats: Arc<DeliveryStats>,
    /// Set where an earlier delivery was lost.
    pub suspect: Option<Suspect>,
}

/// Runs deliveries.
#[async_trait]
pub trait DeliveryHandler: Send + Sync + 'static {
    /// Runs one delivery to its outcome. A panic counts as a failed attempt.
    async fn handle(&self, assignment: &Assignment) -> DeliveryOutcome;
}
