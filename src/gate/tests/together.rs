//! Calls that come together are settled and asked for in one script: what comes of it must be what comes of settling
//! one after the other, and then of asking one after the other.

use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::rig::{Rig, T0, breaker, concurrent, limit, ms, same};
use crate::gate::{
    BreakerSettings, CallOutcome, Effect, LimitSettings, Settlement, State,
    batched_gate::BatchedGate,
    protocol::{AdmissionReply, AdmissionVerdict},
};

/// The facts of an admission, but for the time at which a state was entered.
type Told = (AdmissionVerdict, State, Option<State>);

async fn stored(rig: &Rig, gate: &BatchedGate) -> Vec<Vec<String>> {
    let keys = &gate.redis.keys;
    let mut all: Vec<Vec<String>> = Vec::new();
    for key in [&keys.win, &keys.lease_data, &keys.meta] {
        let fields: Vec<String> = rig.query(&["HGETALL", key]).await;
        all.push(fields.chunks_exact(2).map(|pair| pair.join("=")).collect());
    }
    for key in [&keys.leases, &keys.probes] {
        all.push(rig.query(&["ZRANGE", key, "0", "-1", "WITHSCORES"]).await);
    }
    all.iter_mut().for_each(|part| part.sort());
    all.push(
        rig.contract(gate)
            .await
            .map(|value| format!("{value:?}"))
            .to_vec(),
    );
    all
}

async fn scripts_run(rig: &Rig) -> u64 {
    let stats: String = rig.query(&["INFO", "commandstats"]).await;
    let scripts = stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_evalsha:") || line.starts_with("cmdstat_fcall:"));
    let calls = scripts.filter_map(|line| line.split(['=', ',']).nth(1));
    calls.map(|calls| calls.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn together_is_as_one_after_the_other() {
    let rig = Rig::start().await;
    check(&rig, 150).await.unwrap();
}

pub(super) async fn check(rig: &Rig, rounds: u64) -> anyhow::Result<()> {
    rig.set_clock(T0).await;
    // Redis has the scripts from here on.
    let gate = rig.gate(breaker(), concurrent(1));
    same!(gate.passes("first").await, true);
    let twice =
        join_all(["first", "first"].map(|id| gate.settle(id, Settlement::new(CallOutcome::Success)))).await;
    let effects: Vec<Effect> = twice.into_iter().map(|settled| settled.unwrap().effect).collect();
    same!(effects, [Effect::Recorded, Effect::Unknown]);

    let mut rng = StdRng::seed_from_u64(7);
    let (mut refused, mut moved) = (0u64, 0u64);
    for round in 0..rounds {
        let breaker = BreakerSettings {
            failure_threshold: rng.random_range(1..4),
            open_for: ms(2_000),
            ..breaker()
        };
        let mut maybe = |most: u32| {
            rng.random_bool(0.6)
                .then(|| rng.random_range(1..=most))
                .and_then(limit)
        };
        let limits = LimitSettings {
            requests_per_minute: maybe(12),
            tokens_per_minute: maybe(300),
            max_concurrent: maybe(8),
        };
        let (together, one_by_one) = (rig.gate(breaker.clone(), limits), rig.gate(breaker, limits));
        for step in 0..6 {
            let calls: Vec<(String, u64)> = (0..rng.random_range(2..10))
                .map(|n| (format!("{round}:{step}:{n}"), rng.random_range(0..60)))
                .collect();
            let before = scripts_run(rig).await;
            let asked = calls
                .iter()
                .map(|(id, tokens)| together.admit(id.as_str(), *tokens));
            let all: Vec<Told> = join_all(asked)
                .await
                .into_iter()
                .map(|a| told(a.unwrap()))
                .collect();
            same!(scripts_run(rig).await - before, 1);
            let mut each = Vec::new();
            for (id, tokens) in &calls {
                each.push(told(one_by_one.admit(id.as_str(), *tokens).await.unwrap()));
            }
            same!(all, each);
            same!(stored(rig, &together).await, stored(rig, &one_by_one).await);
            refused += all
                .iter()
                .filter(|(verdict, ..)| matches!(verdict, AdmissionVerdict::Refused { .. }))
                .count() as u64;

            let mut ends: Vec<(&str, Settlement)> = Vec::new();
            for (id, _) in &calls {
                let outcomes = [
                    CallOutcome::Success,
                    CallOutcome::Failure,
                    CallOutcome::Ignored,
                    CallOutcome::Cancelled,
                ];
                let mut end = Settlement::new(outcomes[rng.random_range(0..4)]);
                end.tokens = rng.random_bool(0.5).then(|| rng.random_range(0..90));
                end.throttle = rng.random_bool(0.1).then(|| ms(900));
                if rng.random_bool(0.8) {
                    ends.push((id, end));
                }
            }
            // The next request arrives at the same time, in between.
            let next: Vec<(String, u64)> = (0..rng.random_range(0..4))
                .map(|n| (format!("{round}:{step}:next{n}"), rng.random_range(0..60)))
                .collect();
            let before = scripts_run(rig).await;
            let asked = next
                .iter()
                .map(|(id, tokens)| together.admit(id.as_str(), *tokens));
            let (first, rest) = ends.split_at(ends.len() / 2);
            let (all, asked, rest) = tokio::join!(
                join_all(first.iter().map(|(id, end)| together.settle(*id, *end))),
                join_all(asked),
                join_all(rest.iter().map(|(id, end)| together.settle(*id, *end))),
            );
            same!(
                scripts_run(rig).await - before,
                u64::from(ends.len() + next.len() > 0)
            );
            for ((id, end), settled) in ends.iter().zip(all.into_iter().chain(rest)) {
                let (settled, alone) = (settled.unwrap(), one_by_one.settle(*id, *end).await.unwrap());
                moved += u64::from(matches!(
                    settled.effect,
                    Effect::Opened | Effect::Reopened | Effect::Closed
                ));
                same!((id, settled), (id, alone));
            }
            for ((id, tokens), answer) in next.iter().zip(asked) {
                let alone = one_by_one.admit(id.as_str(), *tokens).await.unwrap();
                same!((id, told(answer.unwrap())), (id, told(alone)));
            }
            same!(stored(rig, &together).await, stored(rig, &one_by_one).await);
            rig.pass(rng.random_range(0..4_000)).await;
        }
    }
    same!((refused > 3 * rounds, moved > rounds / 3), (true, true));
    Ok(())
}

fn told(answer: AdmissionReply) -> Told {
    (answer.verdict, answer.state, answer.moved_to)
}
