//! The limits' duties, and the leases that carry them.

use super::rig::{Rig, breaker, concurrent, limit, ms, requests, same, tokens, unlimited};
use jobs::AccountFault;
use rstest::rstest;

use crate::gate::{
    LimitSettings, Settlement,
    decision::{Effect, Reason},
    protocol::BreakerControl,
    settlement::CallOutcome::{self, Cancelled, Failure, Ignored, Success},
};

fn used(outcome: CallOutcome, tokens: u64) -> Settlement {
    Settlement {
        tokens: Some(tokens),
        ..Settlement::new(outcome)
    }
}

fn slow_down(wait: u64) -> Settlement {
    Settlement {
        throttle: Some(ms(wait)),
        ..Settlement::new(Ignored)
    }
}

/// Every scenario in a row, for the mutations.
pub(super) async fn all(rig: &Rig) -> anyhow::Result<()> {
    requests_are_limited_and_the_wait_is_exact(rig.clone()).await?;
    tokens_are_corrected_both_ways(rig.clone()).await?;
    the_room_is_what_is_admitted(rig.clone()).await?;
    a_call_that_was_never_sent_costs_nothing(rig.clone()).await?;
    a_late_correction_changes_nothing(rig.clone()).await?;
    a_429_pauses_the_provider_for_all_and_only_it(rig.clone()).await?;
    slots_of_the_dead_come_back(rig.clone()).await?;
    a_renewed_probe_keeps_its_place(rig.clone()).await?;
    the_death_of_many_frees_all_their_slots(rig.clone()).await?;
    the_same_id_gets_the_same_permit_and_pays_once(rig.clone()).await?;
    of_several_waits_the_longest_is_told(rig.clone()).await?;
    a_clock_that_steps_back_neither_frees_nor_wedges(rig.clone()).await?;
    a_lost_window_is_not_refunded(rig.clone()).await?;
    garbage_in_the_keys_is_survived(rig.clone()).await?;
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn requests_are_limited_and_the_wait_is_exact(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), requests(10));
    for n in 0..10 {
        same!(gate.passes(&format!("{n}")).await, true);
    }
    let (why, wait) = gate.refusal("x").await.unwrap();
    same!(why, Reason::Rpm);
    rig.pass(wait.unwrap() - 1).await;
    same!(gate.refusal("x").await, Some((Reason::Rpm, Some(1))));
    rig.pass(1).await;
    same!(gate.passes("x").await, true);
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn tokens_are_corrected_both_ways(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), tokens(1000));
    same!(gate.admit("1", 600).await?.passes(), true);
    same!(
        gate.admit("2", 600).await?.refusal().map(|(why, _)| why),
        Some(Reason::Tpm)
    );
    gate.settle("1", used(Success, 300)).await?;
    same!(gate.admit("2", 600).await?.passes(), true);
    gate.settle("2", used(Success, 700)).await?;
    same!(gate.redis.control(BreakerControl::Status).await?.tokens, 1000);
    same!(gate.admit("3", 1).await?.passes(), false);
    same!(gate.admit("4", 0).await?.passes(), true);
    same!(
        gate.admit("5", 1001).await?.refusal(),
        Some((Reason::TooLarge, None))
    );
    Ok(())
}

/// As many calls as it says are admitted then, and no more.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn the_room_is_what_is_admitted(#[case] rig: Rig) -> anyhow::Result<()> {
    let account = Settlement {
        fault: Some(AccountFault::Credit),
        ..Settlement::new(Failure)
    };
    let cases = [
        (requests(7), 100, 3, 4, Reason::Rpm),
        (tokens(1000), 90, 3, 8, Reason::Tpm),
        (tokens(1000), 1000, 0, 1, Reason::Tpm),
        (concurrent(6), 0, 2, 4, Reason::Concurrency),
    ];
    for (limits, estimate, before, left, why) in cases {
        let gate = rig.gate(breaker(), limits);
        for n in 0..before {
            same!(gate.admit(format!("before-{n}"), estimate).await?.passes(), true);
        }
        same!(gate.redis.room(estimate, &[]).await?.calls, left);
        for n in 0..left {
            same!(gate.admit(format!("after-{n}"), estimate).await?.passes(), true);
        }
        let room = gate.redis.room(estimate, &[]).await?;
        same!(
            (room.calls, room.wait.is_zero(), room.reason),
            (0, false, Some(why))
        );
        same!(
            gate.admit("more", estimate).await?.refusal().map(|(why, _)| why),
            Some(why)
        );
    }
    // While the account is at fault, no more calls are made than it takes to open the breaker.
    let gate = rig.gate(breaker(), unlimited());
    same!(gate.admit("f", 0).await?.passes(), true);
    gate.settle("f", account).await?;
    let left = gate.redis.room(0, &[]).await?.calls;
    for n in 0..left {
        same!(gate.admit(format!("after-{n}"), 0).await?.passes(), true);
    }
    same!(gate.admit("more", 0).await?.passes(), false);
    same!(gate.redis.room(0, &[]).await?.calls, 0);
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_call_that_was_never_sent_costs_nothing(#[case] rig: Rig) -> anyhow::Result<()> {
    let limits = LimitSettings {
        requests_per_minute: limit(1),
        ..tokens(1000)
    };
    let gate = rig.gate(breaker(), limits);
    same!(gate.admit("1", 600).await?.passes(), true);
    same!(gate.admit("2", 600).await?.passes(), false);
    gate.settle("1", used(Cancelled, 600)).await?;
    let reading = gate.redis.control(BreakerControl::Status).await?;
    same!((reading.requests, reading.tokens, reading.in_flight), (0, 0, 0));
    same!(gate.admit("2", 600).await?.passes(), true);
    Ok(())
}

/// The correction belongs in the bucket that was charged; that one is gone.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_late_correction_changes_nothing(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), tokens(1000));
    same!(gate.admit("slow", 500).await?.passes(), true);
    for _ in 0..7 {
        rig.pass(10_000).await;
        same!(gate.lost(&["slow"]).await.len(), 0);
    }
    same!(gate.admit("other", 10).await?.passes(), true);
    gate.settle("slow", used(Success, 900)).await?;
    same!(gate.redis.control(BreakerControl::Status).await?.tokens, 10);
    same!(gate.admit("rest", 990).await?.passes(), true);
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_429_pauses_the_provider_for_all_and_only_it(#[case] rig: Rig) -> anyhow::Result<()> {
    let gates = rig.gates(breaker(), [unlimited(), unlimited()]);
    for id in ["1", "2"] {
        same!(gates[0].passes(id).await, true);
    }
    gates[0].settle("1", slow_down(9000)).await?;
    gates[0].settle("2", slow_down(1000)).await?;
    same!(gates[0].refusal("3").await, Some((Reason::Throttled, Some(9000))));
    same!(gates[1].passes("3").await, true);
    rig.pass(8999).await;
    same!(gates[0].refusal("4").await, Some((Reason::Throttled, Some(1))));
    rig.pass(1).await;
    same!(gates[0].passes("4").await, true);
    Ok(())
}

/// A killed replica's slots come back when its leases run out; renewed ones stay taken.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn slots_of_the_dead_come_back(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), concurrent(3));
    for id in ["1", "2", "3"] {
        same!(gate.passes(id).await, true);
    }
    same!(gate.refusal("4").await, Some((Reason::Concurrency, Some(250))));
    rig.pass(10_000).await;
    same!(gate.lost(&["1"]).await.len(), 0);
    rig.pass(4_900).await;
    same!(gate.refusal("4").await, Some((Reason::Concurrency, Some(100))));
    rig.pass(100).await;
    same!(gate.lost(&["2", "1"]).await, ["2"]);
    for (id, passes) in [("4", true), ("5", true), ("6", false)] {
        same!(gate.passes(id).await, passes);
    }
    same!(gate.lost(&["2", "1", "4"]).await, ["2"]);
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_renewed_probe_keeps_its_place(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    for id in ["1", "2", "3"] {
        same!(gate.passes(id).await, true);
    }
    rig.pass(10_000).await;
    same!(gate.lost(&["1", "2", "3"]).await.len(), 0);
    rig.pass(10_000).await;
    same!(
        gate.refusal("4").await.map(|(why, _)| why),
        Some(Reason::HalfOpen)
    );
    same!(gate.ends("1", Success).await, Effect::Recorded);
    same!(gate.ends("2", Success).await, Effect::Closed);
    Ok(())
}

/// More leases run out than one sweep takes.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn the_death_of_many_frees_all_their_slots(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), concurrent(150));
    for n in 0..150 {
        same!(gate.passes(&format!("d{n}")).await, true);
    }
    same!(gate.passes("x").await, false);
    rig.pass(15_000).await;
    for n in 0..150 {
        same!(gate.passes(&format!("e{n}")).await, true);
    }
    same!(gate.passes("x").await, false);
    same!(
        rig.query::<u64>(&["HLEN", &gate.redis.keys.lease_data]).await,
        150
    );
    same!(rig.query::<u64>(&["ZCARD", &gate.redis.keys.leases]).await, 150);
    // Nor do those count that are still to be swept.
    rig.pass(15_000).await;
    let smaller = gate.limited_to(concurrent(10));
    same!(smaller.passes("y").await, true);
    Ok(())
}

/// A reply is lost, and the request sent again.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn the_same_id_gets_the_same_permit_and_pays_once(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(
        breaker(),
        LimitSettings {
            requests_per_minute: limit(5),
            ..concurrent(1)
        },
    );
    let first = gate.admit("1", 7).await?;
    rig.pass(100).await;
    let again = gate.admit("1", 7).await?;
    same!((again.verdict, again.epoch), (first.verdict, first.epoch));
    let reading = gate.redis.control(BreakerControl::Status).await?;
    same!((reading.in_flight, reading.requests, reading.tokens), (1, 1, 7));
    same!(gate.ends("1", Failure).await, Effect::Recorded);
    same!(gate.ends("1", Failure).await, Effect::Unknown);
    same!(rig.contract(&gate).await[1].as_deref(), Some("1"));
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn of_several_waits_the_longest_is_told(#[case] rig: Rig) -> anyhow::Result<()> {
    let limits = LimitSettings {
        requests_per_minute: limit(2),
        ..concurrent(2)
    };
    let gate = rig.gate(breaker(), limits);
    same!(gate.passes("1").await && gate.passes("2").await, true);
    let (why, wait) = gate.refusal("3").await.unwrap();
    same!((why, wait > Some(250)), (Reason::Rpm, true));
    gate.settle("1", slow_down(120_000)).await?;
    same!(gate.refusal("3").await, Some((Reason::Throttled, Some(120_000))));
    Ok(())
}

/// NTP, a failover to a replica whose clock is behind; then a clock that was an hour ahead.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_clock_that_steps_back_neither_frees_nor_wedges(#[case] rig: Rig) -> anyhow::Result<()> {
    let limits = LimitSettings {
        requests_per_minute: limit(4),
        ..concurrent(2)
    };
    let gate = rig.gate(breaker(), limits);
    same!(gate.passes("0").await, true);
    same!(gate.ends("0", Success).await, Effect::Recorded);
    rig.pass(20_000).await;
    same!(gate.passes("1").await, true);
    rig.step_back(5000).await;
    let answer = gate.admit("2", 0).await?;
    same!((answer.passes(), answer.now), (true, rig.now() + 5000));
    same!(
        gate.refusal("3").await.map(|(why, _)| why),
        Some(Reason::Concurrency)
    );
    rig.step_back(3_600_000).await;
    same!(
        gate.refusal("4").await.map(|(why, _)| why),
        Some(Reason::Concurrency)
    );
    rig.pass(15_000).await;
    same!(gate.passes("4").await, true);
    Ok(())
}

/// The window was lost with calls in flight: their refunds must not make room that is not there.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_lost_window_is_not_refunded(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(
        breaker(),
        LimitSettings {
            requests_per_minute: limit(2),
            ..tokens(100)
        },
    );
    same!(
        gate.admit("1", 50).await?.passes() && gate.admit("2", 50).await?.passes(),
        true
    );
    let _: () = rig.query(&["DEL", &gate.redis.keys.win]).await;
    rig.pass(5000).await;
    same!(gate.admit("3", 50).await?.passes(), true);
    gate.settle("1", used(Success, 1)).await?;
    same!(gate.ends("2", Cancelled).await, Effect::Ignored);
    let reading = gate.redis.control(BreakerControl::Status).await?;
    same!((reading.requests, reading.tokens), (1, 50));
    same!(gate.admit("4", 51).await?.passes(), false);
    same!(
        gate.admit("4", 50).await?.passes() && !gate.passes("5").await,
        true
    );
    Ok(())
}

/// Whatever else has written there, an answer comes back.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn garbage_in_the_keys_is_survived(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(
        breaker(),
        LimitSettings {
            requests_per_minute: limit(5),
            ..tokens(100)
        },
    );
    let keys = &gate.redis.keys;
    same!(
        gate.admit("1", 5).await?.passes() && gate.admit("2", 5).await?.passes(),
        true
    );
    for field in ["spread", "throttled", "hw", "requests"] {
        let _: u64 = rig.query(&["HSET", &keys.win, field, "nan"]).await;
    }
    let _: u64 = rig
        .query(&["HSET", &keys.meta, "epoch", "many", "hw", "inf"])
        .await;
    let _: () = rig
        .query(&[
            "MSET",
            &keys.successes,
            "nan",
            &keys.attempts,
            "few",
            &keys.failures,
            "?",
        ])
        .await;
    let _: u64 = rig.query(&["HSET", &keys.lease_data, "1", "junk"]).await;
    rig.pass(1).await;
    same!(gate.passes("3").await, true);
    same!(gate.ends("1", Failure).await, Effect::Stale);
    same!(gate.redis.control(BreakerControl::Status).await?.failures, 0);
    let _: () = rig.query(&["SET", &keys.state, "HALF_OPEN"]).await;
    same!(gate.ends("2", Success).await, Effect::Stale);
    for (id, passes) in [("4", true), ("5", true), ("6", true), ("7", false)] {
        same!(gate.admit(id, 0).await?.is_probe(), passes);
    }
    Ok(())
}
