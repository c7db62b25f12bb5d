//! Keeps the loops of a queue's worker running: restarts one that panics, with a growing pause.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tracing::error;

use crate::{retry::LoopBackoff, telemetry::panics::describe_end};

/// How long a loop sleeps at most when nothing announces work: a safety net, not the way work is found.
pub(super) const IDLE: Duration = Duration::from_secs(15);

/// Runs a loop until it returns; one that panics is started again.
pub(crate) fn supervise<F>(name: &'static str, run: impl Fn() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let mut pause = LoopBackoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // A task of its own for each run: a panic ends that task alone, and comes back as an error.
        while let Err(ended) = tokio::spawn(run()).await {
            error!(
                "the {name} loop died, and is started again: {}",
                describe_end(ended)
            );
            pause.wait().await;
        }
    })
}
