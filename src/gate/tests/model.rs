//! The gate, said again in other words: no rings, no running totals, no counters. `sequences` holds the scripts against
//! it. Two providers share a breaker.

use std::collections::BTreeMap;

use super::rig::ms;
use crate::gate::{
    BreakerSettings, LimitSettings, Settlement,
    permit::Outcome,
    settings::millis,
    verdict::{Effect, Reason, State},
    wire::{Answer, Settled, Verdict},
};

const LEASE: u64 = 15_000;
const BUCKET: u64 = 5000;
const BUCKETS: u64 = 13;
const SLICE: u64 = 500;
/// How long after its slice a charge counts: a minute, and a moment for calls that are slow to reach the provider.
const COUNTED: u64 = 60_200;

#[derive(Debug)]
pub(super) struct Lease {
    gate: usize,
    pub(super) expires: u64,
    epoch: u64,
    probe: bool,
    bucket: u64,
    pub(super) gone: bool,
}

#[derive(Debug)]
struct Charge {
    id: String,
    slice: u64,
    requests: u64,
    tokens: u64,
}

#[derive(Debug)]
struct Provider {
    limits: LimitSettings,
    charges: Vec<Charge>,
    /// The oldest bucket that has not been thrown away.
    oldest: u64,
    due: u64,
    throttled: u64,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) breaker: BreakerSettings,
    pub(super) state: State,
    epoch: u64,
    failures: Vec<u64>,
    pub(super) opened_at: Option<u64>,
    pub(super) successes: u32,
    pub(super) leases: BTreeMap<String, Lease>,
    providers: [Provider; 2],
}

impl Model {
    pub(super) fn new(breaker: BreakerSettings, limits: [LimitSettings; 2]) -> Self {
        let provider = |limits| Provider {
            limits,
            charges: Vec::new(),
            oldest: 0,
            due: 0,
            throttled: 0,
        };
        Self {
            breaker,
            state: State::Closed,
            epoch: 0,
            failures: Vec::new(),
            opened_at: None,
            successes: 0,
            leases: BTreeMap::new(),
            providers: limits.map(provider),
        }
    }

    pub(super) fn enter(&mut self, state: State, now: u64) {
        (self.state, self.epoch) = (state, now.max(self.epoch + 1));
        (self.failures, self.successes) = (Vec::new(), 0);
        match state {
            State::Open => self.opened_at = Some(now),
            State::Closed => self.opened_at = None,
            State::HalfOpen => {}
        }
    }

    fn live(&self, now: u64) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(move |l| !l.gone && l.expires > now)
    }

    pub(super) fn begin(&mut self, now: u64) {
        if self.epoch == 0 {
            self.epoch = now;
        }
    }

    pub(super) fn admit(&mut self, gate: usize, id: &str, tokens: u64, now: u64) -> Answer {
        self.begin(now);
        let granted = |state, epoch, probe, expires, moved_to| Answer {
            verdict: Verdict::Granted { probe, expires },
            state,
            epoch,
            now,
            moved_to,
        };
        if let Some(lease) = self.leases.get(id).filter(|l| !l.gone && l.expires > now) {
            return granted(self.state, lease.epoch, lease.probe, lease.expires, None);
        }
        let (state, epoch) = (self.state, self.epoch);
        let refused = |reason, wait: Option<u64>| Answer {
            verdict: Verdict::Refused {
                reason,
                wait: wait.map(|w| ms(w.max(1))),
            },
            state,
            epoch,
            now,
            moved_to: None,
        };
        let reopens_at = self.opened_at.map_or(0, |at| at + millis(self.breaker.open_for));
        if state == State::Open && reopens_at > now {
            return refused(Reason::Open, Some(reopens_at - now));
        }
        if state == State::HalfOpen {
            let probes: Vec<u64> = self
                .live(now)
                .filter(|l| l.probe && l.epoch == epoch)
                .map(|l| l.expires - now)
                .collect();
            let most = self.breaker.half_open_max.max(self.breaker.success_threshold);
            if u32::try_from(probes.len()).unwrap() + self.successes >= most {
                return refused(
                    Reason::HalfOpen,
                    probes.iter().min().copied().map(|w| w.min(1000)),
                );
            }
        }
        // Past the breaker, what is over is thrown away, whatever the limits say.
        let current = now / BUCKET;
        for lease in self
            .leases
            .values_mut()
            .filter(|l| l.gate == gate && l.expires <= now)
        {
            lease.gone = true;
        }
        let provider = &mut self.providers[gate];
        provider.oldest = provider.oldest.max(current - BUCKETS);
        let in_flight: Vec<u64> = self
            .live(now)
            .filter(|l| l.gate == gate)
            .map(|l| l.expires - now)
            .collect();
        let provider = &self.providers[gate];
        let mut waits: Vec<(u64, Reason)> = vec![(provider.throttled.saturating_sub(now), Reason::Throttled)];
        let limits = provider.limits;
        if limits
            .max_concurrent
            .is_some_and(|n| in_flight.len() >= n.get() as usize)
        {
            waits.push((
                in_flight.iter().min().copied().unwrap().min(250),
                Reason::Concurrency,
            ));
        }
        if let Some(n) = limits.requests_per_minute {
            waits.push((
                provider.wait(|c| c.requests, 1, u64::from(n.get()), now),
                Reason::Rpm,
            ));
        }
        if let Some(n) = limits.tokens_per_minute.filter(|_| tokens > 0) {
            if tokens > u64::from(n.get()) {
                return refused(Reason::TooLarge, None);
            }
            waits.push((
                provider.wait(|c| c.tokens, tokens, u64::from(n.get()), now),
                Reason::Tpm,
            ));
        }
        let mut interval = 0;
        if let Some(pace) = limits.pace {
            interval = millis(pace.interval);
            let may_run_ahead = u64::from(pace.burst.get() - 1) * interval;
            waits.push((provider.due.saturating_sub(now + may_run_ahead), Reason::Pace));
        }
        let longest = waits.iter().map(|(wait, _)| *wait).max().unwrap();
        if let Some((wait, reason)) = waits.iter().find(|(wait, _)| *wait == longest && *wait > 0) {
            return refused(*reason, Some(*wait));
        }
        let moved_to = (state == State::Open).then(|| {
            self.enter(State::HalfOpen, now);
            State::HalfOpen
        });
        let (probe, expires) = (self.state == State::HalfOpen, now + LEASE);
        let lease = Lease {
            gate,
            expires,
            epoch: self.epoch,
            probe,
            bucket: current,
            gone: false,
        };
        self.leases.insert(id.to_owned(), lease);
        let provider = &mut self.providers[gate];
        provider.charges.push(Charge {
            id: id.to_owned(),
            slice: now / SLICE,
            requests: 1,
            tokens,
        });
        provider.due = provider.due.max(now) + interval;
        granted(self.state, self.epoch, probe, expires, moved_to)
    }

    pub(super) fn settle(&mut self, gate: usize, id: &str, settlement: Settlement, now: u64) -> Settled {
        self.begin(now);
        let says = |effect, state, count| Settled { effect, state, count };
        let Some(lease) = self.leases.get_mut(id).filter(|l| !l.gone && l.gate == gate) else {
            return says(Effect::Unknown, self.state, 0);
        };
        lease.gone = true;
        let (bucket, stale, expired) = (lease.bucket, lease.epoch != self.epoch, lease.expires <= now);
        let provider = &mut self.providers[gate];
        if bucket >= provider.oldest {
            let charge = provider.charges.iter_mut().find(|c| c.id == id).unwrap();
            if settlement.outcome == Outcome::Cancelled {
                (charge.requests, charge.tokens) = (0, 0);
            } else {
                charge.tokens = settlement.tokens.unwrap_or(charge.tokens);
            }
        }
        if let Some(wait) = settlement.throttle {
            provider.throttled = provider.throttled.max(now + millis(wait));
        }
        if stale || expired {
            return says(if stale { Effect::Stale } else { Effect::Expired }, self.state, 0);
        }
        match (settlement.outcome, self.state) {
            (Outcome::Ignored | Outcome::Cancelled, state) => says(Effect::Ignored, state, 0),
            (Outcome::Success, State::HalfOpen) => {
                let successes = self.successes + 1;
                if successes >= self.breaker.success_threshold {
                    self.enter(State::Closed, now);
                    return says(Effect::Closed, State::Closed, successes);
                }
                self.successes = successes;
                says(Effect::Recorded, State::HalfOpen, successes)
            }
            (Outcome::Failure, State::HalfOpen) => {
                self.enter(State::Open, now);
                says(Effect::Reopened, State::Open, 1)
            }
            (Outcome::Failure, State::Closed) => {
                self.failures.push(now);
                let window = millis(self.breaker.window);
                let counted = self.failures.iter().filter(|at| **at + window > now).count();
                let threshold = self.breaker.failure_threshold;
                let counted = u32::try_from(counted).unwrap().min(threshold);
                if counted == threshold {
                    self.enter(State::Open, now);
                    return says(Effect::Opened, State::Open, counted);
                }
                says(Effect::Recorded, State::Closed, counted)
            }
            (Outcome::Success | Outcome::Failure, state) => says(Effect::Recorded, state, 0),
        }
    }

    pub(super) fn renew(&mut self, gate: usize, ids: &[String], now: u64) -> Vec<String> {
        self.begin(now);
        let mut lost = Vec::new();
        for id in ids {
            match self.leases.get_mut(id) {
                Some(lease) if lease.gate == gate && !lease.gone && lease.expires > now => {
                    lease.expires = now + LEASE
                }
                _ => lost.push(id.clone()),
            }
        }
        lost
    }
}

impl Provider {
    /// How long until `cost` fits: the charges leave slice by slice.
    fn wait(&self, of: impl Fn(&Charge) -> u64, cost: u64, most: u64, now: u64) -> u64 {
        let leaves = |charge: &Charge| (charge.slice + 1) * SLICE + COUNTED;
        let counted_at = |at: u64| -> u64 { self.charges.iter().filter(|c| leaves(c) > at).map(&of).sum() };
        let mut times: Vec<u64> = self.charges.iter().map(leaves).filter(|at| *at > now).collect();
        times.push(now);
        times.sort_unstable();
        let fits = times
            .into_iter()
            .find(|at| counted_at(*at) + cost <= most)
            .unwrap();
        fits - now
    }
}
