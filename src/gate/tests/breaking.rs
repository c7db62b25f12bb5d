//! What the breaker has to do, and what once went wrong with it.

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
    an_opened_at_that_is_missing_or_in_the_future_is_mended(rig.clone()).await?;
    fewer_probes_than_successes_cannot_wedge_it(rig.clone()).await?;
    lost_keys_are_a_closed_breaker_in_a_new_epoch(rig.clone()).await?;
    a_deleted_failure_count_starts_anew(rig.clone()).await?;
    probes_of_an_earlier_half_open_take_no_place_in_the_next(rig.clone()).await?;
    an_ignored_probe_hands_its_place_back(rig.clone()).await?;
    leftover_successes_do_not_close_it(rig.clone()).await?;
    successes_that_suffice_close_it_at_the_next_call(rig.clone()).await?;
    failures_among_many_successes_do_not_open_it(rig.clone()).await?;
    a_full_outage_opens_it_after_five_calls(rig.clone()).await?;
    a_healthy_breaker_is_not_written(rig.clone()).await?;
    each_opening_in_a_row_lasts_longer_and_a_stable_time_starts_over(rig.clone()).await?;
    a_manual_state_is_respected_and_starts_over(rig.clone()).await?;
    after_a_recovery_the_concurrency_limit_comes_back_in_steps(rig.clone()).await?;
    a_fault_of_the_account_costs_few_calls_and_is_named(rig.clone()).await?;
    an_earlier_versions_transitions_are_understood(rig.clone()).await?;
    providers_that_share_a_breaker_share_its_verdict(rig.clone()).await?;
    a_clock_that_steps_back_stands_still_for_all_who_share_the_breaker(rig.clone()).await?;
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
async fn an_opened_at_that_is_missing_or_in_the_future_is_mended(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    let keys = gate.redis.keys.clone();
    let later = (rig.now() + 1_000_000).to_string();
    for nonsense in ["", "soon", "nan", &later, "-5"] {
        let _: () = rig.query(&["SET", &keys.state, "OPEN"]).await;
        let _: () = rig.query(&["SET", &keys.opened_at, nonsense]).await;
        same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
        same!(rig.contract(&gate).await[3], text(rig.now()));
    }
    let _: () = rig.query(&["DEL", &keys.opened_at]).await;
    same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    Ok(())
}

/// The configuration refuses it; another replica's may not have.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn fewer_probes_than_successes_cannot_wedge_it(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(
        BreakerSettings {
            half_open_max: 1,
            ..breaker()
        },
        unlimited(),
    );
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    same!(gate.passes("1").await, true);
    same!(gate.ends("1", Success).await, Effect::Recorded);
    same!(gate.passes("2").await, true);
    same!(gate.ends("2", Success).await, Effect::Closed);
    Ok(())
}

/// Eviction, FLUSHALL, a failover that lost the last writes.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn lost_keys_are_a_closed_breaker_in_a_new_epoch(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    same!(gate.passes("1").await, true);
    for key in gate.redis.keys.all() {
        let _: () = rig.query(&["DEL", key]).await;
    }
    same!(gate.passes("2").await, true);
    same!(gate.ends("1", Failure).await, Effect::Unknown);
    rig.pass(1).await;
    let _: () = rig.query(&["DEL", &gate.redis.keys.meta]).await;
    same!(gate.ends("2", Failure).await, Effect::Stale);
    // Lost twice, the epochs of the two times differ.
    let lose = async || rig.query::<u64>(&["HDEL", &gate.redis.keys.meta, "epoch"]).await;
    lose().await;
    same!(gate.passes("3").await, true);
    rig.pass(1).await;
    lose().await;
    same!(gate.ends("3", Failure).await, Effect::Stale);
    Ok(())
}

/// The web API's breaker deletes the count when it resets a closed one.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_deleted_failure_count_starts_anew(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 0..4 {
        same!(gate.passes(&format!("{n}")).await, true);
        same!(gate.ends(&format!("{n}"), Failure).await, Effect::Recorded);
    }
    let _: () = rig.query(&["DEL", &gate.redis.keys.failures]).await;
    same!(gate.passes("5").await, true);
    same!(gate.ends("5", Failure).await, Effect::Recorded);
    same!(rig.contract(&gate).await[1], text(1));
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

/// Leftovers of another program: an existing count, an old `opened_at`.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn leftover_successes_do_not_close_it(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    let past = (rig.now() - 60_000).to_string();
    let keys = &gate.redis.keys;
    let _: () = rig
        .query(&[
            "MSET",
            &keys.state,
            "OPEN",
            &keys.opened_at,
            &past,
            &keys.successes,
            "1",
        ])
        .await;
    same!(gate.passes("1").await, true);
    same!(rig.contract(&gate).await[2], None);
    same!(gate.ends("1", Success).await, Effect::Recorded);
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn successes_that_suffice_close_it_at_the_next_call(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    let _: () = rig
        .query(&[
            "MSET",
            &gate.redis.keys.state,
            "HALF_OPEN",
            &gate.redis.keys.successes,
            "2",
        ])
        .await;
    let answer = gate.admit("1", 0).await?;
    same!(
        (answer.passes(), answer.is_probe(), answer.moved_to),
        (true, false, Some(State::Closed))
    );
    same!(rig.contract(&gate).await, contract("CLOSED"));
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

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn each_opening_in_a_row_lasts_longer_and_a_stable_time_starts_over(
    #[case] rig: Rig,
) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 1..=5 {
        same!(gate.passes(&format!("{n}")).await, true);
        same!(
            gate.ends(&format!("{n}"), Failure).await,
            if n == 5 { Effect::Opened } else { Effect::Recorded }
        );
    }
    for (n, seconds) in [60, 120, 240, 480, 600, 600].into_iter().enumerate() {
        same!(
            gate.refusal("x").await,
            Some((Reason::Open, Some(seconds * 1000)))
        );
        let reading = gate.redis.control(BreakerControl::Status).await?;
        same!(reading.open_until, Some(rig.now() + seconds * 1000));
        rig.pass(seconds * 1000).await;
        let probe = format!("p{n}");
        same!(gate.admit(probe.as_str(), 0).await?.is_probe(), true);
        same!(gate.ends(&probe, Failure).await, Effect::Reopened);
    }
    rig.pass(600_000).await;
    same!(gate.passes("a").await && gate.passes("b").await, true);
    same!(
        (gate.ends("a", Success).await, gate.ends("b", Success).await),
        (Effect::Recorded, Effect::Closed)
    );
    // Closed for less than the last opening took: the row goes on.
    rig.pass(599_000).await;
    for n in 1..=5 {
        same!(gate.passes(&format!("f{n}")).await, true);
        same!(
            gate.ends(&format!("f{n}"), Failure).await,
            if n == 5 { Effect::Opened } else { Effect::Recorded }
        );
    }
    same!(gate.refusal("x").await, Some((Reason::Open, Some(600_000))));
    rig.pass(600_000).await;
    same!(gate.passes("c").await && gate.passes("d").await, true);
    same!(
        (gate.ends("c", Success).await, gate.ends("d", Success).await),
        (Effect::Recorded, Effect::Closed)
    );
    rig.pass(600_001).await;
    for n in 1..=5 {
        same!(gate.passes(&format!("g{n}")).await, true);
        same!(
            gate.ends(&format!("g{n}"), Failure).await,
            if n == 5 { Effect::Opened } else { Effect::Recorded }
        );
    }
    same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    // However long it was half open: only a closed breaker is stable.
    rig.pass(60_000).await;
    same!(gate.passes("killed").await, true);
    rig.pass(120_000).await;
    same!(gate.passes("late").await, true);
    same!(gate.ends("late", Failure).await, Effect::Reopened);
    same!(gate.refusal("x").await, Some((Reason::Open, Some(120_000))));
    Ok(())
}

/// Opened by an operator, by the web API or by `redis-cli`: for the usual time, whatever was before.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_manual_state_is_respected_and_starts_over(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), unlimited());
    for n in 1..=5 {
        same!(gate.passes(&format!("{n}")).await, true);
        gate.ends(&format!("{n}"), Failure).await;
    }
    rig.pass(60_000).await;
    same!(gate.passes("p").await, true);
    same!(gate.ends("p", Failure).await, Effect::Reopened);
    gate.redis.control(BreakerControl::Open).await?;
    same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    gate.redis.control(BreakerControl::Close).await?;
    same!(gate.passes("y").await, true);
    for n in 1..=5 {
        same!(gate.passes(&format!("h{n}")).await, true);
        gate.ends(&format!("h{n}"), Failure).await;
    }
    same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    rig.pass(60_000).await;
    same!(gate.passes("q").await, true);
    same!(gate.ends("q", Failure).await, Effect::Reopened);
    rig.node_reset(&gate).await;
    for n in 1..=5 {
        same!(gate.passes(&format!("i{n}")).await, true);
        gate.ends(&format!("i{n}"), Failure).await;
    }
    same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    Ok(())
}

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn after_a_recovery_the_concurrency_limit_comes_back_in_steps(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), concurrent(8));
    gate.redis.control(BreakerControl::Open).await?;
    rig.pass(60_000).await;
    same!(gate.passes("a").await && gate.passes("b").await, true);
    rig.pass(10).await;
    same!(
        (gate.ends("a", Success).await, gate.ends("b", Success).await),
        (Effect::Recorded, Effect::Closed)
    );
    let mut started = 0;
    for (wait, most) in [(0, 2), (14_999, 2), (1, 4), (14_999, 4), (1, 8)] {
        // The leases of those that run are renewed.
        for _ in 0..3 {
            let ids: Vec<String> = (0..started).map(|n| format!("r{n}")).collect();
            let words: Vec<&str> = ids.iter().map(String::as_str).collect();
            same!(gate.lost(&words).await.len(), 0);
            rig.pass(wait / 3).await;
        }
        rig.pass(wait % 3).await;
        while gate.passes(&format!("r{started}")).await {
            started += 1;
        }
        same!((wait, started), (wait, most));
        same!(
            gate.refusal("x").await.map(|(why, _)| why),
            Some(Reason::Concurrency)
        );
    }
    // A breaker that was closed by hand, or has never been open, grants the whole limit.
    let gate = rig.gate(breaker(), concurrent(8));
    gate.redis.control(BreakerControl::Open).await?;
    gate.redis.control(BreakerControl::Close).await?;
    for n in 0..8 {
        same!(gate.passes(&format!("{n}")).await, true);
    }
    Ok(())
}

/// A refused key or an account without credit: as few calls as it takes, one probe at a time, and the refusal
/// says why.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_fault_of_the_account_costs_few_calls_and_is_named(#[case] rig: Rig) -> anyhow::Result<()> {
    let credit = Settlement {
        fault: Some(AccountFault::Credit),
        ..Settlement::new(Failure)
    };
    for limits in [concurrent(5), unlimited()] {
        let gate = rig.gate(breaker(), limits);
        same!(gate.passes("c1").await, true);
        same!(gate.settle("c1", credit).await?.effect, Effect::Recorded);
        let mut calls = 1;
        let mut open: Vec<String> = Vec::new();
        loop {
            while calls < 30 && gate.passes(&format!("d{calls}")).await {
                open.push(format!("d{calls}"));
                calls += 1;
            }
            let Some(id) = open.pop() else { break };
            gate.settle(id, credit).await?;
        }
        same!(calls, 5);
        let refused = gate.admit("x", 0).await?;
        same!(refused.refusal(), Some((Reason::Open, Some(60_000))));
        same!(
            matches!(
                refused.verdict,
                AdmissionVerdict::Refused {
                    fault: Some(AccountFault::Credit),
                    ..
                }
            ),
            true
        );
        same!(
            gate.redis.control(BreakerControl::Status).await?.fault,
            Some((AccountFault::Credit, rig.now()))
        );
        // Closed by hand, it starts over.
        let other = rig.gate(breaker(), limits);
        same!(other.passes("o").await, true);
        same!(other.settle("o", credit).await?.effect, Effect::Recorded);
        same!(other.redis.control(BreakerControl::Close).await?.fault, None);
        rig.pass(60_000).await;
        same!(gate.admit("p1", 0).await?.is_probe(), true);
        same!(
            gate.refusal("p2").await.map(|(why, _)| why),
            Some(Reason::HalfOpen)
        );
        same!(gate.ends("p1", Success).await, Effect::Recorded);
        same!(gate.redis.control(BreakerControl::Status).await?.fault, None);
        same!(gate.passes("p2").await && gate.passes("p3").await, true);
        same!(gate.passes("p4").await, false);
        same!(gate.ends("p2", Success).await, Effect::Closed);
    }
    Ok(())
}

/// An earlier version's replica writes the same keys, and knows nothing of what was added.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn an_earlier_versions_transitions_are_understood(#[case] rig: Rig) -> anyhow::Result<()> {
    let gate = rig.gate(breaker(), concurrent(8));
    for n in 1..=5 {
        same!(gate.passes(&format!("{n}")).await, true);
        gate.ends(&format!("{n}"), Failure).await;
    }
    let keys = gate.redis.keys.clone();
    let moved = async |state: &str| {
        let epoch = (rig.now() + 1).to_string();
        let _: () = rig.query(&["SET", &keys.state, state]).await;
        let _: u64 = rig
            .query(&["HSET", &keys.meta, "epoch", &epoch, "seen", state])
            .await;
    };
    // It half-opens, fails and opens again: for its own, unlengthened time.
    rig.pass(60_000).await;
    moved("OPEN").await;
    let _: () = rig.query(&["SET", &keys.opened_at, &rig.now().to_string()]).await;
    same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    // It closes: no ramp, and calls of the epoch before do not count.
    rig.pass(60_000).await;
    moved("CLOSED").await;
    let _: u64 = rig.query(&["DEL", &keys.opened_at, &keys.failures]).await;
    rig.pass(10).await;
    for n in 0..8 {
        same!(gate.passes(&format!("k{n}")).await, true);
    }
    same!(gate.settle("k0", Settlement::new(Failure)).await?.of_calls, 1);
    // It opens and closes once more.
    rig.pass(10).await;
    moved("CLOSED").await;
    rig.pass(10).await;
    same!(
        gate.settle("k1", Settlement::new(Failure)).await?.effect,
        Effect::Stale
    );
    same!(gate.passes("l").await, true);
    same!(gate.settle("l", Settlement::new(Failure)).await?.of_calls, 1);
    Ok(())
}

/// Speech and vision: the breaker is one, the probes are shared, and so are the failures.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn providers_that_share_a_breaker_share_its_verdict(#[case] rig: Rig) -> anyhow::Result<()> {
    let gates = rig.gates(small(), [unlimited(), unlimited()]);
    let (speech, vision) = (&gates[0], &gates[1]);
    same!(speech.passes("s1").await && vision.passes("v1").await, true);
    same!(speech.ends("s1", Failure).await, Effect::Recorded);
    same!(vision.ends("v1", Failure).await, Effect::Opened);
    same!(speech.refusal("s2").await, Some((Reason::Open, Some(60_000))));
    rig.pass(60_000).await;
    same!(
        speech.admit("s2", 0).await?.is_probe() && vision.admit("v2", 0).await?.is_probe(),
        true
    );
    same!(
        speech.refusal("s3").await.map(|(why, _)| why),
        Some(Reason::HalfOpen)
    );
    // A permit is settled at the gate that gave it.
    same!(vision.ends("s2", Success).await, Effect::Unknown);
    same!(speech.ends("s2", Success).await, Effect::Recorded);
    same!(vision.ends("v2", Success).await, Effect::Closed);
    same!(speech.admit("s3", 0).await?.is_probe(), false);
    Ok(())
}

/// One provider has seen a later time than the other: both go by it.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
async fn a_clock_that_steps_back_stands_still_for_all_who_share_the_breaker(
    #[case] rig: Rig,
) -> anyhow::Result<()> {
    let gates = rig.gates(small(), [unlimited(), unlimited()]);
    let (speech, vision) = (&gates[0], &gates[1]);
    same!(vision.passes("v1").await, true);
    rig.pass(10_000).await;
    let then = rig.now();
    speech.redis.control(BreakerControl::Open).await?;
    rig.step_back(5000).await;
    let answer = vision.admit("v2", 0).await?;
    same!(
        (answer.now, answer.refusal()),
        (then, Some((Reason::Open, Some(60_000))))
    );
    rig.step_back(3_600_000).await;
    let answer = vision.admit("v2", 0).await?;
    same!(
        (answer.now, answer.refusal()),
        (rig.now(), Some((Reason::Open, Some(60_000))))
    );
    same!(
        speech.admit("s", 0).await?.refusal(),
        Some((Reason::Open, Some(60_000)))
    );
    Ok(())
}
