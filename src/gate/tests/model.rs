//! The gate, said again in other words: no rings, no running totals, no counters. `sequences` holds the scripts against
//! it. Two providers share a breaker.

use std::{collections::BTreeMap, num::NonZeroU32};

use jobs::AccountFault;

use super::rig::ms;
use crate::gate::{
    BreakerSettings, LimitSettings, Settlement,
    decision::{Effect, Reason, State},
    protocol::{AdmissionReply, AdmissionVerdict, SettlementReply},
    settlement::CallOutcome,
};
use crate::time_format::millis;

const LEASE: u64 = 15_000;
const BUCKET: u64 = 5000;
const BUCKETS: u64 = 13;
const SLICE: u64 = 500;
/// How long after its slice a charge counts: a minute, and a moment for calls that are slow to reach the provider.
const COUNTED: u64 = 60_200;
const LAST_CALLS: usize = 10;
const LONGEST_OPEN: u64 = 600_000;
const RAMP_STEP: u64 = 15_000;

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
    throttled: u64,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) breaker: BreakerSettings,
    pub(super) state: State,
    epoch: u64,
    failures: Vec<u64>,
    /// Failures that counted at the last one.
    counted: u32,
    /// True for each call that failed.
    calls: Vec<bool>,
    /// Openings in a row, and the epoch of the last.
    opens: (u32, u64),
    /// The epoch that began with a recovery.
    recovered: u64,
    fault: Option<AccountFault>,
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
            throttled: 0,
        };
        Self {
            breaker,
            state: State::Closed,
            epoch: 0,
            failures: Vec::new(),
            counted: 0,
            calls: Vec::new(),
            opens: (0, 0),
            recovered: 0,
            fault: None,
            opened_at: None,
            successes: 0,
            leases: BTreeMap::new(),
            providers: limits.map(provider),
        }
    }

    pub(super) fn enter(&mut self, state: State, now: u64) {
        (self.state, self.epoch) = (state, now.max(self.epoch + 1));
        (self.failures, self.calls, self.successes) = (Vec::new(), Vec::new(), 0);
        match state {
            State::Open => self.opened_at = Some(now),
            State::Closed => self.opened_at = None,
            State::HalfOpen => {}
        }
        if state != State::Open {
            self.counted = 0;
        }
    }

    /// Closed by an operator or by the web API: what was before is over.
    pub(super) fn reset(&mut self, now: u64) {
        self.enter(State::Closed, now);
        (self.opens, self.recovered, self.fault) = ((0, 0), 0, None);
    }

    fn open(&mut self, now: u64) {
        let closed_for = i128::from(now) - i128::from(self.epoch);
        let stable = i128::from(millis(self.breaker.window).max(self.row_time()));
        let in_a_row = if self.state == State::Closed && closed_for >= stable {
            1
        } else {
            self.opens.0 + 1
        };
        self.enter(State::Open, now);
        self.opens = (in_a_row, self.epoch);
    }

    /// How long the last opening of a row lasts.
    fn row_time(&self) -> u64 {
        let usual = millis(self.breaker.open_for);
        let mut time = usual;
        for _ in 1..self.opens.0.min(21) {
            time *= 2;
        }
        time.min(LONGEST_OPEN).max(usual)
    }

    /// How many calls may be in flight.
    fn in_flight_limit(&self, limit: Option<NonZeroU32>, now: u64) -> Option<u64> {
        let limit = limit.map(|n| u64::from(n.get()));
        if self.state != State::Closed {
            return limit;
        }
        let since = i128::from(now) - i128::from(self.epoch);
        let step = i128::from(RAMP_STEP);
        let ramped = limit.map(|n| match since {
            s if self.recovered != self.epoch || s <= -step || s >= 2 * step => n,
            s if s < step => (n / 4).max(1),
            _ => (n / 2).max(1),
        });
        let missing = u64::from(self.breaker.failure_threshold.saturating_sub(self.counted).max(1));
        match self.fault {
            Some(_) => Some(ramped.map_or(missing, |n| n.min(missing))),
            None => ramped,
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

    pub(super) fn admit(&mut self, gate: usize, id: &str, tokens: u64, now: u64) -> AdmissionReply {
        self.begin(now);
        let granted = |state, epoch, probe, expires, moved_to| AdmissionReply {
            verdict: AdmissionVerdict::Granted { probe, expires },
            state,
            epoch,
            now,
            moved_to,
        };
        if let Some(lease) = self.leases.get(id).filter(|l| !l.gone && l.expires > now) {
            return granted(self.state, lease.epoch, lease.probe, lease.expires, None);
        }
        let (state, epoch, fault) = (self.state, self.epoch, self.fault);
        let refused = |reason, wait: Option<u64>| AdmissionReply {
            verdict: AdmissionVerdict::Refused {
                reason,
                wait: wait.map(|w| ms(w.max(1))),
                fault,
            },
            state,
            epoch,
            now,
            moved_to: None,
        };
        let open_time = if self.opens.1 == epoch {
            self.row_time()
        } else {
            millis(self.breaker.open_for)
        };
        let reopens_at = self.opened_at.map_or(0, |at| at + open_time);
        if state == State::Open && reopens_at > now {
            return refused(Reason::Open, Some(reopens_at - now));
        }
        if state == State::HalfOpen {
            let probes: Vec<u64> = self
                .live(now)
                .filter(|l| l.probe && l.epoch == epoch)
                .map(|l| l.expires - now)
                .collect();
            let most = match fault {
                Some(_) if self.successes == 0 => 1,
                _ => self.breaker.half_open_max.max(self.breaker.success_threshold),
            };
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
        if self
            .in_flight_limit(limits.max_concurrent, now)
            .is_some_and(|n| in_flight.len() as u64 >= n)
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
        granted(self.state, self.epoch, probe, expires, moved_to)
    }

    pub(super) fn settle(
        &mut self,
        gate: usize,
        id: &str,
        settlement: Settlement,
        now: u64,
    ) -> SettlementReply {
        self.begin(now);
        let says = |effect, state, count| SettlementReply {
            effect,
            state,
            count,
            failed: 0,
            of_calls: 0,
        };
        let Some(lease) = self.leases.get_mut(id).filter(|l| !l.gone && l.gate == gate) else {
            return says(Effect::Unknown, self.state, 0);
        };
        lease.gone = true;
        let (bucket, stale, expired) = (lease.bucket, lease.epoch != self.epoch, lease.expires <= now);
        let provider = &mut self.providers[gate];
        if bucket >= provider.oldest {
            let charge = provider.charges.iter_mut().find(|c| c.id == id).unwrap();
            if settlement.outcome == CallOutcome::Cancelled {
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
        match settlement.outcome {
            CallOutcome::Success => self.fault = None,
            CallOutcome::Failure => self.fault = settlement.fault,
            CallOutcome::Ignored | CallOutcome::Cancelled => {}
        }
        match (settlement.outcome, self.state) {
            (CallOutcome::Ignored | CallOutcome::Cancelled, state) => says(Effect::Ignored, state, 0),
            (CallOutcome::Success, State::HalfOpen) => {
                let successes = self.successes + 1;
                if successes >= self.breaker.success_threshold {
                    self.enter(State::Closed, now);
                    self.recovered = self.epoch;
                    return says(Effect::Closed, State::Closed, successes);
                }
                self.successes = successes;
                says(Effect::Recorded, State::HalfOpen, successes)
            }
            (CallOutcome::Failure, State::HalfOpen) => {
                self.open(now);
                says(Effect::Reopened, State::Open, 1)
            }
            (CallOutcome::Failure, State::Closed) => {
                self.failures.push(now);
                let window = millis(self.breaker.window);
                let counted = self.failures.iter().filter(|at| **at + window > now).count();
                let threshold = self.breaker.failure_threshold;
                self.counted = u32::try_from(counted).unwrap().min(threshold);
                self.calls.push(true);
                let last = &self.calls[self.calls.len().saturating_sub(LAST_CALLS)..];
                let failed = last.iter().filter(|failed| **failed).count();
                let mut settled = SettlementReply {
                    failed: u32::try_from(failed).unwrap(),
                    of_calls: u32::try_from(last.len()).unwrap(),
                    ..says(Effect::Recorded, State::Closed, self.counted)
                };
                let share = failed as f64 / last.len() as f64;
                if self.counted == threshold && share * 100.0 >= f64::from(self.breaker.share.percent()) {
                    let counted = self.counted;
                    self.open(now);
                    self.counted = counted;
                    (settled.effect, settled.state) = (Effect::Opened, State::Open);
                }
                settled
            }
            (CallOutcome::Success, State::Closed) => {
                self.calls.push(false);
                says(Effect::Recorded, State::Closed, 0)
            }
            (CallOutcome::Success | CallOutcome::Failure, state) => says(Effect::Recorded, state, 0),
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
