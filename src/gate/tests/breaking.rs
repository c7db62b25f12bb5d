//! What the breaker has to do, and what once went wrong with it.

use super::rig::{Rig, breaker, ms, same, scenarios, unlimited};
use crate::gate::{
    BreakerSettings, Settlement,
    permit::Outcome::{Cancelled, Failure, Ignored, Success},
    verdict::{Effect, Reason, State},
    wire::Control,
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

scenarios! {
    /// Successes in between erase nothing: half of the calls failing opens it.
    async fn opens_at_the_fifth_failure(rig) {
        let gate = rig.gate(breaker(), unlimited());
        for n in 1..=5 {
            let (bad, good) = (format!("bad{n}"), format!("good{n}"));
            same!((gate.passes(&bad).await, gate.passes(&good).await), (true, true));
            same!(gate.ends(&good, Success).await, Effect::Recorded);
            let settled = gate.settle(bad.as_str(), Settlement::new(Failure)).await?;
            same!(settled.count, n);
            same!(settled.effect, if n == 5 { Effect::Opened } else { Effect::Recorded });
            rig.pass(1000).await;
        }
        same!(rig.contract(&gate).await[..2], [Some("OPEN".to_owned()), text(5)]);
        same!(gate.refusal("x").await, Some((Reason::Open, Some(59_000))));
        rig.pass(58_999).await;
        same!(gate.refusal("x").await, Some((Reason::Open, Some(1))));
    }

    async fn lets_three_probes_pass_and_closes_at_the_second_success(rig) {
        let gate = rig.gate(breaker(), unlimited());
        gate.desk.control(Control::Open).await?;
        rig.pass(60_000).await;
        let first = gate.admit("p1", 0).await?;
        same!((first.is_probe(), first.moved_to), (true, Some(State::HalfOpen)));
        let second = gate.admit("p2", 0).await?;
        same!((second.is_probe(), second.moved_to), (true, None));
        same!(gate.admit("p3", 0).await?.is_probe(), true);
        same!(gate.refusal("p4").await, Some((Reason::HalfOpen, Some(1000))));
        same!((rig.contract(&gate).await[0].as_deref(), rig.contract(&gate).await[4].clone()), (Some("HALF_OPEN"), text(3)));
        same!(gate.settle("p1", Settlement::new(Success)).await?.count, 1);
        same!(rig.contract(&gate).await[2], text(1));
        same!(gate.refusal("p4").await, Some((Reason::HalfOpen, Some(1000))));
        same!(gate.ends("p2", Success).await, Effect::Closed);
        same!(rig.contract(&gate).await, contract("CLOSED"));
        same!(gate.ends("p3", Failure).await, Effect::Stale);
        same!(rig.contract(&gate).await, contract("CLOSED"));
    }

    async fn a_failed_probe_opens_it_again(rig) {
        let gate = rig.gate(breaker(), unlimited());
        gate.desk.control(Control::Open).await?;
        rig.pass(60_000).await;
        same!(gate.passes("p1").await && gate.passes("p2").await, true);
        same!(gate.ends("p1", Success).await, Effect::Recorded);
        same!(gate.ends("p2", Failure).await, Effect::Reopened);
        same!(rig.contract(&gate).await, [Some("OPEN".to_owned()), text(1), None, text(rig.now()), None]);
    }

    /// A count that expires as a whole, and later with each failure, would open here.
    async fn counts_failures_in_a_sliding_window(rig) {
        let gate = rig.gate(breaker(), unlimited());
        for n in 0..20 {
            same!(gate.passes(&format!("{n}")).await, true);
            same!(gate.ends(&format!("{n}"), Failure).await, Effect::Recorded);
            rig.pass(15_000).await;
        }
        same!(rig.contract(&gate).await[1], text(4));
    }

    async fn killed_probes_do_not_wedge_half_open(rig) {
        let gate = rig.gate(breaker(), unlimited());
        gate.desk.control(Control::Open).await?;
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
    }

    /// Calls that were admitted before it opened, and end after.
    async fn late_outcomes_do_not_move_it(rig) {
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
        same!(rig.contract(&gate).await, [Some("HALF_OPEN".to_owned()), None, None, opened_at, text(1)]);
        // Reset by the web API, with a probe in flight.
        rig.node_reset(&gate).await;
        same!(gate.ends("probe", Failure).await, Effect::Stale);
        same!(gate.ends("i5", Failure).await, Effect::Stale);
        same!(rig.contract(&gate).await, contract("CLOSED"));
    }

    async fn an_opened_at_that_is_missing_or_in_the_future_is_mended(rig) {
        let gate = rig.gate(breaker(), unlimited());
        let keys = gate.desk.keys.clone();
        let later = (rig.now() + 1_000_000).to_string();
        for nonsense in ["", "soon", "nan", &later, "-5"] {
            let _: () = rig.query(&["SET", &keys.state, "OPEN"]).await;
            let _: () = rig.query(&["SET", &keys.opened_at, nonsense]).await;
            same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
            same!(rig.contract(&gate).await[3], text(rig.now()));
        }
        let _: () = rig.query(&["DEL", &keys.opened_at]).await;
        same!(gate.refusal("x").await, Some((Reason::Open, Some(60_000))));
    }

    /// The configuration refuses it; another replica's may not have.
    async fn fewer_probes_than_successes_cannot_wedge_it(rig) {
        let gate = rig.gate(BreakerSettings { half_open_max: 1, ..breaker() }, unlimited());
        gate.desk.control(Control::Open).await?;
        rig.pass(60_000).await;
        same!(gate.passes("1").await, true);
        same!(gate.ends("1", Success).await, Effect::Recorded);
        same!(gate.passes("2").await, true);
        same!(gate.ends("2", Success).await, Effect::Closed);
    }

    /// Eviction, FLUSHALL, a failover that lost the last writes.
    async fn lost_keys_are_a_closed_breaker_in_a_new_epoch(rig) {
        let gate = rig.gate(breaker(), unlimited());
        same!(gate.passes("1").await, true);
        for key in gate.desk.keys.all() {
            let _: () = rig.query(&["DEL", key]).await;
        }
        same!(gate.passes("2").await, true);
        same!(gate.ends("1", Failure).await, Effect::Unknown);
        rig.pass(1).await;
        let _: () = rig.query(&["DEL", &gate.desk.keys.meta]).await;
        same!(gate.ends("2", Failure).await, Effect::Stale);
        // Lost twice, the epochs of the two times differ.
        let lose = async || rig.query::<u64>(&["HDEL", &gate.desk.keys.meta, "epoch"]).await;
        lose().await;
        same!(gate.passes("3").await, true);
        rig.pass(1).await;
        lose().await;
        same!(gate.ends("3", Failure).await, Effect::Stale);
    }

    /// The web API's breaker deletes the count when it resets a closed one.
    async fn a_deleted_failure_count_starts_anew(rig) {
        let gate = rig.gate(breaker(), unlimited());
        for n in 0..4 {
            same!(gate.passes(&format!("{n}")).await, true);
            same!(gate.ends(&format!("{n}"), Failure).await, Effect::Recorded);
        }
        let _: () = rig.query(&["DEL", &gate.desk.keys.failures]).await;
        same!(gate.passes("5").await, true);
        same!(gate.ends("5", Failure).await, Effect::Recorded);
        same!(rig.contract(&gate).await[1], text(1));
    }

    async fn probes_of_an_earlier_half_open_take_no_place_in_the_next(rig) {
        let gate = rig.gate(BreakerSettings { open_for: ms(1000), ..breaker() }, unlimited());
        gate.desk.control(Control::Open).await?;
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
        same!((rig.contract(&gate).await[2].clone(), rig.contract(&gate).await[4].clone()), (None, text(3)));
    }

    async fn an_ignored_probe_hands_its_place_back(rig) {
        let gate = rig.gate(breaker(), unlimited());
        gate.desk.control(Control::Open).await?;
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
    }

    /// Somebody else's leftovers: a count that is there already, an old `opened_at`.
    async fn leftover_successes_do_not_close_it(rig) {
        let gate = rig.gate(breaker(), unlimited());
        let past = (rig.now() - 60_000).to_string();
        let keys = &gate.desk.keys;
        let _: () = rig.query(&["MSET", &keys.state, "OPEN", &keys.opened_at, &past, &keys.successes, "1"]).await;
        same!(gate.passes("1").await, true);
        same!(rig.contract(&gate).await[2], None);
        same!(gate.ends("1", Success).await, Effect::Recorded);
    }

    async fn successes_that_suffice_close_it_at_the_next_call(rig) {
        let gate = rig.gate(breaker(), unlimited());
        let _: () = rig.query(&["MSET", &gate.desk.keys.state, "HALF_OPEN", &gate.desk.keys.successes, "2"]).await;
        let answer = gate.admit("1", 0).await?;
        same!((answer.passes(), answer.is_probe(), answer.moved_to), (true, false, Some(State::Closed)));
        same!(rig.contract(&gate).await, contract("CLOSED"));
    }

    /// Speech and vision: the breaker is one, the probes are shared, and so are the failures.
    async fn providers_that_share_a_breaker_share_its_verdict(rig) {
        let gates = rig.gates(small(), [unlimited(), unlimited()]);
        let (speech, vision) = (&gates[0], &gates[1]);
        same!(speech.passes("s1").await && vision.passes("v1").await, true);
        same!(speech.ends("s1", Failure).await, Effect::Recorded);
        same!(vision.ends("v1", Failure).await, Effect::Opened);
        same!(speech.refusal("s2").await, Some((Reason::Open, Some(60_000))));
        rig.pass(60_000).await;
        same!(speech.admit("s2", 0).await?.is_probe() && vision.admit("v2", 0).await?.is_probe(), true);
        same!(speech.refusal("s3").await.map(|(why, _)| why), Some(Reason::HalfOpen));
        // A permit is settled at the gate that gave it.
        same!(vision.ends("s2", Success).await, Effect::Unknown);
        same!(speech.ends("s2", Success).await, Effect::Recorded);
        same!(vision.ends("v2", Success).await, Effect::Closed);
        same!(speech.admit("s3", 0).await?.is_probe(), false);
    }

    /// One provider has seen a later time than the other: both go by it.
    async fn a_clock_that_steps_back_stands_still_for_all_who_share_the_breaker(rig) {
        let gates = rig.gates(small(), [unlimited(), unlimited()]);
        let (speech, vision) = (&gates[0], &gates[1]);
        same!(vision.passes("v1").await, true);
        rig.pass(10_000).await;
        let then = rig.now();
        speech.desk.control(Control::Open).await?;
        rig.step_back(5000).await;
        let answer = vision.admit("v2", 0).await?;
        same!((answer.now, answer.refusal()), (then, Some((Reason::Open, Some(60_000)))));
        rig.step_back(3_600_000).await;
        let answer = vision.admit("v2", 0).await?;
        same!((answer.now, answer.refusal()), (rig.now(), Some((Reason::Open, Some(60_000)))));
        same!(speech.admit("s", 0).await?.refusal(), Some((Reason::Open, Some(60_000))));
    }
}
