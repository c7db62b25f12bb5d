//! Running jobs: apalis workers over brokers.
//!
//! # Layout
//! - [`runtime`]: builds a worker for each queue, runs them under the apalis Monitor, drains them.
//! - [`backend`]: the apalis `Backend` over a [`Broker`].
//! - `loops`: the claim and renew loops that feed it, supervised.
//! - [`ack`]: the layer that runs a job in a task of its own and writes its outcome, until Redis answers.
//! - [`outcome`]: what a delivery comes to, and the rules for it.
//! - `course`: what is known of a delivery while it runs, for metrics.
//! - `releases`: jobs that are given back, written together.
//! - [`dispatch`]: from a raw payload to a handler, and back to an outcome.
//! - [`holds`]: when a queue is left alone, because a gate says so.
//! - [`slots`]: the jobs in flight, and the slots that bound them.
//! - `suspects`: jobs that may have killed a replica run alone.
//! - `turns`: the claims that are under way, and their numbers.
//! - [`vitals`]: what health and the closing line report.

pub mod ack;
pub mod backend;
mod completions;
mod course;
pub mod dispatch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod holds;
mod loops;
pub mod outcome;
mod releases;
pub mod runtime;
pub mod slots;
mod suspects;
mod turns;
pub mod vitals;

use std::sync::Arc;

use async_trait::async_trait;

pub use course::Course;
pub use holds::Holds;
pub(crate) use loops::supervise;
pub use outcome::Outcome;
pub use runtime::{Runtime, RuntimeOptions};

use crate::{
    guard::Stops,
    queue::{Broker, Delivery},
};

/// A delivery on its way to a handler.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The job.
    pub delivery: Delivery,
    /// Where it came from, and where progress goes.
    pub broker: Arc<dyn Broker>,
    /// When to let go of it.
    pub stops: Stops,
    /// Told which provider the job uses.
    pub holds: Arc<Holds>,
    /// What becomes known of it on its way.
    pub course: Arc<Course>,
}

/// Runs deliveries.
#[async_trait]
pub trait Handle: Send + Sync + 'static {
    /// Runs one delivery to its outcome. A panic counts as a failed attempt.
    async fn handle(&self, assignment: &Assignment) -> Outcome;
}
