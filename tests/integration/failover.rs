//! A replica is promoted, and the address of Redis leads to it: jobs in flight go on, none is lost, none is paid twice.

use std::time::Duration;

use backend_worker::{queue::Layout, simulator::Provider};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{Node, Proxy, Scene, TestRedis, Worker, eventually};

/// Jobs of each layout.
const JOBS: usize = 60;

/// A primary with its replica, an address that follows the primary, and jobs in flight there.
struct Pair {
    scene: Scene,
    second: TestRedis,
    address: Proxy,
    worker: Worker,
}

impl Pair {
    async fn set() -> Self {
        let first = TestRedis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = first.server.port().to_string();
        let second = TestRedis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        // A replica whose link is up may still be sent nothing, until its first acknowledgement.
        first.ask::<()>(&["SET", "first", "write"]).await;
        eventually("the replica follows", async || {
            (first.ask::<u32>(&["WAIT", "1", "100"]).await == 1).then_some(())
        })
        .await;
        let address = Proxy::before(first.server.port()).await;
        let scene = Scene::over(first, Duration::from_millis(100), 0).await;

        let node = Node::start(&scene.redis, "ai-jobs").await;
        let jobs: Vec<Value> = (0..JOBS).map(|n| job(&format!("job-bullmq-{n}"))).collect();
        node.ask("addBulk", json!({"jobs": jobs})).await;
        for n in 0..JOBS {
            let id = format!("job-apalis-{n}");
            let data = job(&id)["data"].to_string();
            scene
                .enqueue(&["generate-flashcards", "--data", &data, "--id", &id])
                .await;
        }
        let worker = scene
            .worker(&[("REDIS_URL", &address.url()), ("CONCURRENCY", "5")])
            .await;
        scene
            .simulator
            .journal()
            .wait_until(|journal| journal.counts(Provider::OpenAi).requests >= 20)
            .await;
        Self {
            scene,
            second,
            address,
            worker,
        }
    }

    /// Every job is completed on the new primary; what the worker logged.
    async fn ends_well(self) -> (Scene, Vec<String>) {
        for layout in Layout::ALL {
            let broker = self.second.broker(layout, "ai-jobs", "onlooker");
            eventually(&format!("all are completed, {layout}"), async || {
                (broker.counts().await.ok()?.completed == JOBS as u64).then_some(())
            })
            .await;
        }
        self.worker.signal(Signal::SIGTERM);
        let (code, log) = self.worker.ended().await;
        assert_eq!(code, Some(0));
        (self.scene, log)
    }
}

fn job(id: &str) -> Value {
    let data = json!({"content": format!("cells, {id}"), "subject": "s", "topic": "t", "userId": "u"});
    json!({"name": "generate-flashcards", "data": data, "opts": {"jobId": id, "attempts": 3}})
}

/// The old primary stays, connected and willing to read: only its refusals say that it is none any more.
#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left_for_the_new_one() {
    let pair = Pair::set().await;
    let port = pair.second.server.port();
    // Writes wait until the replica has them all: nothing is lost in this kind of fail-over.
    pair.scene
        .redis
        .ask::<String>(&["FAILOVER", "TO", "127.0.0.1", &port.to_string()])
        .await;
    eventually("the replica is the primary", async || {
        let role: Vec<redis::Value> = pair.second.ask(&["ROLE"]).await;
        (role[0] == redis::Value::BulkString(b"master".to_vec())).then_some(())
    })
    .await;
    pair.address.lead_to(port);
    let (scene, log) = pair.ends_well().await;
    assert!(log.iter().any(|line| line.contains("has become a replica")));
    let calls = scene.simulator.journal().of(Provider::OpenAi).len();
    assert_eq!(calls, 2 * JOBS, "each job was paid for once");
}

/// The old primary dies, and every connection with it; the replica may lack its last writes.
#[tokio::test]
async fn a_primary_that_dies_is_followed_by_its_replica() {
    let pair = Pair::set().await;
    let pid = Pid::from_raw(pair.scene.redis.server.pid().unwrap().cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    pair.second.ask::<String>(&["REPLICAOF", "NO", "ONE"]).await;
    pair.address.lead_to(pair.second.server.port());
    pair.ends_well().await;
}
