//! Redis goes away and comes back, with jobs in flight: they go on, none is lost, none is done twice.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{Broker, Layout, State},
    worker::RuntimeOptions,
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    RunningReplica, Script, TestRedis, both_layouts, enqueue, eventually, options, replica, view,
};

const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

both_layouts! {
    a_restart_of_redis
    an_outage_while_outcomes_are_written
    a_storm_of_killed_connections
    a_pause_of_five_seconds
    scripts_that_are_forgotten
    a_redis_that_is_not_there_at_first
    a_stop_while_redis_is_away_does_not_hang
    an_outage_longer_than_the_leases_makes_no_replica_rob_another
}

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
        assert_eq!(view(&*self.broker, "39").await.state, State::Completed);
    }
}

async fn a_restart_of_redis(layout: Layout) {
    let mut scene = Scene::set(layout, AOF).await;
    scene.redis.server.restart(AOF).await.unwrap();
    scene.ends_well().await;
}

async fn an_outage_while_outcomes_are_written(layout: Layout) {
    let mut scene = Scene::set(layout, AOF).await;
    let pid = nix::unistd::Pid::from_raw(scene.redis.server.pid().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The jobs in flight end now, and have nowhere to write it.
    scene.gate.cancel();
    scene.script.calls.until_finished(10).await;
    scene.redis.server.restart(AOF).await.unwrap();
    scene.ends_well().await;
}

async fn a_storm_of_killed_connections(layout: Layout) {
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

async fn a_pause_of_five_seconds(layout: Layout) {
    let scene = Scene::set(layout, &[]).await;
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "5000", "ALL"]).await;
    scene.ends_well().await;
}

async fn scripts_that_are_forgotten(layout: Layout) {
    let scene = Scene::set(layout, &[]).await;
    scene.redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    scene.ends_well().await;
}

async fn a_redis_that_is_not_there_at_first(layout: Layout) {
    let mut redis = TestRedis::start_with(AOF).await;
    let pid = nix::unistd::Pid::from_raw(redis.server.pid().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let broker = redis.broker(layout, "q", "w");
    let running = replica(broker.clone(), 2, Script::echo(), &options());
    eventually("the replica notices", async || {
        running.workers[0].vitals().complaint()
    })
    .await;
    redis.server.restart(AOF).await.unwrap();
    eventually("it recovers", async || {
        running.workers[0].vitals().complaint().is_none().then_some(())
    })
    .await;
    enqueue(&*broker, "1").await;
    eventually("it works", async || {
        (view(&*broker, "1").await.state == State::Completed).then_some(())
    })
    .await;
    running.stop().await;
}

async fn a_stop_while_redis_is_away_does_not_hang(layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let running = replica(broker.clone(), 2, Script::echo(), &options());
    enqueue(&*broker, "1").await;
    eventually("it works", async || {
        (view(&*broker, "1").await.state == State::Completed).then_some(())
    })
    .await;
    redis.server.stop().await;
    let tally = tokio::time::timeout(Duration::from_secs(30), running.stop())
        .await
        .expect("it stops");
    assert_eq!(tally.succeeded, 1);
}

async fn an_outage_longer_than_the_leases_makes_no_replica_rob_another(layout: Layout) {
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
        let well = |r: &RunningReplica| r.workers[0].vitals().complaint().is_none();
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
