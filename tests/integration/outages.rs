//! Redis goes away and comes back, with jobs in flight: they go on, none is lost, none is done twice.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{Broker, JobState, Layout},
    worker::RuntimeOptions,
};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::support::{RunningReplica, Script, TestRedis, enqueue, eventually, options, replica, view};

const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// Forty jobs: ten in flight behind a gate, thirty queued.
struct Scene {
    redis: TestRedis,
    broker: Arc<dyn Broker>,
    script: Arc<Script>,
    gate: CancellationToken,
    running: RunningReplica,
}

impl Scene {
    async fn set(layout: Layout, arguments: &[&str]) -> Self {
        let redis = TestRedis::start_with(arguments).await;
        let broker = redis.broker(layout, "q", "w");
        let gate = CancellationToken::new();
        let script = Script::behind(gate.clone());
        for n in 0..40 {
            enqueue(&*broker, &n.to_string()).await;
        }
        let running = replica(broker.clone(), 10, script.clone(), &options());
        script.calls.until_started(10).await;
        Self {
            redis,
            broker,
            script,
            gate,
            running,
        }
    }

    /// Opens the gate and wants every job done once.
    async fn ends_well(self) {
        self.gate.cancel();
        eventually("all forty are done", async || {
            let counts = self.broker.counts().await.ok()?;
            (counts.completed == 40).then_some(())
        })
        .await;
        assert!(self.running.is_running(), "the worker has lived through it");
        let tally = self.running.stop().await;
        assert_eq!((tally.succeeded, tally.lost, tally.failed), (40, 0, 0));
        let mut ids = self.script.calls.started();
        ids.sort();
        ids.dedup();
        assert_eq!(
            (ids.len(), self.script.calls.count()),
            (40, 40),
            "none was run twice"
        );
        assert_eq!(view(&*self.broker, "39").await.state, JobState::Completed);
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_restart_of_redis(#[case] layout: Layout) {
    let mut scene = Scene::set(layout, AOF).await;
    scene.redis.server.restart(AOF).await.unwrap();
    scene.ends_well().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn an_outage_while_outcomes_are_written(#[case] layout: Layout) {
    let mut scene = Scene::set(layout, AOF).await;
    let pid = nix::unistd::Pid::from_raw(scene.redis.server.pid().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The jobs in flight end now, and have nowhere to write it.
    scene.gate.cancel();
    scene.script.calls.until_finished(10).await;
    scene.redis.server.restart(AOF).await.unwrap();
    scene.ends_well().await;
}

/// How Redis comes to refuse writes, how it is mended, and the code that it answers with.
const REFUSALS: [(&[&str], &[&str], &str); 3] = [
    (
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CONFIG", "SET", "maxmemory", "0"],
        "OOM",
    ),
    (
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
        "NOREPLICAS",
    ),
    (
        &["REPLICAOF", "127.0.0.1", "1"],
        &["REPLICAOF", "NO", "ONE"],
        "READONLY",
    ),
];

/// An outcome is kept until Redis takes it. Redis 6.2 words what it refuses inside of a script in its own way.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_redis_that_refuses_writes_while_outcomes_are_written(#[case] layout: Layout) {
    for (begin, end, code) in REFUSALS {
        let is_usual = code == "READONLY";
        let usual = if is_usual {
            Some(TestRedis::start().await)
        } else {
            None
        };
        for redis in [usual, TestRedis::start_6_2().await].into_iter().flatten() {
            let broker = redis.broker(layout, "q", "w");
            let gate = CancellationToken::new();
            let script = Script::behind(gate.clone());
            enqueue(&*broker, "1").await;
            let running = replica(broker.clone(), 1, script.clone(), &options());
            script.calls.until_started(1).await;
            redis.ask::<()>(begin).await;
            let before = script_calls(&redis).await;
            gate.cancel();
            // More often than a command is tried that can never be done.
            eventually(&format!("{code} has been answered often enough"), async || {
                (script_calls(&redis).await >= before + 9).then_some(())
            })
            .await;
            redis.ask::<()>(end).await;
            eventually("the job is done", async || {
                (broker.counts().await.ok()?.completed == 1).then_some(())
            })
            .await;
            let tally = running.stop().await;
            assert_eq!((tally.succeeded, tally.lost), (1, 0), "{code}");
            assert_eq!(script.calls.count(), 1, "{code}: the job was run twice");
        }
    }
}

/// How many scripts were called. Where no slot is free, most of them write outcomes.
async fn script_calls(redis: &TestRedis) -> u64 {
    let info: String = redis.ask(&["INFO", "commandstats"]).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next())
        .map_or(0, |calls| calls.parse().unwrap())
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_storm_of_killed_connections(#[case] layout: Layout) {
    let scene = Scene::set(layout, &[]).await;
    scene.gate.cancel();
    for _ in 0..50 {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .arg("SKIPME")
            .arg("yes");
        kill.query_async::<()>(&mut scene.redis.raw.clone())
            .await
            .unwrap();
    }
    scene.ends_well().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_pause_of_five_seconds(#[case] layout: Layout) {
    let scene = Scene::set(layout, &[]).await;
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "5000", "ALL"]).await;
    scene.ends_well().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn scripts_that_are_forgotten(#[case] layout: Layout) {
    let scene = Scene::set(layout, &[]).await;
    scene.redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    scene.ends_well().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_redis_that_is_not_there_at_first(#[case] layout: Layout) {
    let mut redis = TestRedis::start_with(AOF).await;
    let pid = nix::unistd::Pid::from_raw(redis.server.pid().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let broker = redis.broker(layout, "q", "w");
    let running = replica(broker.clone(), 2, Script::echo(), &options());
    eventually("the replica notices", async || {
        running.workers[0].health().problem()
    })
    .await;
    redis.server.restart(AOF).await.unwrap();
    eventually("it recovers", async || {
        running.workers[0].health().problem().is_none().then_some(())
    })
    .await;
    enqueue(&*broker, "1").await;
    eventually("it works", async || {
        (view(&*broker, "1").await.state == JobState::Completed).then_some(())
    })
    .await;
    running.stop().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_stop_while_redis_is_away_does_not_hang(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let running = replica(broker.clone(), 2, Script::echo(), &options());
    enqueue(&*broker, "1").await;
    eventually("it works", async || {
        (view(&*broker, "1").await.state == JobState::Completed).then_some(())
    })
    .await;
    redis.server.stop().await;
    let tally = tokio::time::timeout(Duration::from_secs(30), running.stop())
        .await
        .expect("it stops");
    assert_eq!(tally.succeeded, 1);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn an_outage_longer_than_the_leases_makes_no_replica_rob_another(#[case] layout: Layout) {
    let mut redis = TestRedis::start_with(AOF).await;
    let ttl = Duration::from_millis(1500);
    let (a, b) = (
        redis.broker_with(layout, "q", "a", ttl),
        redis.broker_with(layout, "q", "b", ttl),
    );
    let gate = CancellationToken::new();
    let script = Script::behind(gate.clone());
    for n in 0..30 {
        enqueue(&*a, &n.to_string()).await;
    }
    // Every slot is taken, so that each replica learns of the outage at a time of its own.
    let quick = RuntimeOptions {
        renew_every: ttl / 3,
        ..options()
    };
    let (first, second) = (
        replica(a.clone(), 10, script.clone(), &quick),
        replica(b, 10, script.clone(), &quick),
    );
    script.calls.until_started(20).await;
    let pid = nix::unistd::Pid::from_raw(redis.server.pid().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    tokio::time::sleep(ttl * 3).await; // The length of the outage.
    redis.server.restart(AOF).await.unwrap();
    eventually("both are well again", async || {
        let well = |r: &RunningReplica| r.workers[0].health().problem().is_none();
        (well(&first) && well(&second)).then_some(())
    })
    .await;
    gate.cancel();
    eventually("all are done", async || {
        (a.counts().await.ok()?.completed == 30).then_some(())
    })
    .await;
    let (x, y) = (first.stop().await, second.stop().await);
    assert_eq!((x.succeeded + y.succeeded, x.lost + y.lost), (30, 0));
    assert_eq!(script.calls.count(), 30, "none was run twice");
}

/// An orchestrator hears at once of a Redis that answers and takes no writes, in Redis's words.
#[tokio::test]
async fn health_tells_of_a_redis_that_refuses_writes() {
    let scene = crate::support::Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    assert_eq!(worker.health().await.unwrap().0, 200);
    scene
        .redis
        .ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"])
        .await;
    let reason = eventually("health tells", async || {
        let (code, health) = worker.health().await?;
        (code == 503).then(|| health["reason"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(
        reason.starts_with("Redis refuses writes: ") && reason.contains("Not enough good replicas"),
        "{reason}"
    );
    scene
        .redis
        .ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"])
        .await;
    eventually("it is well again", async || {
        (worker.health().await?.0 == 200).then_some(())
    })
    .await;
}
