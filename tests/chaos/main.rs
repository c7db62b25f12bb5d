//! The chaos suite: real replicas, real Redis, real Node, and a seeded schedule of what goes wrong. After each run an
//! oracle compares what was enqueued with what the simulator saw, what Redis holds and what Node's classes read.
//!
//! Each test is small by default. Its size is set by the environment:
//!
//! | variable | |
//! |---|---|
//! | `CHAOS_SEED` | the schedule |
//! | `CHAOS_JOBS` | jobs in all, half of them in each layout |
//! | `CHAOS_SECONDS`, `CHAOS_MINUTES` | how long things go wrong |
//! | `CHAOS_REPLICAS` | replicas at a time |
//! | `CHAOS_KILLS` | SIGKILLs of `kills` and `money` |
//! | `CHAOS_LEASE` | seconds of `LEASE_TTL` |
//! | `CHAOS_NEIGHBOUR` | binary of another version: every second replica runs it (`scripts/mixed-versions.sh`) |
//! | `CHAOS_STRICT=on` | a paid call made again is a fault, unless a replica was killed, frozen or cut off around its answer |
//! | `CHAOS_KEEP=on` | keeps the replicas' logs, and what is known about each call that was paid for again |
//! | `CHAOS_REPORT=on` | writes the run's section of `docs/reliability.md` |
//!
//! # Layout
//! - `plan`: the schedule. `field`, `fleet`: where it happens. `faults`: how. `jobs`: what is enqueued.
//! - `oracle`, `keys`: what must hold. `money`: of the books. `recovery`: how long the jobs of the dead wait.
//!   `report`: figures.
//! - `selftest`: the oracle itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test reports a fault by a panic"
)]

mod faults;
mod field;
mod fleet;
mod jobs;
mod keys;
mod money;
mod oracle;
mod plan;
mod recovery;
mod report;
mod selftest;

use std::{path::Path, time::Duration};

use backend_worker::{
    queue::Layout,
    simulator::{Fault, Provider},
    spending::Usd,
};
use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use test_support as support;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    field::{Field, Settings},
    oracle::Verdict,
    plan::Lane,
    recovery::Recovery,
    report::Title,
    support::Receiver,
};

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// How the test is run again, with these variables.
fn command(variables: &str, test: &str) -> String {
    format!("{variables} cargo test --locked --test chaos {test} -- --nocapture")
}

fn is_strict() -> bool {
    std::env::var("CHAOS_STRICT").is_ok_and(|on| on == "on")
}

/// The settings of a run, and the variables that give them.
fn settings(jobs: u64, seconds: u64, replicas: u64, lease: u64) -> (Settings, String) {
    let seed = number("CHAOS_SEED").unwrap_or(1);
    let jobs = number("CHAOS_JOBS").unwrap_or(jobs);
    let seconds =
        number("CHAOS_MINUTES").map_or_else(|| number("CHAOS_SECONDS").unwrap_or(seconds), |m| m * 60);
    let replicas = number("CHAOS_REPLICAS").unwrap_or(replicas);
    let lease = number("CHAOS_LEASE").unwrap_or(lease);
    let mut variables = format!(
        "CHAOS_SEED={seed} CHAOS_JOBS={jobs} CHAOS_SECONDS={seconds} CHAOS_REPLICAS={replicas} CHAOS_LEASE={lease}"
    );
    if is_strict() {
        variables.push_str(" CHAOS_STRICT=on");
    }
    let settings = Settings {
        seed,
        replicas: usize::try_from(replicas).unwrap(),
        jobs: usize::try_from(jobs).unwrap() / 2,
        over: Duration::from_secs(seconds),
        lease: Duration::from_secs(lease),
        latency: Duration::from_millis(40),
        stream: Duration::from_millis(20),
        slots: 10,
        calls: 20,
        rpm: 0,
        repeats: false,
        env: Vec::new(),
    };
    (settings, variables)
}

/// The commit that `scripts/mixed-versions.sh` has built a binary of.
fn commit_of(binary: &Path) -> String {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit('-').next().unwrap_or_default().to_owned()
}

/// Waits for the last job, stops the replicas, audits, publishes; and wants no finding.
async fn conclude(title: &Title, field: &Field, started: Instant, more: impl FnOnce(&mut Verdict)) {
    let drained = field.drained().await;
    let wall = started.elapsed();
    field.stop().await;
    let mut verdict = oracle::audit(field, is_strict()).await;
    if !drained {
        verdict
            .findings
            .push("jobs have not ended, and nothing moves any more".to_owned());
    }
    more(&mut verdict);
    verdict.findings.append(&mut field.record().findings);
    report::publish(title, field, &verdict, wall);
    assert!(
        verdict.findings.is_empty(),
        "seed {}: {:#?}\nlogs: {}",
        field.settings.seed,
        verdict.findings,
        field.folder.display()
    );
    if std::env::var("CHAOS_KEEP").is_ok_and(|on| on == "on") {
        println!("logs: {}", field.folder.display());
    } else {
        let _ = std::fs::remove_dir_all(&field.folder);
    }
}

/// Enqueues while the lanes' faults are inflicted, until both the time is over and all is enqueued.
async fn endure(field: &Field, lanes: &[Lane]) {
    let stop = CancellationToken::new();
    let faults = join_all(lanes.iter().map(|lane| field.suffer(*lane, &stop)));
    let producers = async {
        jobs::produce(field, field.settings.jobs, field.settings.over).await;
        stop.cancel();
    };
    interruptible(async { tokio::join!(faults, producers, field.probe(&stop)) }).await;
}

/// Ctrl-C ends the test as a failure does, so that its processes end with it.
async fn interruptible<T>(run: impl Future<Output = T>) -> T {
    tokio::select! {
        ended = run => ended,
        _ = tokio::signal::ctrl_c() => panic!("interrupted"),
    }
}

/// Everything that can go wrong does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything() {
    let (settings, variables) = settings(400, 20, 3, 5);
    let minute = settings.jobs as u64 * 2 * 60 / settings.over.as_secs().max(1);
    let settings = Settings {
        rpm: minute * 3,
        ..settings
    };
    let about =
        "Faults of replicas, Redis, the lines between both and the provider, each lane drawn from the seed.";
    let title = match field::neighbour() {
        None => Title {
            name: "everything",
            heading: "Everything at once",
            about,
            command: command(&variables, "everything"),
        },
        Some(binary) => Title {
            name: "mixed",
            heading: "Two versions side by side",
            about: "As everything at once, but every second replica runs the binary of an earlier commit.",
            command: format!("{variables} sh scripts/mixed-versions.sh {}", commit_of(&binary)),
        },
    };
    let (field, started) = (Field::set(settings).await, Instant::now());
    endure(&field, Lane::ALL).await;
    conclude(&title, &field, started, |_| {}).await;
}

/// Redis restarts, pauses and forgets; replicas are left alone. Nothing is lost, nothing is done twice, and no attempt
/// is used up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_storm() {
    let (settings, variables) = settings(400, 15, 2, 15);
    let title = Title {
        name: "redis_storm",
        heading: "Redis restarts, CLIENT KILL storms, pauses, OOM, READONLY",
        about: "Replicas and provider are well; Redis is not.",
        command: command(&variables, "redis_storm"),
    };
    let (field, started) = (Field::set(settings).await, Instant::now());
    endure(&field, &[Lane::Redis]).await;
    conclude(&title, &field, started, |_| {}).await;
}

/// Replicas are killed at random. Their jobs are claimed by others within 30 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills() {
    let kills = number("CHAOS_KILLS").unwrap_or(6);
    let (settings, variables) = settings(300, 15, 4, 5);
    let settings = Settings {
        latency: Duration::from_millis(200),
        slots: 3,
        calls: 60,
        ..settings
    };
    let title = Title {
        name: "kills",
        heading: "Random SIGKILLs",
        about: "Recovery is the time from a SIGKILL until another replica has claimed a job that the dead one held.",
        command: command(&format!("CHAOS_KILLS={kills} {variables}"), "kills"),
    };
    let (field, started, recovery) = (Field::set(settings).await, Instant::now(), Recovery::default());
    let stop = CancellationToken::new();
    let killing = async {
        let mut rng = StdRng::seed_from_u64(field.settings.seed);
        let mean = field.settings.over.div_f64(kills as f64);
        for _ in 0..kills {
            sleep(mean.mul_f64(rng.random_range(0.2..1.8))).await;
            let (victim, since) = (rng.random_range(0..field.settings.replicas), Instant::now());
            let (name, at) = field.kill(victim).await;
            *field.record().faults.entry("SIGKILL").or_default() += 1;
            recovery.bereave(&field, &name, since, at).await;
        }
        stop.cancel();
    };
    let producing = jobs::produce(&field, field.settings.jobs, field.settings.over);
    interruptible(async { tokio::join!(killing, producing, recovery.watch(&field, &stop)) }).await;
    conclude(&title, &field, started, |verdict| {
        let waits = recovery.waits();
        let at = |share: f64| {
            waits.get(((waits.len() as f64 * share) as usize).min(waits.len().saturating_sub(1)))
        };
        let seconds =
            |wait: Option<&Duration>| wait.map_or("none".to_owned(), |w| format!("{:.1} s", w.as_secs_f64()));
        verdict.figure("jobs in flight when their replica was killed", waits.len());
        verdict.figure("recovery p50", seconds(at(0.5)));
        verdict.figure("recovery p99", seconds(at(0.99)));
        verdict.figure("recovery, longest", seconds(waits.last()));
        if at(0.99).is_some_and(|wait| *wait > Duration::from_secs(30)) {
            verdict.findings.push("recovery took more than 30 s".to_owned());
        }
    })
    .await;
}

/// The settings of the runs about money: what is billed varies, events go to `receiver`, and each call is reserved
/// before it is sent (without any budget, a replica that dies during an outage of Redis takes its calls of that time
/// along).
fn with_money(settings: Settings, receiver: &Receiver, budget: &str) -> Settings {
    let variables = [
        ("USAGE_WEBHOOK_URL", receiver.url()),
        ("USAGE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
        ("BUDGET_MONTHLY_USD", budget.to_owned()),
        ("DEDUPLICATE", "user".to_owned()),
        ("OPENAI_REASONING_EFFORT", "low".to_owned()),
        ("OPENAI_BREAKER_FAILURES", "100".to_owned()),
        ("AZURE_BREAKER_FAILURES", "100".to_owned()),
    ];
    Settings {
        latency: Duration::from_millis(60),
        slots: 6,
        calls: 40,
        repeats: true,
        env: variables.into(),
        ..settings
    }
}

const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
/// How long replicas may take to find Redis again, ms.
const RECONNECTING_MS: f64 = 2000.0;
/// The share of the provider's answers that fail in the runs about money.
const FAILURES: f64 = 0.08;

/// Kills replicas, and every fifth time restarts Redis too, evenly over the run. An onlooker writes beside it.
async fn kill_for_money(field: &Field, kills: u64) {
    let stop = CancellationToken::new();
    let killing = async {
        kill_and_restart(field, kills).await;
        stop.cancel();
    };
    tokio::join!(killing, field.probe(&stop));
}

async fn kill_and_restart(field: &Field, kills: u64) {
    let mut rng = StdRng::seed_from_u64(field.settings.seed);
    let mean = field.settings.over.div_f64(kills.max(1) as f64);
    for nth in 0..kills {
        sleep(mean.mul_f64(rng.random_range(0.5..1.5))).await;
        field.kill(rng.random_range(0..field.settings.replicas)).await;
        *field.record().faults.entry("SIGKILL").or_default() += 1;
        if nth % 5 == 4 {
            let restart = plan::Fault::RestartRedis { killed: nth % 2 == 0 };
            let from = field.simulator.journal().elapsed_ms();
            field.inflict(restart, 0).await;
            let to = field.simulator.journal().elapsed_ms();
            field.record().partitions.push((from, to + RECONNECTING_MS));
            *field.record().faults.entry(restart.name()).or_default() += 1;
        }
    }
}

/// Replicas are killed, Redis restarts, answers fail and are lost: the books are the provider's bill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money() {
    let kills = number("CHAOS_KILLS").unwrap_or(5);
    let (settings, variables) = settings(300, 15, 4, 5);
    let receiver = Receiver::start(WEBHOOK_SECRET).await;
    let title = Title {
        name: "money",
        heading: "The books and the provider's bill",
        about: "The simulator keeps a bill by the same prices and its own arithmetic, with cached, written and reasoning \
                tokens and other tiers. Replicas are killed, Redis restarts, 8 % of the answers fail or are cut, and every tenth \
                job asks what an earlier one has asked.",
        command: command(&format!("CHAOS_KILLS={kills} {variables}"), "money"),
    };
    let (field, started) = (
        Field::set(with_money(settings, &receiver, "1000")).await,
        Instant::now(),
    );
    field.simulator.vary_bills();
    field.simulator.faults().set_random_share(FAILURES).unwrap();
    let producing = jobs::produce(&field, field.settings.jobs, field.settings.over);
    interruptible(async { tokio::join!(kill_for_money(&field, kills), producing) }).await;
    field.drained().await;
    money::settled(&field).await;
    let mut verdict = Verdict::default();
    money::audit(&field, &receiver, &mut verdict).await;
    conclude(&title, &field, started, |all| all.append(verdict)).await;
}

/// Replicas are killed while answers stream in, and streams break off, fall silent and end with errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams() {
    let kills = number("CHAOS_KILLS").unwrap_or(5);
    let (settings, variables) = settings(300, 15, 4, 5);
    let receiver = Receiver::start(WEBHOOK_SECRET).await;
    let title = Title {
        name: "streams",
        heading: "SIGKILLs in the middle of streams",
        about: "As the books and the provider's bill, but OpenAI's answers take 1.2 s to arrive, so that most kills find some half \
                written, and a sixth of the streams break off, fall silent or end with an error, before or behind enough cards.",
        command: command(&format!("CHAOS_KILLS={kills} {variables}"), "streams"),
    };
    let mut settings = with_money(settings, &receiver, "1000");
    settings.latency = Duration::from_millis(5);
    settings.stream = Duration::from_millis(1200);
    settings.env.push(("OPENAI_IDLE_TIMEOUT", "1s".to_owned()));
    let (field, started) = (Field::set(settings).await, Instant::now());
    field.simulator.vary_bills();
    let mut rng = StdRng::seed_from_u64(field.settings.seed);
    for n in (0..field.settings.jobs).step_by(6) {
        let percent = rng.random_range(0..=95);
        let fault = match rng.random_range(0..3) {
            0 => Fault::StreamBreak { percent },
            1 => Fault::StreamSilence { percent },
            _ => Fault::StreamError { percent },
        };
        for layout in Layout::ALL {
            // As the id stands in the prompt, at its end.
            let prompt = format!("{}\\\"", jobs::id(layout, n));
            let faults = field.simulator.faults();
            faults
                .on_match(Provider::OpenAi, prompt, fault.clone(), Some(1))
                .unwrap();
        }
    }
    let producing = jobs::produce(&field, field.settings.jobs, field.settings.over);
    interruptible(async { tokio::join!(kill_for_money(&field, kills), producing) }).await;
    field.drained().await;
    money::settled(&field).await;
    let mut verdict = Verdict::default();
    let begun = field.simulator.journal().of(Provider::OpenAi);
    let cut = begun
        .iter()
        .filter(|call| call.bill.is_some() && call.status.is_none())
        .count();
    verdict.figure("streams that no replica read to their end", cut);
    verdict.zero(
        "of these, neither a kill nor an outage of Redis was near",
        &cut_without_cause(&field),
    );
    money::audit(&field, &receiver, &mut verdict).await;
    conclude(&title, &field, started, |all| all.append(verdict)).await;
}

/// Streams that were cut although no replica was killed, Redis was there, and the provider went on. The calls of a job follow
/// one another, so a kill makes at most one of them again.
fn cut_without_cause(field: &Field) -> Vec<String> {
    /// Longer than a stream takes, ms.
    const NEAR_MS: f64 = 2500.0;
    let record = field.record();
    let is_near = |at_ms: f64| {
        let mut causes = record.interruptions.iter().chain(&record.partitions);
        causes.any(|(from, to)| *from <= at_ms + NEAR_MS && *to >= at_ms)
    };
    let calls = field.simulator.journal().of(Provider::OpenAi);
    let cut = calls
        .iter()
        .filter(|call| call.bill.is_some() && call.status.is_none() && call.fault.is_none());
    cut.filter(|call| !is_near(call.at_ms))
        .map(|call| format!("{} at {:.0}", call.marker, call.at_ms))
        .collect()
}

/// The budget of the month is smaller than the load: it is never exceeded, and once it is raised every job ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget() {
    let kills = number("CHAOS_KILLS").unwrap_or(3);
    let (settings, variables) = settings(300, 15, 4, 5);
    let receiver = Receiver::start(WEBHOOK_SECRET).await;
    let title = Title {
        name: "budget",
        heading: "A budget that is used up",
        about: "The same load with a budget of about half of what it costs, which an operator raises when nothing moves any \
                more.",
        command: command(&format!("CHAOS_KILLS={kills} {variables}"), "budget"),
    };
    // A job of this load costs about 0.0008 USD, and each lost answer up to 0.009 USD.
    let limit = Usd::from_nanos(400_000 * 2 * settings.jobs as u64 + 50_000_000);
    let settings = with_money(settings, &receiver, &limit.to_string());
    let (field, started) = (Field::set(settings).await, Instant::now());
    field.simulator.vary_bills();
    let producing = jobs::produce(&field, field.settings.jobs, field.settings.over);
    let until_used_up = async {
        tokio::join!(kill_for_money(&field, kills), producing);
        money::standstill(&field).await;
    };
    let most = interruptible(money::watch(&field, limit, until_used_up)).await;
    let waiting = field.unfinished().await;
    money::accounts(&field)
        .set_month(Some(Usd::from_nanos(1_000_000_000_000)))
        .await
        .unwrap();
    field.drained().await;
    money::settled(&field).await;
    let mut verdict = Verdict::default();
    verdict.figure("budget, USD", limit);
    verdict.figure("most that was spent or reserved at a time, USD", most);
    verdict.figure("jobs that waited for the budget", waiting);
    if waiting == 0 {
        verdict
            .findings
            .push("no job waited: the budget was not used up".to_owned());
    }
    money::audit(&field, &receiver, &mut verdict).await;
    conclude(&title, &field, started, |all| all.append(verdict)).await;
}
