//! A replica's share of one provider's limits, for the time that Redis is away.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{LocalRefusal, RecoveryRamp};
use crate::gate::{
    decision::Reason,
    settings::LimitSettings,
    settlement::{CallOutcome, Settlement},
};

const BUCKET: Duration = Duration::from_secs(5);
/// A minute.
const BUCKETS: u64 = 12;
/// A slot comes free whenever a call ends.
const SLOT_HINT: Duration = Duration::from_millis(250);

/// Calls in flight and the cost of the last minute, by the same rules as the scripts.
#[derive(Debug)]
pub(in crate::gate) struct LocalLimits {
    settings: LimitSettings,
    started: Instant,
    /// At most 13: one more than the window is long, so that no window ever holds more than the limit.
    buckets: VecDeque<UsageBucket>,
    in_flight: u64,
    throttled_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct UsageBucket {
    number: u64,
    requests: u64,
    tokens: u64,
}

/// The charge of a call.
#[derive(Debug)]
pub(in crate::gate) struct LimitCharge {
    bucket: u64,
    tokens: u64,
}

impl LocalLimits {
    pub(in crate::gate) fn new(settings: LimitSettings, started: Instant) -> Self {
        Self {
            settings,
            started,
            buckets: VecDeque::new(),
            in_flight: 0,
            throttled_until: None,
        }
    }

    /// Checks whether a call may pass now, for one of `replicas`. A refusal names the longest wait.
    ///
    /// `caution` is the breaker's share of the concurrency limit.
    pub(super) fn check(
        &mut self,
        now: Instant,
        tokens: u64,
        replicas: u32,
        caution: RecoveryRamp,
    ) -> Result<(), LocalRefusal> {
        self.forget_old(now);
        let LimitSettings {
            requests_per_minute,
            tokens_per_minute,
            max_concurrent,
        } = self.settings;
        let mut longest: Option<(Duration, Reason)> = None;
        let mut needs = |reason, wait: Duration| {
            if wait > longest.map_or(Duration::ZERO, |(known, _)| known) {
                longest = Some((wait, reason));
            }
        };
        if let Some(until) = self.throttled_until {
            needs(Reason::Throttled, until.saturating_duration_since(now));
        }
        let ramped = max_concurrent.map(|limit| (share(limit, replicas) * caution.percent / 100).max(1));
        if ramped.is_some_and(|most| self.in_flight >= most)
            || caution.most.is_some_and(|most| self.in_flight >= most)
        {
            needs(Reason::Concurrency, SLOT_HINT);
        }
        if let Some(limit) = requests_per_minute {
            needs(
                Reason::Rpm,
                self.until_free(now, |b| b.requests, 1, share(limit, replicas)),
            );
        }
        if let Some(limit) = tokens_per_minute {
            if tokens > u64::from(limit.get()) {
                return Err(LocalRefusal::new(Reason::TooLarge, None));
            }
            // A call that is larger than the share passes when nothing else has been used.
            let limit = share(limit, replicas).max(tokens);
            needs(Reason::Tpm, self.until_free(now, |b| b.tokens, tokens, limit));
        }
        match longest {
            Some((wait, reason)) => Err(LocalRefusal::new(reason, Some(wait))),
            None => Ok(()),
        }
    }

    /// Puts a call down that passes.
    pub(super) fn charge(&mut self, now: Instant, tokens: u64) -> LimitCharge {
        self.forget_old(now);
        self.in_flight += 1;
        let number = self.bucket(now);
        match self.buckets.back_mut() {
            Some(last) if last.number == number => {
                last.requests += 1;
                last.tokens = last.tokens.saturating_add(tokens);
            }
            _ => self.buckets.push_back(UsageBucket {
                number,
                requests: 1,
                tokens,
            }),
        }
        LimitCharge {
            bucket: number,
            tokens,
        }
    }

    /// A call has ended: its slot is free, and its charge corrected.
    pub(super) fn release(&mut self, now: Instant, charge: LimitCharge, settlement: Settlement) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(wait) = settlement.throttle {
            self.throttle(now + wait);
        }
        let cancelled = settlement.outcome == CallOutcome::Cancelled;
        let used = if cancelled {
            0
        } else {
            settlement.tokens.unwrap_or(charge.tokens)
        };
        if let Some(bucket) = self.buckets.iter_mut().find(|b| b.number == charge.bucket) {
            bucket.requests = bucket.requests.saturating_sub(u64::from(cancelled));
            bucket.tokens = bucket.tokens.saturating_sub(charge.tokens).saturating_add(used);
        }
    }

    /// The provider wants to be left alone. A shorter pause never shortens a longer one.
    pub(super) fn throttle(&mut self, until: Instant) {
        self.throttled_until = self.throttled_until.max(Some(until));
    }

    fn bucket(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / BUCKET.as_secs()
    }

    fn forget_old(&mut self, now: Instant) {
        let current = self.bucket(now);
        while self.buckets.front().is_some_and(|b| b.number + BUCKETS < current) {
            self.buckets.pop_front();
        }
    }

    /// How long until `cost` fits below `limit`; zero when it does now.
    fn until_free(&self, now: Instant, of: impl Fn(&UsageBucket) -> u64, cost: u64, limit: u64) -> Duration {
        let mut total: u64 = self.buckets.iter().map(&of).fold(cost, u64::saturating_add);
        let mut wait = Duration::ZERO;
        for bucket in &self.buckets {
            if total <= limit {
                break;
            }
            total = total.saturating_sub(of(bucket));
            let age = now.saturating_duration_since(self.started);
            let leaves = Duration::from_secs((bucket.number + BUCKETS + 1) * BUCKET.as_secs());
            wait = leaves.saturating_sub(age);
        }
        wait
    }
}

/// One replica's part of a limit, at least 1. All shares add up to four fifths of the limit: the rest covers replicas
/// that this one has not counted.
fn share(limit: NonZeroU32, replicas: u32) -> u64 {
    (u64::from(limit.get()) / u64::from(replicas.max(1)) * 4 / 5).max(1)
}
