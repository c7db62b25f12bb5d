//! How long a breaker stays open, how limits come back after it, and what a fault of the account costs.

use super::*;

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn each_opening_in_a_row_lasts_longer_and_a_stable_time_starts_over(
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

#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn after_a_recovery_the_concurrency_limit_comes_back_in_steps(
    #[case] rig: Rig,
) -> anyhow::Result<()> {
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
pub(super) async fn a_fault_of_the_account_costs_few_calls_and_is_named(
    #[case] rig: Rig,
) -> anyhow::Result<()> {
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

/// Speech and vision: the breaker is one, the probes are shared, and so are the failures.
#[rstest]
#[case::alone(Rig::start().await)]
#[tokio::test]
pub(super) async fn providers_that_share_a_breaker_share_its_verdict(#[case] rig: Rig) -> anyhow::Result<()> {
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
