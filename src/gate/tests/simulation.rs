//! Simulates the breaker's rule at the traffic of a real fleet: false openings, the time until an outage opens it, and
//! the provider's load after one. `scripts/simulate-breaker.sh` runs it at full size and prints the figures.
//!
//! The statistics run on the replica's own breaker, which has the scripts' rules and no Redis; the outage and the
//! recovery run on the scripts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    is_long_run,
    rig::{Rig, breaker, concurrent, unlimited},
};
use crate::gate::{
    BreakerSettings, LimitSettings, Settlement,
    decision::{Effect, Reason, State},
    fallback::{LocalBreaker, LocalFallback, LocalLimits},
    protocol::BreakerControl,
    settlement::CallOutcome::{self, Failure, Success},
};

/// Calls of a provider that come at random (Poisson), so many a minute.
struct Traffic {
    local: LocalFallback,
    rng: StdRng,
    start: Instant,
    /// Seconds since the start.
    now: f64,
    per_second: f64,
}

impl Traffic {
    fn new(settings: BreakerSettings, per_minute: u32, seed: u64) -> Self {
        let start = Instant::now();
        let breaker = Arc::new(Mutex::new(LocalBreaker::new(settings)));
        Self {
            local: LocalFallback::new(breaker, LocalLimits::new(LimitSettings::default(), start)),
            rng: StdRng::seed_from_u64(seed),
            start,
            now: 0.0,
            per_second: f64::from(per_minute) / 60.0,
        }
    }

    /// The next call, which fails with this probability. `None` for one that the breaker rejects.
    fn call(&mut self, failing: f64) -> Option<Effect> {
        let uniform: f64 = self.rng.random();
        self.now += -(1.0 - uniform).ln() / self.per_second;
        let at = self.start + Duration::from_secs_f64(self.now);
        let account = self.local.admit(at, 0, 1).ok()?.account;
        let outcome = if self.rng.random_bool(failing) {
            Failure
        } else {
            Success
        };
        self.local
            .end(at, account, Settlement::new(outcome), true)
            .map(|settled| settled.effect)
    }
}

/// Openings of a breaker whose provider only has independent errors, an hour.
fn false_openings(per_minute: u32, failing: f64, hours: u32) -> f64 {
    let mut traffic = Traffic::new(breaker(), per_minute, 17);
    let mut openings = 0u32;
    while traffic.now < f64::from(hours) * 3600.0 {
        openings += u32::from(traffic.call(failing) == Some(Effect::Opened));
    }
    f64::from(openings) / f64::from(hours)
}

#[test]
fn a_healthy_provider_is_hardly_ever_shut_at_any_traffic() {
    let hours = if is_long_run() { 200 } else { 8 };
    println!("false openings an hour, {hours} simulated hours each");
    for per_minute in [50, 200, 500, 1000] {
        for failing in [0.005, 0.01, 0.02] {
            let openings = false_openings(per_minute, failing, hours);
            println!(
                "  {per_minute:>4} a minute, {:.1} % errors: {openings:.3}",
                failing * 100.0
            );
            // A short run resolves no less than one opening in its hours.
            let resolved = if is_long_run() { 0.05 } else { 0.13 };
            assert!(
                openings <= resolved,
                "{per_minute} a minute, {failing}: {openings}"
            );
        }
    }
}

/// Seconds and calls from the moment at which so many calls fail until the breaker opens.
fn time_to_open(per_minute: u32, failing: f64, seed: u64) -> (f64, u32) {
    let mut traffic = Traffic::new(breaker(), per_minute, seed);
    for _ in 0..50 {
        traffic.call(0.0);
    }
    let (since, mut calls) = (traffic.now, 0);
    loop {
        calls += 1;
        if traffic.call(failing) == Some(Effect::Opened) {
            return (traffic.now - since, calls);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn an_outage_is_seen_within_five_calls_and_a_half_failing_provider_soon() {
    for per_minute in [50, 200, 1000] {
        let (_, calls) = time_to_open(per_minute, 1.0, 1);
        println!("full outage at {per_minute} a minute: open after {calls} calls");
        assert!(calls <= 5, "{calls}");
    }
    let runs: Vec<(f64, u32)> = (0..4000).map(|seed| time_to_open(50, 0.5, seed)).collect();
    let seconds = median(runs.iter().map(|(seconds, _)| *seconds).collect());
    let calls = median(runs.iter().map(|(_, calls)| f64::from(*calls)).collect());
    println!("half failing at 50 a minute: open after {seconds:.1} s and {calls} calls (median of 4000)");
    assert!(seconds <= 12.0, "{seconds}");
}

/// The outage on the scripts: whatever was before, five failed calls in a row are enough.
#[tokio::test]
async fn the_scripts_see_a_full_outage_within_five_calls() {
    let rig = Rig::start().await;
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..20 {
        let gate = rig.gate(breaker(), unlimited());
        for n in 0..rng.random_range(0..40) {
            let outcome = if rng.random_bool(0.02) { Failure } else { Success };
            let id = format!("{round}:{n}");
            assert!(gate.passes(&id).await);
            gate.ends(&id, outcome).await;
            rig.pass(300).await;
        }
        let mut calls = 0;
        while gate.passes(&format!("{round}:out{calls}")).await {
            gate.ends(&format!("{round}:out{calls}"), Failure).await;
            calls += 1;
        }
        assert!(calls <= 5, "{calls}");
    }
}

const LIMIT: u32 = 8;
const JOBS: usize = 1000;
const STEP: u64 = 250;
const LATENCY: u64 = 2_000;

/// The provider is back, with half of its capacity for the first 30 s, and a thousand jobs wait: it never sees more
/// calls than the ramp allows, so none fails, and the breaker does not open again.
#[tokio::test]
async fn a_backlog_does_not_knock_over_a_provider_that_has_just_recovered() {
    let rig = Rig::start().await;
    let gate = rig.gate(breaker(), concurrent(LIMIT));
    gate.redis.control(BreakerControl::Open).await.unwrap();
    rig.pass(60_000).await;
    let back = rig.now();
    let (mut waiting, mut ends): (usize, VecDeque<(u64, String)>) = (JOBS, VecDeque::new());
    let (mut closed_at, mut number, mut openings, mut overloaded) = (None, 0, 0, 0);
    let mut most_seen = [0usize; 3];
    while waiting + ends.len() > 0 {
        let now = rig.now();
        while ends.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = ends.pop_front() else { break };
            let effect = gate.ends(&id, Success).await;
            openings += usize::from(matches!(effect, Effect::Opened | Effect::Reopened));
            closed_at = closed_at.or((effect == Effect::Closed).then_some(now));
        }
        while waiting > 0 {
            let id = format!("j{number}");
            match gate.admit(id.as_str(), 0).await.unwrap().refusal() {
                None => {}
                Some((Reason::Concurrency | Reason::HalfOpen, _)) => break,
                other => panic!("{other:?}"),
            }
            (number, waiting) = (number + 1, waiting - 1);
            let capacity = if now < back + 32_000 { LIMIT / 2 } else { LIMIT };
            if ends.len() >= capacity as usize {
                overloaded += 1;
                let effect = gate.ends(&id, CallOutcome::Failure).await;
                openings += usize::from(matches!(effect, Effect::Opened | Effect::Reopened));
                waiting += 1;
            } else {
                ends.push_back((now + LATENCY, id));
            }
        }
        let since = closed_at.map(|at| now - at);
        let allowed = match since {
            None => 3, // probes
            Some(0..15_000) => LIMIT / 4,
            Some(15_000..30_000) => LIMIT / 2,
            Some(_) => LIMIT,
        };
        // Probes that were sent before it closed may still be under way.
        let probes = if since.is_some_and(|since| since < LATENCY) {
            3
        } else {
            0
        };
        assert!(
            ends.len() <= allowed.max(probes) as usize,
            "{} at {since:?}",
            ends.len()
        );
        let phase = since.map_or(0, |since| usize::try_from(since / 15_000).unwrap().min(2));
        most_seen[phase] = most_seen[phase].max(ends.len());
        rig.pass(STEP).await;
    }
    println!(
        "recovery with {JOBS} jobs waiting, limit {LIMIT}: at most {most_seen:?} calls in flight (0-15 s, 15-30 s, later), \
         {overloaded} overloaded, {openings} openings, all done after {:.0} s",
        (rig.now() - back) as f64 / 1000.0
    );
    assert_eq!((overloaded, openings), (0, 0));
    assert_eq!(most_seen[2], LIMIT as usize);
    assert_eq!(
        gate.redis.control(BreakerControl::Status).await.unwrap().state,
        State::Closed
    );
}
