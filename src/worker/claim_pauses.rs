//! Decides when a replica claims from a queue, and how many jobs.
//!
//! A breaker that refuses calls until a time T refuses every job that needs its provider. Further claims would only be
//! handed back. So the replica does not claim from a queue until T, as long as the queue's jobs use that provider and no
//! other.
//!
//! A limit (requests, tokens, calls in flight) that has refused a job is asked before each further claim how many calls
//! it would let pass, and no more jobs are claimed than that. The others keep their place in the queue. Of a provider with
//! several deployments the room of all counts: one that is full or open does not hold claims up while another admits calls.
//!
//! Claims are spread over the minute while jobs of several owners compete for a limit of requests: several owners were
//! seen in the last minute, and more jobs wait than the limit has room for. Otherwise a burst of one owner would leave
//! nothing for the others until the minute is over. A replica claims several of these jobs at a time, because each claim, and each question to the gate, costs Redis
//! as much for one job as for several. While the spread leaves room for more jobs than wait, the gate is not asked.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobs::Provider;
use rand::RngExt;
use tokio::{sync::Notify, time::Instant};

use crate::{
    gate::{DeploymentGates, Reason, SpreadRoom},
    locks::locked,
    queue::QueueInspector,
};

/// How long a queue counts as having jobs of a provider, or of an owner, after the last one was seen.
const MEMORY: Duration = Duration::from_secs(60);

/// Longest pause for a breaker. It may have been reset by hand since, and jobs of another provider may have arrived.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// Owners that are remembered at most. Two would be enough to know that a queue is shared.
const MOST_OWNERS: usize = 64;

/// How long the gate's answer "no spread is needed" holds.
const UNSPREAD: Duration = Duration::from_secs(1);

/// Longest wait for a limit on calls in flight. Other replicas do not announce the end of their calls.
const LONGEST_SLOT_WAIT: Duration = Duration::from_secs(1);

/// How many jobs may be claimed now.
#[derive(Debug, Clone)]
pub enum ClaimAllowance {
    /// As many jobs as there are free slots.
    All,
    /// At most this many jobs, and at least one.
    UpTo(usize),
    /// No job before this time, or before a call to one of these deployments has ended.
    Wait(Instant, Option<Arc<DeploymentGates>>),
}

/// The pauses of one queue's claims.
#[derive(Debug, Default)]
pub struct ClaimPauses {
    inner: Mutex<PauseState>,
    starting: Arc<PendingStarts>,
}

#[derive(Debug, Default)]
struct PauseState {
    seen: HashMap<Provider, Instant>,
    until: Option<Instant>,
    /// The gates of the providers whose limits have refused a job, which are asked before the next claim.
    limited: HashMap<Provider, LimitedQueue>,
    /// Owners of jobs, hashed, by when one was last seen.
    owners: HashMap<u64, Instant>,
    /// Jobs that may pass gates before these are asked whether requests have to be spread, and until when.
    unspread: HashMap<Provider, (usize, Instant)>,
    /// Jobs of a queue with jobs of several providers that were put off for a limit, by when they come back.
    parked: Vec<Instant>,
}

#[derive(Debug)]
struct LimitedQueue {
    gates: Arc<DeploymentGates>,
    until: Instant,
}

/// Claimed jobs that have not reached their gate yet: they will use up what it has room for.
#[derive(Debug, Default)]
struct PendingStarts {
    count: AtomicUsize,
    changed: Notify,
}

/// One of them; dropped when its gate has given a verdict, or the job has ended.
#[derive(Debug)]
pub struct PendingStart(Arc<PendingStarts>);

impl Drop for PendingStart {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl ClaimPauses {
    /// A job of the queue is about to use this provider.
    pub fn record_provider(&self, provider: Provider) {
        self.inner().seen.insert(provider, Instant::now());
    }

    /// A job of this owner, hashed, is about to pass one of these gates.
    pub fn record_owner(&self, owner: u64, gates: &Arc<DeploymentGates>) {
        let (now, mut inner) = (Instant::now(), self.inner());
        if inner.owners.len() >= MOST_OWNERS {
            inner.owners.retain(|_, at| now - *at < MEMORY);
        }
        if inner.owners.len() < MOST_OWNERS || inner.owners.contains_key(&owner) {
            inner.owners.insert(owner, now);
        }
        if gates.limits_requests() && inner.is_shared(now) && !inner.passes_unspread(gates.provider(), now) {
            let entry = inner.limited.entry(gates.provider());
            entry.or_insert_with(|| LimitedQueue {
                gates: gates.clone(),
                until: now,
            });
        }
    }

    /// A job has been claimed, and is on its way to its gate.
    pub fn add_pending_start(&self) -> PendingStart {
        self.starting.count.fetch_add(1, Ordering::Relaxed);
        PendingStart(self.starting.clone())
    }

    /// The provider's breaker lets nothing pass for `wait`.
    pub fn pause(&self, provider: Provider, wait: Duration) {
        let (now, mut inner) = (Instant::now(), self.inner());
        if inner.is_alone(provider, now) {
            let until = now + wait.min(LONGEST_HOLD);
            inner.until = Some(inner.until.map_or(until, |held| held.max(until)));
        }
    }

    /// The limits of the provider's deployments let nothing pass for `wait`.
    pub fn pause_for_limit(&self, gates: &Arc<DeploymentGates>, wait: Duration) {
        let until = Instant::now() + wait;
        let limited = LimitedQueue {
            gates: gates.clone(),
            until,
        };
        self.inner().limited.insert(gates.provider(), limited);
    }

    /// True if a job that a limit has refused is put off for `wait`, rather than put back in the line: where jobs of
    /// other providers wait behind it, it would be in their way. At most `most` are put off at a time.
    pub fn park(&self, provider: Provider, wait: Duration, most: usize) -> bool {
        let (now, mut inner) = (Instant::now(), self.inner());
        inner.parked.retain(|until| *until > now);
        let parks = !inner.is_alone(provider, now) && inner.parked.len() < most;
        if parks {
            inner.parked.push(now + wait);
        }
        parks
    }

    /// Says how many jobs may be claimed now. It asks the gates that have refused a job, and the queue how many jobs wait.
    pub async fn allowance(
        &self,
        wanted: usize,
        most_parked: usize,
        queue: Option<&dyn QueueInspector>,
    ) -> ClaimAllowance {
        let now = Instant::now();
        let limited: Vec<Arc<DeploymentGates>> = {
            let mut inner = self.inner();
            if let Some(until) = inner.until.filter(|until| *until > now) {
                return ClaimAllowance::Wait(until, None);
            }
            if inner.limited.is_empty() {
                return ClaimAllowance::All;
            }
            inner.seen.retain(|_, at| now - *at < MEMORY);
            let PauseState { seen, limited, .. } = &mut *inner;
            // A provider whose jobs are gone must not cause claims that the others' limits refuse.
            if !seen.is_empty() {
                limited.retain(|provider, _| seen.contains_key(provider));
            }
            if limited.is_empty() {
                return ClaimAllowance::All;
            }
            if let Some(free) = inner.seen.keys().find(|seen| !inner.limited.contains_key(*seen)) {
                let free = *free;
                tracing::trace!(provider = %free, "jobs of another provider may pass");
                inner.parked.retain(|until| *until > now);
                return match inner.parked.iter().min() {
                    Some(first) if inner.parked.len() >= most_parked => ClaimAllowance::Wait(*first, None),
                    _ => ClaimAllowance::All,
                };
            }
            inner.parked.retain(|until| *until > now);
            if let Some(first) = inner
                .parked
                .iter()
                .min()
                .filter(|_| inner.parked.len() >= most_parked)
            {
                return ClaimAllowance::Wait(*first, None);
            }
            // All of the queue's providers are limited: it waits for the first that has room.
            let first = inner.limited.values().map(|limited| limited.until).min();
            if let Some(first) = first.filter(|first| *first > now) {
                return ClaimAllowance::Wait(first, None);
            }
            inner
                .limited
                .values()
                .map(|limited| limited.gates.clone())
                .collect()
        };
        self.ask(&limited, wanted, queue).await
    }

    async fn ask(
        &self,
        limited: &[Arc<DeploymentGates>],
        wanted: usize,
        queue: Option<&dyn QueueInspector>,
    ) -> ClaimAllowance {
        let (mut calls, mut next) = (0usize, None);
        let is_shared = self.inner().is_shared(Instant::now());
        let lines = queue
            .filter(|_| is_shared)
            .map(QueueInspector::waiting_lines)
            .unwrap_or_default();
        for gates in limited {
            // With Redis away nothing can be claimed either.
            let Ok(mut room) = gates.room(&lines).await else {
                return ClaimAllowance::UpTo(1);
            };
            let now = Instant::now();
            let is_spread = is_shared && room.spread.calls < room.calls && room.waiting > room.calls;
            let mut inner = self.inner();
            if is_spread {
                room.calls = room.spread.calls;
                room.reason = Some(Reason::Rpm);
                room.wait = pause_of_spread(&room.spread, room.spread.wait);
            } else {
                // Other replicas may claim as many: half of what may start at once is left to the owners who join.
                let most = if is_shared {
                    room.spread.calls / 2
                } else {
                    usize::MAX
                };
                inner.unspread.insert(gates.provider(), (most, now + UNSPREAD));
            }
            let may_pass = !is_shared || inner.passes_unspread(gates.provider(), now);
            if room.calls >= wanted && may_pass {
                inner.limited.remove(&gates.provider());
            } else if is_spread && room.calls > 0 && room.calls <= wanted {
                // This claim takes all of them. Those after it come at a known time.
                if let Some(limited) = inner.limited.get_mut(&gates.provider()) {
                    limited.until = now + pause_of_spread(&room.spread, room.spread.interval);
                }
            } else if room.calls == 0 {
                let slots = room.reason == Some(Reason::Concurrency);
                let wait = room.wait.max(Duration::from_millis(1));
                let wait = match room.reason {
                    Some(Reason::Concurrency) => wait.min(LONGEST_SLOT_WAIT),
                    // Every deployment is open, and may be reset by hand.
                    Some(Reason::Open) => wait.min(LONGEST_HOLD),
                    _ => wait,
                };
                let until = now + wait;
                if let Some(limited) = inner.limited.get_mut(&gates.provider()) {
                    limited.until = if slots { now } else { until };
                }
                if next.as_ref().is_none_or(|(first, _)| until < *first) {
                    next = Some((until, slots.then(|| gates.clone())));
                }
            }
            calls = calls.saturating_add(room.calls);
        }
        if self.inner().limited.is_empty() {
            return ClaimAllowance::All;
        }
        match (
            calls.saturating_sub(self.starting.count.load(Ordering::Relaxed)),
            next,
        ) {
            (0, Some((until, gates))) => ClaimAllowance::Wait(until, gates),
            // Jobs on their way to the gate will have taken what there is.
            (0, None) => ClaimAllowance::Wait(Instant::now() + LONGEST_SLOT_WAIT, None),
            (calls, _) => ClaimAllowance::UpTo(calls.min(wanted)),
        }
    }

    /// Resolves when a job that was on its way to its gate has got there.
    pub async fn all_started(&self) {
        self.starting.changed.notified().await;
    }

    /// True if completions may claim in the same call: no pause and no limit holds the queue.
    pub fn is_unpaused(&self) -> bool {
        let inner = self.inner();
        inner.limited.is_empty() && inner.until.is_none_or(|until| until <= Instant::now())
    }

    fn inner(&self) -> MutexGuard<'_, PauseState> {
        locked(&self.inner)
    }
}

/// How long a replica waits until several calls may start, if the first of them may start after `first`. The wait ends before
/// the whole burst is available, so that no part of the limit stays unused.
fn pause_of_spread(spread: &SpreadRoom, first: Duration) -> Duration {
    let several = (spread.burst * 3 / 4).max(1);
    // Jitter: replicas that wake together would compete for the same calls.
    let apart = rand::rng().random_range(0.0..0.25) * spread.burst.saturating_sub(several) as f64;
    first + spread.interval.mul_f64((several - 1) as f64 + apart)
}

impl PauseState {
    /// True if jobs of several owners were seen of late.
    fn is_shared(&self, now: Instant) -> bool {
        self.owners
            .values()
            .filter(|at| now - **at < MEMORY)
            .nth(1)
            .is_some()
    }

    /// True if a job may pass without asking the gate again whether requests have to be spread.
    fn passes_unspread(&mut self, provider: Provider, now: Instant) -> bool {
        let Some((left, until)) = self.unspread.get_mut(&provider) else {
            return false;
        };
        let passes = *left > 0 && *until > now;
        *left = left.saturating_sub(1);
        passes
    }

    /// True if the queue's jobs use this provider and no other.
    fn is_alone(&mut self, provider: Provider, now: Instant) -> bool {
        self.seen.retain(|_, at| now - *at < MEMORY);
        self.seen.keys().all(|seen| *seen == provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn is_held(holds: &ClaimPauses) -> bool {
        matches!(holds.allowance(1, 1, None).await, ClaimAllowance::Wait(..))
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_of_one_provider_is_held_until_the_gates_time() {
        let holds = ClaimPauses::default();
        holds.record_provider(Provider::OpenAi);
        holds.pause(Provider::OpenAi, 10 * SECOND);
        holds.pause(Provider::OpenAi, 5 * SECOND);
        tokio::time::advance(9 * SECOND).await;
        assert!(is_held(&holds).await, "the longest wait holds");
        tokio::time::advance(2 * SECOND).await;
        assert!(!is_held(&holds).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mixed_queue_is_never_held() {
        let holds = ClaimPauses::default();
        holds.record_provider(Provider::OpenAi);
        holds.record_provider(Provider::AzureVision);
        holds.pause(Provider::OpenAi, 10 * SECOND);
        assert!(!is_held(&holds).await, "the image jobs go on");
        // Once no image job was seen for a while, it is a queue of one provider.
        tokio::time::advance(2 * MEMORY).await;
        holds.record_provider(Provider::OpenAi);
        holds.pause(Provider::OpenAi, 10 * SECOND);
        assert!(is_held(&holds).await);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_mixed_queue_no_more_jobs_are_put_off_than_there_are_slots() {
        let holds = ClaimPauses::default();
        holds.record_provider(Provider::OpenAi);
        assert!(!holds.park(Provider::OpenAi, SECOND, 2), "no job is behind it");
        holds.record_provider(Provider::AzureVision);
        assert!(holds.park(Provider::OpenAi, SECOND, 2));
        assert!(holds.park(Provider::OpenAi, SECOND, 2));
        assert!(!holds.park(Provider::OpenAi, SECOND, 2));
        tokio::time::advance(2 * SECOND).await;
        assert!(holds.park(Provider::OpenAi, SECOND, 2));
    }
}
