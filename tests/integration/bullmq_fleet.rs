//! Workers of BullMQ's own and this one on the same queue: beside each other, and one in place of the other.
//!
//! The take-overs run with short leases. With `TAKEOVER_DEFAULTS=1` they run with the defaults of both sides; each
//! prints how long it took.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use backend_worker::{simulator::Provider, worker::DeliveryOutcome};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Node, Scene, Script, TestRedis, Worker, eventually, options, replica};

const JOBS: usize = 300;

async fn started(node: &Node) -> Vec<String> {
    serde_json::from_value(node.ask("started", json!({})).await).unwrap()
}

async fn side_by_side(version: &str) {
    let redis = TestRedis::start().await;
    let node = Node::start(&redis, "q").await;
    for n in 0..JOBS {
        let job = json!({"name": "x", "data": {"steps": ["nap"]}, "opts": {"jobId": format!("j{n}")}});
        node.ask("add", job).await;
    }
    // Ours holds its first jobs until the other has begun: both do some.
    let other = CancellationToken::new();
    let script = Script::new({
        let other = other.clone();
        move |_| {
            let other = other.clone();
            async move {
                other.cancelled().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                DeliveryOutcome::Completed("1".to_owned())
            }
        }
    });
    let running = replica(redis.bullmq("q", "ours"), 4, script.clone(), &options());
    script.calls.until_started(4).await;
    node.ask("work", json!({"version": version, "concurrency": 4}))
        .await;
    eventually("the other has begun", async || {
        (!started(&node).await.is_empty()).then_some(())
    })
    .await;
    other.cancel();
    eventually("all are completed", async || {
        let counts = node.ask("counts", json!({})).await;
        (counts["completed"] == JOBS).then_some(())
    })
    .await;

    let (ours, theirs) = (script.calls.started(), started(&node).await);
    assert_eq!(ours.len() + theirs.len(), JOBS, "each was run once");
    let all: HashSet<_> = ours.iter().chain(&theirs).collect();
    assert_eq!(all.len(), JOBS, "and by one of them");
    for n in 0..JOBS {
        let job = node.look(&format!("j{n}")).await;
        assert_eq!(
            (&job["attemptsMade"], &job["attemptsStarted"]),
            (&json!(1), &json!(1)),
            "{job}"
        );
    }
    node.ask("stop", json!({})).await;
    running.stop().await;
    let locks: Vec<String> = redis.ask(&["KEYS", "bull:q:*:lock"]).await;
    assert!(locks.is_empty(), "{locks:?}");
}

#[tokio::test]
async fn each_job_is_done_once_beside_a_worker_of_bullmq() {
    side_by_side("5").await;
}

#[tokio::test]
async fn each_job_is_done_once_beside_a_worker_of_bullmq_5_1() {
    side_by_side("5.1").await;
}

/// Twenty jobs, which the first worker holds when it dies.
struct Takeover {
    scene: Scene,
    node: Node,
    defaults: bool,
}

impl Takeover {
    async fn set() -> Self {
        let scene = Scene::set(Duration::from_secs(3)).await;
        let node = Node::start(&scene.redis, "ai-jobs").await;
        for n in 0..20 {
            let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u", "steps": ["hold", "complete"]});
            let opts = json!({"jobId": format!("j{n}"), "attempts": 3});
            let job = json!({"name": "generate-flashcards", "data": data, "opts": opts});
            node.ask("add", job).await;
        }
        let defaults = std::env::var_os("TAKEOVER_DEFAULTS").is_some();
        Self {
            scene,
            node,
            defaults,
        }
    }

    async fn ours(&self) -> Worker {
        let lease = if self.defaults { "15s" } else { "5s" };
        self.scene
            .worker(&[("LEASE_TTL", lease), ("CONCURRENCY", "20")])
            .await
    }

    /// The options of a worker of Node's.
    fn theirs(&self) -> Value {
        if self.defaults {
            json!({"concurrency": 20})
        } else {
            json!({"concurrency": 20, "lockDuration": 4000, "stalledInterval": 1000})
        }
    }

    /// A worker of ours that is killed with all of the jobs in its hands.
    async fn ours_dies(&self) {
        let worker = self.ours().await;
        self.scene
            .simulator
            .journal()
            .wait_until(|journal| journal.counts(Provider::OpenAi).current >= 20)
            .await;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
        let counts = self.node.ask("counts", json!({})).await;
        assert_eq!(counts["active"], 20, "{counts}");
    }

    /// All are done, by the second delivery of the first attempt.
    async fn all_complete(&self, who: &str, since: Instant) {
        for n in 0..20 {
            let id = format!("j{n}");
            // By itself: with the defaults of Node this takes longer than our patience.
            let mut job = self.node.look(&id).await;
            while job["state"] != "completed" && since.elapsed() < Duration::from_secs(180) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                job = self.node.look(&id).await;
            }
            assert_eq!(job["state"], "completed", "{job}");
            assert_eq!(
                (
                    &job["attemptsMade"],
                    &job["attemptsStarted"],
                    &job["stalledCounter"]
                ),
                (&json!(1), &json!(2), &json!(1)),
                "{job}"
            );
        }
        eprintln!(
            "{who}: 20 jobs completed {:.1} s after the kill",
            since.elapsed().as_secs_f64()
        );
    }
}

#[tokio::test]
async fn ours_takes_over_from_ours() {
    let takeover = Takeover::set().await;
    takeover.ours_dies().await;
    let since = Instant::now();
    let second = takeover.ours().await;
    takeover.all_complete("ours from ours (3 s each)", since).await;
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await.0, Some(0));
}

#[tokio::test]
async fn node_takes_over_from_ours() {
    let takeover = Takeover::set().await;
    takeover.ours_dies().await;
    let since = Instant::now();
    // Its first deliveries are the second ones of these jobs: it does not hold them.
    takeover.node.ask("release", json!({})).await;
    takeover.node.ask("work", takeover.theirs()).await;
    takeover.all_complete("Node from ours", since).await;
}

#[tokio::test]
async fn ours_takes_over_from_node() {
    let takeover = Takeover::set().await;
    let first = Node::start(&takeover.scene.redis, "ai-jobs").await;
    first.ask("work", takeover.theirs()).await;
    eventually("all are held", async || {
        (started(&first).await.len() == 20).then_some(())
    })
    .await;
    let second = takeover.ours().await;
    first.kill().await;
    let since = Instant::now();
    takeover.all_complete("ours from Node (3 s each)", since).await;
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await.0, Some(0));
}
