//! The breaker's duties, and the faults that it once had.

mod foreign_state;
mod recovery;

use jobs::AccountFault;
use rstest::rstest;

use super::rig::{Rig, breaker, concurrent, ms, same, unlimited};
use crate::gate::{
    BreakerSettings, Settlement,
    decision::{Effect, Reason, State},
    protocol::{AdmissionVerdict, BreakerControl},
    settlement::CallOutcome::{Cancelled, Failure, Ignored, Success},
};

/// Two failures open, two successes close, two probes.
fn small() -> BreakerSettings {
    BreakerSettings {
        failure_threshold: 2,
        half_open_max: 2,
        ..breaker()
    }
}

fn contract(state: &str) -> [Option<String>; 5] {
    [Some(state.to_owned()), None, None, None, None]
}

fn text(n: u64) -> Option<String> {
    Some(n.to_string())
}

/// Every scenario in a row, for the mutations.
pub(super) async fn all(rig: &Rig) -> anyhow::Result<()> {
    opens_at_the_fifth_failure(rig.clone()).await?;
    lets_three_probes_pass_and_closes_at_the_second_success(rig.clone()).await?;
    a_failed_probe_opens_it_again(rig.clone()).await?;
    counts_failures_in_a_sliding_window(rig.clone()).await?;
    killed_probes_do_not_wedge_half_open(rig.clone()).await?;
    late_outcomes_do_not_move_it(rig.clone()).await?;
    foreign_state::an_opened_at_that_is_missing_or_in_the_future_is_mended(rig.clone()).await?;
    foreign_state::fewer_probes_than_successes_cannot_wedge_it(rig.clone()).await?;
    foreign_state::lost_keys_are_a_closed_breaker_in_a_new_epoch(rig.clone()).await?;
    foreign_state::a_deleted_failure_count_starts_anew(rig.clone()).await?;
    probes_of_an_earlier_half_open_take_no_place_in_the_next(rig.clone()).await?;
    an_ignored_probe_hands_its_place_back(rig.clone()).await?;
    foreign_state::leftover_successes_do_not_close_it(rig.clone()).await?;
    foreign_state::successes_that_suffice_close_it_at_the_next_call(rig.clone()).await?;
    failures_among_many_successes_do_not_open_it(rig.clone()).await?;
    a_full_outage_opens_it_after_five_calls(rig.clone()).await?;
    a_healthy_breaker_is_not_written(rig.clone()).await?;
    recovery::each_opening_in_a_row_lasts_longer_and_a_stable_time_starts_over(rig.clone()).await?;
    foreign_state::a_manual_state_is_respected_and_starts_over(rig.clone()).await?;
    recovery::after_a_recovery_the_concurrency_limit_comes_back_in_steps(rig.clone()).await?;
    recovery::a_fault_of_the_account_costs_few_calls_and_is_named(rig.clone()).await?;
    foreign_state::an_earlier_versions_transitions_are_understood(rig.clone()).await?;
    recovery::providers_that_share_a_breaker_share_its_verdict(rig.clone()).await?;
    foreign_state::a_clock_that_steps_back_stands_still_for_all_who_share_the_breaker(rig.clone()).await?;
    Ok(())
}

/// Successes in between erase nothing: half of the calls failing opens it.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn opens_at_the_fifth_failure(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 1..=5 {
        let (bad, good) = (format!("bad{n}"), format!("good{n}"));
        same!((gate.passes(&bad).await, gate.passes(&good).await), (true, true));
        same!(gate.ends(&good, Success).await, Effect::Recorded);
        let settled = gate.settle(bad.as_str(), Settlement::new(Failure)).await?;
        same!(settled.count, n);
        same!(
            settled.effect,
            if n == 5 { Effect::Opened } else { Effect::Recorded }
        );
        rig.pass(1000).await;
    }
    same!(rig.contract(&gate).await[..2], [Some("OPEN".to_owned()), text(5)]);
    same!(gate.refusal("x").await, Some((Reason::Open, Some(59_000))));
    rig.pass(58_999).await;
    same!(gate.refusal("x").await, Some((Reason::Open, Some(1))));
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn lets_three_probes_pass_and_closes_at_the_second_success(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    let first = gate.admit("p1", 0).await?;
    same!((first.is_probe(), first.moved_to), (true, Some(State::HalfOpen)));
    let second = gate.admit("p2", 0).await?;
    same!((second.is_probe(), second.moved_to), (true, None));
    same!(gate.admit("p3", 0).await?.is_probe(), true);
    same!(gate.refusal("p4").await, Some((Reason::HalfOpen, Some(1000))));
    same!(
        (
            rig.contract(&gate).await[0].as_deref(),
            rig.contract(&gate).await[4].clone()
        ),
        (Some("HALF_OPEN"), text(3))
    );
    same!(gate.settle("p1", Settlement::new(Success)).await?.count, 1);
    same!(rig.contract(&gate).await[2], text(1));
    same!(gate.refusal("p4").await, Some((Reason::HalfOpen, Some(1000))));
    same!(gate.ends("p2", Success).await, Effect::Closed);
    same!(rig.contract(&gate).await, contract("CLOSED"));
    same!(gate.ends("p3", Failure).await, Effect::Stale);
    same!(rig.contract(&gate).await, contract("CLOSED"));
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_failed_probe_opens_it_again(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    same!(gate.passes("p1").await && gate.passes("p2").await, true);
    same!(gate.ends("p1", Success).await, Effect::Recorded);
    same!(gate.ends("p2", Failure).await, Effect::Reopened);
    same!(
        rig.contract(&gate).await,
        [Some("OPEN".to_owned()), text(1), None, text(rig.now()), None]
    );
    Ok(())
}

/// A count that expires as a whole, and later with each failure, would open here.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn counts_failures_in_a_sliding_window(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 0..20 {
        same!(gate.passes(&format!("{n}")).await, true);
        same!(gate.ends(&format!("{n}"), Failure).await, Effect::Recorded);
        rig.pass(15_000).await;
    }
    same!(rig.contract(&gate).await[1], text(4));
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn killed_probes_do_not_wedge_half_open(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    for id in ["k1", "k2", "k3"] {
        same!(gate.passes(id).await, true);
    }
    same!(gate.passes("k4").await, false);
    rig.pass(14_500).await;
    same!(gate.refusal("k4").await, Some((Reason::HalfOpen, Some(500))));
    rig.pass(500).await;
    same!(gate.passes("k4").await, true);
    same!(rig.contract(&gate).await[4], text(1));
    same!(gate.ends("k1", Failure).await, Effect::Unknown);
    same!(rig.contract(&gate).await[0].as_deref(), Some("HALF_OPEN"));
    Ok(())
}

/// Calls that were admitted before it opened, and end after.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn late_outcomes_do_not_move_it(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(small(), unlimited());
    for n in 0..6 {
        same!(gate.passes(&format!("i{n}")).await, true);
    }
    same!(gate.ends("i0", Failure).await, Effect::Recorded);
    same!(gate.ends("i1", Failure).await, Effect::Opened);
    let opened_at = rig.contract(&gate).await[3].clone();
    rig.pass(10_000).await;
    same!(gate.ends("i2", Failure).await, Effect::Stale);
    same!(rig.contract(&gate).await[3], opened_at);
    for _ in 0..5 {
        same!(gate.lost(&["i3", "i4", "i5"]).await.len(), 0);
        rig.pass(10_000).await;
    }
    same!(gate.admit("probe", 0).await?.is_probe(), true);
    same!(gate.ends("i3", Failure).await, Effect::Stale);
    same!(gate.ends("i4", Success).await, Effect::Stale);
    same!(
        rig.contract(&gate).await,
        [Some("HALF_OPEN".to_owned()), None, None, opened_at, text(1)]
    );
    // Reset by the web API, with a probe in flight.
    rig.node_reset(&gate).await;
    same!(gate.ends("probe", Failure).await, Effect::Stale);
    same!(gate.ends("i5", Failure).await, Effect::Stale);
    same!(rig.contract(&gate).await, contract("CLOSED"));
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn probes_of_an_earlier_half_open_take_no_place_in_the_next(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(
        BreakerSettings {
            open_for: ms(1000),
            ..breaker()
        },
        unlimited(),
    );
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(1000).await;
    for id in ["u1", "u2", "u3"] {
        same!(gate.passes(id).await, true);
    }
    same!(gate.ends("u1", Failure).await, Effect::Reopened);
    rig.pass(1000).await;
    for (id, passes) in [("v1", true), ("v2", true), ("v3", true), ("v4", false)] {
        same!(gate.passes(id).await, passes);
    }
    same!(gate.ends("u2", Success).await, Effect::Stale);
    same!(
        (
            rig.contract(&gate).await[2].clone(),
            rig.contract(&gate).await[4].clone()
        ),
        (None, text(3))
    );
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn an_ignored_probe_hands_its_place_back(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    for id in ["1", "2", "3"] {
        same!(gate.passes(id).await, true);
    }
    same!(gate.ends("1", Ignored).await, Effect::Ignored);
    same!(gate.ends("2", Cancelled).await, Effect::Ignored);
    same!(rig.contract(&gate).await[4], text(1));
    same!(gate.passes("4").await && gate.passes("5").await, true);
    same!(gate.passes("6").await, false);
    // An expired one, too.
    rig.pass(15_000).await;
    same!(gate.ends("3", Success).await, Effect::Expired);
    same!(rig.contract(&gate).await[4], text(2));
    Ok(())
}

/// Five failures within a minute are nothing among two hundred calls.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn failures_among_many_successes_do_not_open_it(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 0..60 {
        let bad = n % 3 == 0;
        same!(gate.passes(&format!("{n}")).await, true);
        let settled = gate
            .settle(
                format!("{n}"),
                Settlement::new(if bad { Failure } else { Success }),
            )
            .await?;
        same!(settled.effect, Effect::Recorded);
        rig.pass(100).await;
    }
    same!(rig.contract(&gate).await[..2], [None, text(5)]);
    // A full outage after all of that: the last ten calls are half failures after five at most.
    let mut calls = 0;
    loop {
        calls += 1;
        same!(gate.passes(&format!("out{calls}")).await, true);
        let settled = gate
            .settle(format!("out{calls}"), Settlement::new(Failure))
            .await?;
        if settled.effect == Effect::Opened || calls > 12 {
            same!(
                (settled.count, settled.of_calls, settled.failed >= 5),
                (5, 10, true)
            );
            break;
        }
    }
    same!(calls <= 5, true);
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_full_outage_opens_it_after_five_calls(#[case] rig: Rig) -> anyhow::Result<()> {
    for healthy in [0, 3, 10, 40] {
        let gate = rig.gate(breaker(), unlimited());
        for n in 0..healthy {
            same!(gate.passes(&format!("ok{n}")).await, true);
            same!(gate.ends(&format!("ok{n}"), Success).await, Effect::Recorded);
        }
        for n in 1..=5 {
            same!(gate.passes(&format!("{n}")).await, true);
            let effect = gate.ends(&format!("{n}"), Failure).await;
            same!(effect, if n == 5 { Effect::Opened } else { Effect::Recorded });
        }
    }
    Ok(())
}

/// Ten successes in a row are known: another one costs Redis no write of the breaker.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_healthy_breaker_is_not_written(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 0..10 {
        same!(
            gate.passes(&format!("{n}")).await
                && gate.ends(&format!("{n}"), Success).await == Effect::Recorded,
            true
        );
    }
    let meta = &gate.redis.keys.meta;
    let before: Vec<String> = rig.query(&["HGETALL", meta]).await;
    same!(
        gate.passes("x").await && gate.ends("x", Success).await == Effect::Recorded,
        true
    );
    same!(rig.query::<Vec<String>>(&["HGETALL", meta]).await, before);
    Ok(())
}
