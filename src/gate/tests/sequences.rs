//! Random sequences, run on the scripts and on the model side by side, with a clock that is moved by hand.

use jobs::AccountFault;
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestError, TestRunner},
};

use super::{
    is_long_run,
    model::Model,
    rig::{Rig, breaker, limit, ms, same},
};
use crate::gate::{
    BreakerSettings, FailureShare, LimitSettings, Settlement,
    decision::{Reason, State},
    protocol::BreakerControl,
    settlement::CallOutcome,
};

#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    Admit {
        gate: usize,
        tokens: u64,
        again: Option<usize>,
    },
    Settle {
        recent: usize,
        settlement: Settlement,
    },
    Renew {
        gate: usize,
    },
    Control(bool),
    NodeReset,
}

fn op() -> impl Strategy<Value = Op> {
    let outcome = select(vec![
        CallOutcome::Success,
        CallOutcome::Failure,
        CallOutcome::Failure,
        CallOutcome::Ignored,
        CallOutcome::Cancelled,
    ]);
    let used = select(vec![None, Some(0), Some(5), Some(200)]);
    let throttle = prop::option::weighted(0.1, Just(ms(3000)));
    let fault = select(vec![None, None, None, Some(AccountFault::Credit)]);
    let settlement =
        (outcome, used, throttle, fault).prop_map(|(outcome, tokens, throttle, fault)| Settlement {
            outcome,
            tokens,
            throttle,
            fault,
        });
    prop_oneof![
        25 => select(vec![1, 7, 100, 499, 500, 1000, 5000, 15_000, 60_000, 61_000]).prop_map(Op::Pass),
        40 => (0..2usize, select(vec![0, 1, 10, 90, 101, 600]), prop::option::weighted(0.1, 0..8usize))
            .prop_map(|(gate, tokens, again)| Op::Admit { gate, tokens, again }),
        30 => (0..8usize, settlement).prop_map(|(recent, settlement)| Op::Settle { recent, settlement }),
        5 => (0..2usize).prop_map(|gate| Op::Renew { gate }),
        1 => any::<bool>().prop_map(Op::Control),
        1 => Just(Op::NodeReset),
    ]
}

fn breakers() -> impl Strategy<Value = BreakerSettings> {
    // Shorter windows would let Redis's own clock, which goes on, expire the failure count.
    (
        select(vec![1, 2, 5]),
        1..=2u32,
        1..=3u32,
        select(vec![1000, 60_000]),
        select(vec![20_000, 60_000]),
        select(vec![0, 30, 50, 80]),
    )
        .prop_map(
            |(failures, successes, half_open_max, open_for, window, share)| BreakerSettings {
                failure_threshold: failures,
                success_threshold: successes,
                half_open_max,
                open_for: ms(open_for),
                window: ms(window),
                share: FailureShare::new(share).unwrap(),
                ..breaker()
            },
        )
}

fn limits() -> impl Strategy<Value = LimitSettings> {
    (
        select(vec![0, 3, 20]),
        select(vec![0, 100, 1000]),
        select(vec![0, 2, 6]),
    )
        .prop_map(|(requests, tokens, concurrent)| LimitSettings {
            requests_per_minute: limit(requests),
            tokens_per_minute: limit(tokens),
            max_concurrent: limit(concurrent),
        })
}

async fn compare(
    rig: &Rig,
    breaker: BreakerSettings,
    limits: [LimitSettings; 2],
    ops: Vec<Op>,
) -> anyhow::Result<()> {
    let gates = rig.gates(breaker.clone(), limits);
    let mut model = Model::new(breaker, limits);
    let mut admitted: Vec<(usize, String)> = Vec::new();
    for (step, op) in ops.into_iter().enumerate() {
        let now = rig.now();
        match op {
            Op::Pass(time) => rig.pass(time).await,
            Op::Admit { gate, tokens, again } => {
                let again = again
                    .and_then(|n| admitted.iter().rev().nth(n))
                    .filter(|(_, id)| model.leases.get(id).is_some_and(|l| !l.gone && l.expires > now));
                let (gate, id) = again.cloned().unwrap_or_else(|| (gate, format!("i{step}")));
                let answer = gates[gate].admit(id.as_str(), tokens).await?;
                same!(answer, model.admit(gate, &id, tokens, now));
                if let Some((reason, wait)) = answer.refusal() {
                    let in_bounds = wait.is_none_or(|wait| (1..=600_000).contains(&wait));
                    anyhow::ensure!(
                        in_bounds && (wait.is_none() == (reason == Reason::TooLarge)),
                        "{reason}: {wait:?}"
                    );
                } else if !admitted.contains(&(gate, id.clone())) {
                    admitted.push((gate, id));
                }
            }
            Op::Settle { recent, settlement } => {
                if let Some((gate, id)) = admitted.iter().rev().nth(recent) {
                    let settled = gates[*gate].settle(id.as_str(), settlement).await?;
                    same!(settled, model.settle(*gate, id, settlement, now));
                }
            }
            Op::Renew { gate } => {
                let own = admitted.iter().rev().filter(|(g, _)| *g == gate).take(4);
                let ids: Vec<String> = own.map(|(_, id)| id.clone()).collect();
                let words: Vec<&str> = ids.iter().map(String::as_str).collect();
                same!(gates[gate].lost(&words).await, model.renew(gate, &ids, now));
            }
            Op::Control(open) => {
                model.begin(now);
                if open {
                    model.enter(State::Open, now);
                } else {
                    model.reset(now);
                }
                gates[0]
                    .redis
                    .control(if open {
                        BreakerControl::Open
                    } else {
                        BreakerControl::Close
                    })
                    .await?;
            }
            Op::NodeReset if model.state != State::Closed => {
                rig.node_reset(&gates[1]).await;
                gates[0].redis.control(BreakerControl::Status).await?;
                model.reset(now);
            }
            Op::NodeReset => {}
        }
        let [state, _, successes, opened_at, attempts] = rig.contract(&gates[0]).await;
        same!(
            state.unwrap_or_else(|| "CLOSED".to_owned()),
            model.state.into_str()
        );
        same!(opened_at, model.opened_at.map(|at| at.to_string()));
        if model.state == State::HalfOpen {
            same!(
                successes.unwrap_or_else(|| "0".to_owned()),
                model.successes.to_string()
            );
            let most = model.breaker.half_open_max.max(model.breaker.success_threshold);
            anyhow::ensure!(
                attempts.is_some_and(|n| n.parse::<u32>().unwrap() <= most),
                "too many attempts"
            );
        } else {
            same!((successes, attempts), (None, None));
        }
    }
    Ok(())
}

/// Runs so many sequences; the first that differs is made as short as it can be.
pub(super) fn check(
    rig: &Rig,
    runtime: &tokio::runtime::Runtime,
    mut runner: TestRunner,
    steps: usize,
) -> Result<(), String> {
    let sequences = (
        breakers(),
        [limits(), limits()],
        prop::collection::vec(op(), steps / 2..steps),
    );
    let outcome = runner.run(&sequences, |(breaker, limits, ops)| {
        runtime
            .block_on(compare(rig, breaker, limits, ops))
            .map_err(|difference| TestCaseError::fail(format!("{difference:#}")))
    });
    outcome.map_err(|error| match error {
        TestError::Fail(reason, case) => format!("{reason} in {case:#?}"),
        TestError::Abort(reason) => reason.to_string(),
    })
}

pub(super) fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

#[test]
fn the_scripts_do_what_the_model_does() {
    let (cases, steps) = if is_long_run() { (2000, 400) } else { (40, 160) };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rig = runtime.block_on(Rig::start());
    check(&rig, &runtime, TestRunner::new(config(cases)), steps).unwrap();
}
