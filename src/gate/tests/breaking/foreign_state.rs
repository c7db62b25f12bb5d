//! Keys that are missing, left over, set by hand or written by an earlier version, and clocks that step back.

use super::*;

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn an_opened_at_that_is_missing_or_in_the_future_is_mended(
    #[case] rig: Rig,
) -> anyhow::Result<()> {
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
pub(super) async fn fewer_probes_than_successes_cannot_wedge_it(#[case] rig: Rig) -> anyhow::Result<()> {
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
pub(super) async fn lost_keys_are_a_closed_breaker_in_a_new_epoch(#[case] rig: Rig) -> anyhow::Result<()> {
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
pub(super) async fn a_deleted_failure_count_starts_anew(#[case] rig: Rig) -> anyhow::Result<()> {
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

/// Leftovers of another program: an existing count, an old `opened_at`.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn leftover_successes_do_not_close_it(#[case] rig: Rig) -> anyhow::Result<()> {
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
pub(super) async fn successes_that_suffice_close_it_at_the_next_call(#[case] rig: Rig) -> anyhow::Result<()> {
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

/// Opened by an operator, by the web API or by `redis-cli`: for the usual time, whatever was before.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn a_manual_state_is_respected_and_starts_over(#[case] rig: Rig) -> anyhow::Result<()> {
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

/// An earlier version's replica writes the same keys, and knows nothing of what was added.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn an_earlier_versions_transitions_are_understood(#[case] rig: Rig) -> anyhow::Result<()> {
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

/// One provider has seen a later time than the other: both go by it.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn a_clock_that_steps_back_stands_still_for_all_who_share_the_breaker(
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
