//! The guard around every provider call: retry( admit → call → classify → settle ), on one screen.
//!
//! Today the middle is the call alone. The gate's `admit` belongs where the call is made and its `settle` right
//! after, inside of one try: so a rejection costs no try, and each try is counted by the breaker once.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use jobs::{Attempt, Call, Class, Failure, Guard, Reply};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::retry::{Delay, RetryPolicy, Verdict};

/// Hears of each retry of a job.
#[async_trait]
pub trait Reporter: Send + Sync {
    /// The `nth` try (from 1) failed, and the next follows after `delay`.
    async fn retrying(&self, nth: u8, failure: &Failure, delay: Delay);
}

/// When a job has to let go.
#[derive(Debug, Clone)]
pub struct Stops {
    /// The replica is stopping: a call in flight may finish, no other is begun.
    pub draining: CancellationToken,
    /// The job is lost, or the drain time is over: stop at once.
    pub now: CancellationToken,
    /// The job must have ended by then.
    pub deadline: Instant,
}

/// Guards the provider calls of one delivery of one job.
pub struct JobGuard<'a> {
    policy: RetryPolicy,
    stops: Stops,
    reporter: &'a dyn Reporter,
    tries: AtomicU8,
}

impl<'a> JobGuard<'a> {
    /// A guard that retries by `policy`, until `stops` say otherwise.
    pub fn new(policy: RetryPolicy, stops: Stops, reporter: &'a dyn Reporter) -> Self {
        Self {
            policy,
            stops,
            reporter,
            tries: AtomicU8::new(0),
        }
    }

    /// How often the last call has been tried.
    pub fn tries(&self) -> u8 {
        self.tries.load(Ordering::Relaxed)
    }

    /// One try, cut short when the job has to let go.
    async fn attempt(&self, call: &Call, attempt: &Attempt<'_>) -> Result<Reply, Failure> {
        tokio::select! {
            biased;
            () = self.stops.now.cancelled() => Err(cancelled(call)),
            () = tokio::time::sleep_until(self.stops.deadline) =>
                Err(Failure::transient("the job's deadline passed during the call").by(call.provider)),
            result = attempt() => result,
        }
    }

    /// Waits, unless the replica stops first: a waiting job is better off in the queue.
    async fn wait(&self, call: &Call, wait: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.stops.now.cancelled() => Err(cancelled(call)),
            () = self.stops.draining.cancelled() => Err(cancelled(call)),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

#[async_trait]
impl Guard for JobGuard<'_> {
    async fn call<'a>(&'a self, call: &'a Call, attempt: &'a Attempt<'a>) -> Result<Reply, Failure> {
        let (provider, tries) = (call.provider, self.policy.tries);
        let mut nth = 0u8;
        loop {
            nth = nth.saturating_add(1); // The policy ends the loop: its tries are a u8 too.
            self.tries.store(nth, Ordering::Relaxed);
            let failure = match self.attempt(call, attempt).await {
                Ok(reply) => {
                    if nth > 1 {
                        info!(%provider, tries = nth, "Retry successful after {} attempt(s)", nth - 1);
                    }
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            let class = failure.class();
            if !matches!(class, Class::Cancelled | Class::Blocked) {
                warn!(%provider, %class, status = failure.status(), step = %call.step, nth,
                    "Attempt {nth}/{tries} failed: {failure}");
            }
            let verdict = self.policy.judge(nth, &failure, &mut rand::rng());
            let delay = match verdict {
                Verdict::Retry(delay) if Instant::now() + delay.total() < self.stops.deadline => delay,
                Verdict::Exhausted => {
                    error!(%provider, %class, "Max attempts ({tries}) reached, giving up");
                    return Err(failure);
                }
                Verdict::Retry(_) | Verdict::HandBack | Verdict::Hopeless => return Err(failure),
            };
            info!(
                delay_ms = delay.total().as_millis(),
                "Backoff delay: {delay} (attempt {nth}, base: {}ms, jitter: {}ms)",
                delay.base().as_millis(),
                delay.jitter_ms()
            );
            self.reporter.retrying(nth, &failure, delay).await;
            self.wait(call, delay.total()).await?;
            info!(%provider, nth = nth + 1, "Retrying {provider} call (attempt {}): {failure}", nth + 1);
        }
    }
}

fn cancelled(call: &Call) -> Failure {
    Failure::new(Class::Cancelled, "the replica has to let go of the job").by(call.provider)
}
