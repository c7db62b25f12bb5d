//! I1 to I8, each by its name (I9 and I10 are in `bounds`). `explore` and `model` check most of them again in every
//! state that they reach.

use super::rig::{Rig, breaker, concurrent, limit, ms, requests, tokens, unlimited};
use crate::gate::{
    BreakerSettings, LimitSettings, Settlement,
    batched_gate::BatchedGate,
    decision::{Effect, Reason, State},
    protocol::BreakerControl,
    settlement::CallOutcome::{Cancelled, Failure, Ignored, Success},
};

/// Everything that the gate stores, except what is merely garbage by now.
async fn dump(rig: &Rig, gate: &BatchedGate) -> Vec<String> {
    let keys = &gate.redis.keys;
    let mut all: Vec<String> = rig.contract(gate).await.map(|v| v.unwrap_or_default()).to_vec();
    for hash in [&keys.meta, &keys.win, &keys.lease_data] {
        let mut pairs: Vec<(String, String)> = rig.query(&["HGETALL", hash]).await;
        pairs.retain(|(field, _)| !["oldest", "hw"].contains(&field.as_str())); // where the rubbish begins; the time
        pairs.sort();
        all.push(format!("{pairs:?}"));
    }
    for zset in [&keys.probes, &keys.leases] {
        all.push(format!(
            "{:?}",
            rig.query::<Vec<(String, u64)>>(&["ZRANGE", zset, "0", "-1", "WITHSCORES"])
                .await
        ));
    }
    all
}

async fn epoch(rig: &Rig, gate: &BatchedGate) -> u64 {
    rig.query(&["HGET", &gate.redis.keys.meta, "epoch"]).await
}

/// Opens the breaker by failures.
async fn open(gate: &BatchedGate) {
    for n in 0..5 {
        assert!(gate.passes(&format!("open{n}")).await);
        gate.ends(&format!("open{n}"), Failure).await;
    }
    assert_eq!(
        gate.redis.control(BreakerControl::Status).await.unwrap().state,
        State::Open
    );
}

#[tokio::test]
async fn i1_live_probes_and_successes_never_exceed_the_half_open_maximum() {
    let rig = Rig::start().await;
    for (max, wanted) in [(1, 1), (2, 2), (3, 2), (5, 3)] {
        let gate = rig.gate(
            BreakerSettings {
                half_open_max: max,
                success_threshold: wanted,
                ..breaker()
            },
            unlimited(),
        );
        gate.redis.control(BreakerControl::Open).await.unwrap();
        rig.pass(60_000).await;
        let mut probes: Vec<String> = Vec::new();
        let mut tried = 0;
        for successes in 0..wanted {
            for _ in 0..=max {
                tried += 1;
                if gate.passes(&format!("p{tried}")).await {
                    probes.push(format!("p{tried}"));
                }
            }
            assert_eq!(
                u32::try_from(probes.len()).unwrap() + successes,
                max,
                "of {max}, {wanted} wanted"
            );
            gate.ends(&probes.remove(0), Success).await;
        }
        assert_eq!(
            gate.redis.control(BreakerControl::Status).await.unwrap().state,
            State::Closed
        );
    }
}

#[tokio::test]
async fn i2_stale_expired_and_unknown_outcomes_never_move_the_breaker() {
    let rig = Rig::start().await;
    let gate = rig.gate(breaker(), unlimited());
    for id in ["stale1", "stale2", "expired1", "expired2"] {
        assert!(gate.passes(id).await);
    }
    rig.pass(15_000).await;
    for (id, outcome) in [
        ("expired1", Failure),
        ("expired2", Success),
        ("never", Failure),
        ("expired1", Failure),
    ] {
        let before = rig.contract(&gate).await;
        assert!(matches!(
            gate.ends(id, outcome).await,
            Effect::Expired | Effect::Unknown
        ));
        assert_eq!(rig.contract(&gate).await, before);
    }
    gate.redis.control(BreakerControl::Open).await.unwrap();
    rig.pass(60_000).await;
    assert!(gate.passes("probe").await);
    let before = (rig.contract(&gate).await, epoch(&rig, &gate).await);
    for (id, outcome) in [("stale1", Failure), ("stale2", Success)] {
        assert!(matches!(
            gate.ends(id, outcome).await,
            Effect::Stale | Effect::Unknown
        ));
        assert_eq!((rig.contract(&gate).await, epoch(&rig, &gate).await), before);
    }
}

#[tokio::test]
async fn i3_live_leases_never_exceed_the_limit() {
    let rig = Rig::start().await;
    let gate = rig.gate(breaker(), concurrent(4));
    let mut held: Vec<String> = Vec::new();
    for n in 0u64..200 {
        let id = format!("c{n}");
        if gate.passes(&id).await {
            held.push(id);
        } else {
            assert_eq!(held.len(), 4, "a slot was free");
        }
        assert!(held.len() <= 4);
        if n % 3 == 0 && !held.is_empty() {
            gate.ends(&held.remove(0), if n % 2 == 0 { Success } else { Cancelled })
                .await;
        }
        rig.pass(n % 7 * 100).await;
        let ids: Vec<&str> = held.iter().map(String::as_str).collect();
        assert_eq!(gate.lost(&ids).await.len(), 0);
    }
}

#[tokio::test]
async fn i4_a_rejection_consumes_nothing() {
    let rig = Rig::start().await;
    let pause = Settlement {
        throttle: Some(ms(5000)),
        ..Settlement::new(Ignored)
    };
    let closed = [
        (Reason::Rpm, requests(1)),
        (Reason::Tpm, tokens(10)),
        (Reason::TooLarge, tokens(9)),
        (Reason::Concurrency, concurrent(1)),
        (Reason::Throttled, unlimited()),
    ];
    for (reason, limits) in closed {
        let gate = rig.gate(breaker(), limits);
        assert!(gate.admit("1", 1).await.unwrap().passes());
        if reason == Reason::Throttled {
            gate.settle("1", pause).await.unwrap();
        }
        refuses_without_a_trace(&rig, &gate, reason).await;
    }
    // In OPEN after its time the call would have been the first probe, had the limit not stood in its way.
    let gate = rig.gate(breaker(), concurrent(6));
    for n in 0..6 {
        assert!(gate.passes(&format!("busy{n}")).await);
    }
    gate.redis.control(BreakerControl::Open).await.unwrap();
    refuses_without_a_trace(&rig, &gate, Reason::Open).await;
    for _ in 0..6 {
        rig.pass(10_000).await;
        gate.lost(&["busy0", "busy1", "busy2", "busy3", "busy4", "busy5"])
            .await;
    }
    refuses_without_a_trace(&rig, &gate, Reason::Concurrency).await;
    assert_eq!(rig.contract(&gate).await[0].as_deref(), Some("OPEN"));
    for n in 0..6 {
        gate.ends(&format!("busy{n}"), Success).await;
    }
    for id in ["p1", "p2", "p3"] {
        assert!(gate.admit(id, 0).await.unwrap().is_probe());
    }
    refuses_without_a_trace(&rig, &gate, Reason::HalfOpen).await;
}

async fn refuses_without_a_trace(rig: &Rig, gate: &BatchedGate, reason: Reason) {
    let before = dump(rig, gate).await;
    for n in 0..3 {
        let refusal = gate.admit(format!("no{n}"), 10).await.unwrap().refusal();
        assert_eq!(refusal.map(|(why, _)| why), Some(reason));
    }
    assert_eq!(dump(rig, gate).await, before, "{reason}");
}

#[tokio::test]
async fn i5_the_epoch_strictly_increases_with_each_transition() {
    let rig = Rig::start().await;
    let gate = rig.gate(
        BreakerSettings {
            open_for: ms(1),
            ..breaker()
        },
        unlimited(),
    );
    // The clock stands still on purpose: several transitions in one millisecond.
    open(&gate).await;
    let mut last = epoch(&rig, &gate).await;
    for round in 0..5 {
        let mut grows = async || {
            let now = epoch(&rig, &gate).await;
            assert!(now > last, "{now} after {last}");
            last = now;
        };
        rig.pass(1).await;
        assert!(gate.passes(&format!("a{round}")).await);
        grows().await; // HALF_OPEN
        gate.ends(&format!("a{round}"), Failure).await;
        grows().await; // OPEN
        gate.redis.control(BreakerControl::Close).await.unwrap();
        grows().await; // CLOSED
        gate.redis.control(BreakerControl::Open).await.unwrap();
        grows().await; // OPEN
    }
    // Nor is one used again after the data was lost, once the clock has moved.
    let _: () = rig.query(&["FLUSHALL"]).await;
    rig.set_clock(rig.now() + 30).await;
    assert!(gate.passes("new").await);
    assert!(epoch(&rig, &gate).await > last);
}

#[tokio::test]
async fn i6_from_every_state_a_fresh_call_is_admitted_after_timeout_and_ttl() {
    let rig = Rig::start().await;
    for scene in 0..6 {
        let limits = LimitSettings {
            requests_per_minute: limit(8),
            ..concurrent(8)
        };
        let gate = rig.gate(breaker(), limits);
        if scene > 0 {
            open(&gate).await;
        }
        if scene > 1 {
            rig.pass(60_000).await;
            for id in ["p1", "p2", "p3"] {
                assert!(gate.passes(id).await);
            }
        }
        match scene {
            3 => assert_eq!(gate.ends("p1", Failure).await, Effect::Reopened),
            4 => assert_eq!(gate.ends("p1", Success).await, Effect::Recorded),
            5 => {
                let _: u64 = rig
                    .query(&[
                        "DEL",
                        &gate.redis.keys.meta,
                        &gate.redis.keys.opened_at,
                        &gate.redis.keys.win,
                    ])
                    .await;
            }
            _ => {}
        }
        // Every call that was in flight is dead.
        rig.pass(120_000 + 15_000).await; // The second opening in a row lasts twice as long.
        assert!(gate.passes("fresh").await, "scene {scene}");
    }
}

#[tokio::test]
async fn i7_an_open_breaker_has_opened_in_the_past() {
    let rig = Rig::start().await;
    let gate = rig.gate(breaker(), unlimited());
    open(&gate).await;
    for back in [0, 1000, 59_000, 3_600_000] {
        rig.step_back(back).await;
        let answer = gate.admit("x", 0).await.unwrap();
        let opened_at: u64 = rig.contract(&gate).await[3].as_ref().unwrap().parse().unwrap();
        assert!(
            opened_at <= answer.now,
            "after a step of {back} ms: {opened_at}, {}",
            answer.now
        );
        assert!(answer.refusal().unwrap().1 <= Some(60_000));
    }
}

#[tokio::test]
async fn i8_a_second_settle_is_a_no_op() {
    let rig = Rig::start().await;
    let outcomes = [Success, Failure, Ignored, Cancelled];
    for first in outcomes {
        for second in outcomes {
            for half_open in [false, true] {
                let gate = rig.gate(breaker(), tokens(1000));
                if half_open {
                    gate.redis.control(BreakerControl::Open).await.unwrap();
                    rig.pass(60_000).await;
                }
                assert!(gate.admit("1", 10).await.unwrap().passes());
                gate.ends("1", first).await;
                let before = dump(&rig, &gate).await;
                let again = Settlement {
                    tokens: Some(500),
                    throttle: Some(ms(1000)),
                    ..Settlement::new(second)
                };
                assert_eq!(gate.settle("1", again).await.unwrap().effect, Effect::Unknown);
                assert_eq!(dump(&rig, &gate).await, before, "{first:?}, then {second:?}");
            }
        }
    }
}
