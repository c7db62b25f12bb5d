//! Every order of a few events (calls of two providers that share a breaker, their ends, crashes, time, resets by the
//! web API), run on the scripts. What must never be is looked for in each state that can be reached.

use std::collections::{BTreeMap, HashSet, VecDeque};

use redis::FromRedisValue;

use super::{
    is_long_run,
    places::{Call, Event, MOST_IN_FLIGHT, MOST_PROBES, Place, Stored},
    rig::{Rig, T0, breaker, concurrent, ms},
};
use crate::{
    gate::{
        BreakerSettings,
        batched_gate::BatchedGate,
        decision::{Effect, State},
        protocol::{AdmissionVerdict, BreakerControl},
        settlement::CallOutcome,
    },
    keys::GateKeys,
};

/// The size of an exploration.
struct Scope {
    calls: usize,
    /// How often a second, a lease and the open time may pass.
    ticks: [(u64, u32); 3],
    resets: u32,
    from_open: bool,
}

const LEASE: u64 = 15_000;
const OPEN_FOR: u64 = 40_000;
/// The open time doubles with each opening in a row, up to this.
const LONGEST_OPEN: u64 = 600_000;

struct Explorer {
    rig: Rig,
    gates: Vec<BatchedGate>,
    keys: Vec<String>,
    seen: HashSet<(Stored, Place)>,
    waiting: VecDeque<(usize, Place)>,
    saved: usize,
    effects: BTreeMap<&'static str, usize>,
}

impl Explorer {
    async fn new(rig: Rig) -> Self {
        let small = BreakerSettings {
            failure_threshold: 2,
            half_open_max: MOST_PROBES,
            open_for: ms(OPEN_FOR),
            ..breaker()
        };
        let most = concurrent(u32::try_from(MOST_IN_FLIGHT).unwrap());
        let gates = rig.gates(small, [most, most]);
        let mut keys: Vec<String> = gates[0].redis.keys.all().map(str::to_owned).to_vec();
        keys.extend(gates[1].redis.keys.all()[7..].iter().map(|key| (*key).to_owned()));
        Self {
            rig,
            gates,
            keys,
            seen: HashSet::new(),
            waiting: VecDeque::new(),
            saved: 0,
            effects: BTreeMap::new(),
        }
    }

    async fn stored(&self) -> Stored {
        let (one, other): (&GateKeys, &GateKeys) = (&self.gates[0].redis.keys, &self.gates[1].redis.keys);
        let mut call = redis::pipe();
        for key in &one.all()[..5] {
            call.get(*key);
        }
        for hash in [
            &one.meta,
            &one.win,
            &other.win,
            &one.lease_data,
            &other.lease_data,
        ] {
            call.hgetall(hash);
        }
        for zset in [&one.probes, &one.leases, &other.leases] {
            call.zrange_withscores(zset, 0, -1);
        }
        let mut values = self
            .rig
            .connection
            .query::<Vec<redis::Value>>(&call)
            .await
            .unwrap()
            .into_iter();
        fn next<T: FromRedisValue>(values: &mut impl Iterator<Item = redis::Value>) -> T {
            T::from_redis_value(values.next().unwrap()).unwrap()
        }
        let values = &mut values;
        let (state, failures, successes, opened_at, attempts) = (
            next(values),
            next(values),
            next(values),
            next(values),
            next(values),
        );
        let (meta, wins) = (next(values), vec![next(values), next(values)]);
        let lease_data = vec![next(values), next(values)];
        let (probes, leases) = (next(values), vec![next(values), next(values)]);
        Stored {
            state,
            failures,
            successes,
            opened_at,
            attempts,
            meta,
            probes,
            wins,
            leases,
            lease_data,
        }
    }

    /// Copies all keys aside (`false`) or back (`true`).
    async fn copy(&self, number: usize, back: bool) {
        let mut call = redis::pipe();
        for key in &self.keys {
            let aside = format!("saved:{number}:{key}");
            let (from, to) = if back { (&aside, key) } else { (key, &aside) };
            call.del(to).ignore().cmd("COPY").arg(from).arg(to).ignore();
        }
        self.rig.connection.query::<()>(&call).await.unwrap();
    }

    /// Goes on from this place later, unless it has been here before.
    async fn reach(&mut self, stored: Stored, place: Place) {
        if !self.seen.insert((stored, place.clone())) {
            return;
        }
        self.saved += 1;
        self.copy(self.saved, false).await;
        // I6: with all replicas gone, a fresh call passes once the longest open time and the leases are over.
        self.rig.set_clock(place.now + LONGEST_OPEN + LEASE).await;
        assert!(self.gates[0].passes("fresh").await, "I6: {place:#?}");
        self.waiting.push_back((self.saved, place));
    }

    async fn explore(&mut self, scope: &Scope) {
        if scope.from_open {
            self.gates[0].redis.control(BreakerControl::Open).await.unwrap();
        }
        let start = Place {
            calls: vec![Call::Idle; scope.calls],
            ticks: scope.ticks,
            resets: scope.resets,
            now: T0,
        };
        let stored = self.stored().await;
        self.reach(stored, start).await;
        while let Some((number, place)) = self.waiting.pop_front() {
            for event in place.events() {
                self.copy(number, true).await;
                self.rig.set_clock(place.now).await;
                let before = self.stored().await;
                let after = self.run(event, &place, &before).await;
                let stored = self.stored().await;
                if !matches!(event, Event::Reset) {
                    stored.check(after.now);
                }
                self.reach(stored, after).await;
            }
            let aside = self.keys.iter().map(|key| format!("saved:{number}:{key}"));
            let mut call = redis::pipe();
            call.del(aside.collect::<Vec<_>>()).ignore();
            self.rig.connection.query::<()>(&call).await.unwrap();
        }
    }

    async fn run(&mut self, event: Event, place: &Place, before: &Stored) -> Place {
        let mut place = place.clone();
        match event {
            Event::Admit(i) => place.calls[i] = self.admit(i, &place, before).await,
            Event::End(i, outcome) => {
                self.end(i, outcome, &place, before).await;
                place.calls[i] = Call::Ended;
            }
            Event::Crash(i) => place.calls[i] = Call::Dead,
            Event::Tick(i) => {
                place.now += place.ticks[i].0;
                place.ticks[i].1 -= 1;
                self.rig.set_clock(place.now).await;
            }
            Event::Reset => {
                self.rig.node_reset(&self.gates[0]).await;
                place.resets -= 1;
            }
        }
        place
    }

    async fn admit(&mut self, i: usize, place: &Place, before: &Stored) -> Call {
        let answer = self.gates[i % 2].admit(format!("c{i}"), 0).await.unwrap();
        let AdmissionVerdict::Refused { reason, wait, .. } = answer.verdict else {
            *self.effects.entry("admitted").or_default() += 1;
            return Call::Running { epoch: answer.epoch };
        };
        *self.effects.entry(reason.into_str()).or_default() += 1;
        let after = self.stored().await;
        assert_eq!(before.breaker(), after.breaker(), "I4: {reason}");
        assert_eq!(
            before.live_leases(place.now),
            after.live_leases(place.now),
            "I4: {reason}"
        );
        assert!(
            wait.is_some_and(|wait| ms(1) <= wait && wait <= ms(LONGEST_OPEN)),
            "I10: {reason} {wait:?}"
        );
        Call::Idle
    }

    async fn end(&mut self, i: usize, outcome: CallOutcome, place: &Place, before: &Stored) {
        let Call::Running { epoch } = place.calls[i] else {
            unreachable!("only running calls end")
        };
        let effect = self.gates[i % 2].ends(&format!("c{i}"), outcome).await;
        *self.effects.entry(effect.into_str()).or_default() += 1;
        let after = self.stored().await;
        let moved_by_another = !before.is_ours();
        match effect {
            Effect::Stale | Effect::Expired | Effect::Unknown => {
                assert_eq!(before.breaker(), after.breaker(), "I2: {effect}");
                assert!(
                    moved_by_another || before.epoch() == after.epoch(),
                    "I2: {effect}"
                );
            }
            Effect::Opened | Effect::Reopened | Effect::Closed => {
                assert!(
                    after.epoch() > before.epoch() && before.epoch() == epoch,
                    "I5: {effect}"
                );
                let to = if effect == Effect::Closed {
                    State::Closed
                } else {
                    State::Open
                };
                assert_eq!(after.state(), to.into_str());
            }
            Effect::Recorded | Effect::Ignored | Effect::Queued => {
                assert_eq!(before.state(), after.state());
                assert_eq!(before.epoch(), after.epoch(), "I5: {effect}");
            }
        }
        assert_eq!(
            self.gates[i % 2]
                .ends(&format!("c{i}"), CallOutcome::Failure)
                .await,
            Effect::Unknown,
            "I8"
        );
        assert_eq!(self.stored().await, after, "I8");
    }
}

#[tokio::test]
async fn no_order_of_events_breaks_an_invariant() {
    let ticks = |n| [(1000, n), (LEASE, n), (OPEN_FOR, n)];
    let scopes = if is_long_run() {
        vec![
            Scope {
                calls: 3,
                ticks: ticks(1),
                resets: 1,
                from_open: false,
            },
            Scope {
                calls: 4,
                ticks: ticks(1),
                resets: 0,
                from_open: true,
            },
            Scope {
                calls: 2,
                ticks: ticks(2),
                resets: 1,
                from_open: true,
            },
        ]
    } else {
        vec![
            Scope {
                calls: 2,
                ticks: ticks(1),
                resets: 0,
                from_open: false,
            },
            Scope {
                calls: 2,
                ticks: ticks(1),
                resets: 0,
                from_open: true,
            },
        ]
    };
    let rig = Rig::start().await;
    let mut effects: BTreeMap<&str, usize> = BTreeMap::new();
    for scope in scopes {
        let mut explorer = Explorer::new(rig.clone()).await;
        rig.set_clock(T0).await;
        explorer.explore(&scope).await;
        println!("{} states, {:?}", explorer.seen.len(), explorer.effects);
        for (effect, times) in explorer.effects {
            *effects.entry(effect).or_default() += times;
        }
    }
    // An exploration that goes nowhere finds nothing.
    for effect in [
        "admitted", "open", "recorded", "opened", "reopened", "closed", "ignored", "stale", "expired",
    ] {
        assert!(
            effects.get(effect).is_some_and(|times| *times > 0),
            "never reached: {effect}"
        );
    }
}
