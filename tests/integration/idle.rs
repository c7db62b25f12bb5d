//! Queues without work: what a replica may leave alone, and that nothing is forgotten there.

use std::time::Duration;

use backend_worker::{
    queue::{ClaimNumber, Layout},
    worker::RuntimeOptions,
};
use jobs::JobType;
use rstest::rstest;
use serde_json::json;

use crate::support::{
    Scene, Script, TestRedis, add, claim_one, enqueue, eventually, options, replica, until_completed,
};

/// A queue that is left alone for a while still gives its next job, and the one after.
#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn a_queue_that_rests_is_looked_at_again(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let resting = RuntimeOptions {
        idle_rest: Duration::from_millis(300),
        ..options()
    };
    let script = Script::echo();
    let running = replica(broker.clone(), 2, script.clone(), &resting);
    for n in 0..4 {
        enqueue(&*broker, &n.to_string()).await;
        until_completed(&*broker, n + 1).await;
    }
    assert_eq!(running.stop().await.succeeded, 4);
}

/// While it rests, it asks for nothing: the socket that would wait is there, and does not.
#[tokio::test]
async fn a_resting_replica_waits_for_nothing() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    let resting = RuntimeOptions {
        idle_rest: Duration::from_secs(3600),
        ..options()
    };
    let running = replica(broker.clone(), 2, Script::echo(), &resting);
    eventually("the socket is named", async || {
        let clients: String = redis.ask(&["CLIENT", "LIST"]).await;
        clients.contains("name=bull:cQ==:w:w").then_some(())
    })
    .await;
    let clients: String = redis.ask(&["CLIENT", "LIST"]).await;
    assert!(!clients.contains("cmd=bzpopmin"), "{clients}");
    running.stop().await;
}

/// The jobs of a dead replica come back to one that had nothing to do.
#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn an_idle_replica_finds_the_jobs_of_a_dead_one(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let lease = Duration::from_secs(2);
    let dead = redis.broker_with(layout, "q", "dead", lease);
    dead.renew(&[]).await.unwrap();
    enqueue(&*dead, "a").await;
    claim_one(&*dead, ClaimNumber::FIRST).await;
    let idle = redis.broker_with(layout, "q", "idle", lease);
    let quick = RuntimeOptions {
        renew_every: lease / 3,
        ..options()
    };
    let running = replica(idle.clone(), 2, Script::echo(), &quick);
    until_completed(&*idle, 1).await;
    assert_eq!(running.stop().await.succeeded, 1);
}

/// A replica that rests still renews often enough that the fleet's leases count as continuous: otherwise a sweep would
/// take the gap for an outage of Redis, and wait for a lease more.
#[tokio::test]
async fn a_resting_replica_keeps_its_leases_continuous() {
    let redis = TestRedis::start().await;
    let lease = Duration::from_secs(3);
    let broker = redis.broker_with(Layout::Bullmq, "q", "w", lease);
    let resting = RuntimeOptions {
        idle_rest: Duration::from_secs(3600),
        renew_every: lease / 3,
        ..options()
    };
    let running = replica(broker, 2, Script::echo(), &resting);
    eventually("renewals have been continuous for two leases", async || {
        let since: Option<String> = redis.ask(&["GET", "bull:q:bw:witness"]).await;
        let (seconds, _): (u64, u64) = redis.ask(&["TIME"]).await;
        let since: u64 = since?.parse().unwrap();
        (seconds * 1_000 >= since + 6_000).then_some(())
    })
    .await;
    running.stop().await;
}

/// The queues of a replica share the socket on which Redis announces changed keys, and replace it together.
#[tokio::test]
async fn queues_share_the_socket_that_announces_their_jobs() {
    const QUEUES: [&str; 3] = ["ai-jobs", "audio-jobs", "vision-jobs"];
    let scene = Scene::set(Duration::ZERO).await;
    let _worker = scene.worker(&[]).await;
    let brokers = QUEUES.map(|queue| scene.redis.broker(Layout::Apalis, queue, "onlooker"));
    let tracking = async || {
        eventually("one socket tracks the keys of all queues", async || {
            let clients: String = scene.redis.ask(&["CLIENT", "LIST"]).await;
            let flags = |line: &str| {
                line.split(' ')
                    .any(|word| word.starts_with("flags=") && word.contains('t'))
            };
            let found: Vec<String> = clients
                .lines()
                .filter(|line| flags(line))
                .map(str::to_owned)
                .collect();
            (found.len() == 1).then(|| found[0].clone())
        })
        .await
    };
    let mut last = None;
    for round in 1..=3 {
        for broker in &brokers {
            let payload =
                json!({"content": format!("job {round}"), "subject": "s", "topic": "t", "userId": "u"});
            add(
                &**broker,
                &round.to_string(),
                JobType::GenerateFlashcards,
                &payload.to_string(),
                3,
            )
            .await;
            until_completed(&**broker, round).await;
        }
        let socket = tracking().await;
        let id = socket
            .split_once("id=")
            .unwrap()
            .1
            .split(' ')
            .next()
            .unwrap()
            .to_owned();
        let killed: u64 = scene.redis.ask(&["CLIENT", "KILL", "ID", &id]).await;
        assert_eq!(killed, 1);
        assert_ne!(
            last.replace(id.clone()),
            Some(id),
            "a socket that was closed is replaced"
        );
    }
}
