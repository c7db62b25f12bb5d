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
//! | `CHAOS_KILLS` | SIGKILLs of `kills` |
//! | `CHAOS_LEASE` | seconds of `LEASE_TTL` |
//! | `CHAOS_NEIGHBOUR` | binary of another version: every second replica runs it (`scripts/mixed-versions.sh`) |
//! | `CHAOS_STRICT=on` | a paid call made again is a fault, unless a replica was killed, frozen or cut off around its answer |
//! | `CHAOS_REPORT=on` | writes the run's section of `docs/reliability.md` |
//!
//! # Layout
//! - `plan`: the schedule. `field`, `fleet`: where it happens. `faults`: how. `jobs`: what is enqueued.
//! - `oracle`, `keys`: what must hold. `recovery`: how long the jobs of the dead wait. `report`: figures.
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
mod oracle;
mod plan;
mod recovery;
mod report;
mod selftest;
#[path = "../integration/support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the integration tests use the rest"
)]
mod support;

use std::{path::Path, time::Duration};

use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    field::{Field, Settings},
    oracle::Verdict,
    plan::Lane,
    recovery::Recovery,
    report::Title,
    support::proxy,
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
        slots: 10,
        calls: 20,
        rpm: 0,
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
    let _ = std::fs::remove_dir_all(&field.folder);
}

/// Enqueues while the lanes' faults are inflicted, until both the time is over and all is enqueued.
async fn endure(field: &Field, lanes: &[Lane]) {
    let stop = CancellationToken::new();
    let faults = join_all(lanes.iter().map(|lane| field.suffer(*lane, &stop)));
    let producers = async {
        jobs::produce(field, field.settings.jobs, field.settings.over).await;
        stop.cancel();
    };
    interruptible(async { tokio::join!(faults, producers) }).await;
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
