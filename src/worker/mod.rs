//! Runs jobs: one apalis worker for each queue, on top of a [`WorkerQueue`].
//!
//! # Layout
//! - [`runtime`]: builds a worker for each queue, runs them under the apalis Monitor, drains them.
//! - [`backend`]: the apalis `Backend` over a [`WorkerQueue`].
//! - `claimer`: claims jobs into free slots. `assigner`: gives them their slots, and hands them to apalis.
//! - `lease_keeper`: renews leases, and recovers the jobs of dead replicas.
//! - `supervisor`: restarts a loop that panics.
//! - [`ack`]: the layer that runs a job in a task of its own and writes its outcome, until Redis answers.
//! - [`outcome`]: the outcome of a delivery, and the rules that choose it.
//! - `completer`: batches completions, and claims in the same call.
//! - `delivery_stats`: facts about a running delivery, for metrics.
//! - `release_batcher`: batches jobs that go back to the queue.
//! - [`dispatcher`]: decodes a payload, runs its handler, and returns an outcome.
//! - [`claim_pauses`]: pauses the claims of a queue while a gate refuses its calls.
//! - [`slots`]: the jobs in flight, and the slots that bound them.
//! - `suspects`: runs jobs that may have killed a replica apart from the others.
//! - `claim_sequence`: the unanswered claims, and their numbers.
//! - [`worker_health`]: progress of the loops and counts of endings, for health checks and the last log line.

pub mod ack;
mod assigner;
pub mod backend;
pub mod claim_pauses;
mod claim_sequence;
mod claimer;
mod completer;
mod delivery_stats;
pub mod dispatcher;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod lease_keeper;
pub mod outcome;
mod release_batcher;
pub mod runtime;
pub mod slots;
mod supervisor;
mod suspects;
pub mod worker_health;

use std::sync::Arc;

use async_trait::async_trait;

pub use claim_pauses::ClaimPauses;
pub use delivery_stats::DeliveryStats;
pub use outcome::DeliveryOutcome;
pub use runtime::{Runtime, RuntimeOptions};
pub(crate) use supervisor::supervise;
pub use suspects::Suspect;

use crate::{
    guard::StopSignals,
    queue::{Delivery, WorkerQueue},
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
