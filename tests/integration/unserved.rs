//! Jobs that wait where no worker looks: `check` and one replica an hour name them.

use std::time::Duration;

use backend_worker::{
    config::QueueSpec,
    queue::Layout,
    unserved_queues::{UnservedJobs, UnservedQueueWatch},
};
use serde_json::Value;

use crate::support::{Scene, TestRedis, eventually};

fn watch(redis: &TestRedis, replica: &str) -> UnservedQueueWatch {
    let spec = |layout, name: &str| QueueSpec {
        layout,
        name: name.to_owned(),
        concurrency: 1,
    };
    let queues = [
        spec(Layout::Bullmq, "ai-jobs"),
        spec(Layout::Bullmq, "audio-jobs"),
        spec(Layout::Apalis, "vision-jobs"),
    ];
    UnservedQueueWatch::new(redis.connection(), &queues, replica)
}

async fn push(redis: &TestRedis, key: &str, jobs: usize) {
    for id in 0..jobs {
        redis.ask::<u64>(&["LPUSH", key, &id.to_string()]).await;
    }
}

/// The base of each queue, its jobs, and a part of the advice.
fn found(found: &UnservedJobs) -> Vec<(&str, u64, &str)> {
    let queues = found.queues.iter();
    queues
        .map(|queue| (&*queue.base, queue.jobs, &*queue.advice))
        .collect()
}

#[tokio::test]
async fn queues_without_a_worker_are_found_with_their_likely_fault() {
    let redis = TestRedis::start().await;
    push(&redis, "bull:ai-jobs:wait", 2).await;
    push(&redis, "vision-jobs:active", 2).await;
    redis.ask::<u64>(&["HSET", "vision-jobs:data", "1", "{}"]).await;
    // Found: typing errors, another prefix, the other layout, and a name like no other.
    push(&redis, "bull:ai-job:wait", 3).await;
    redis.ask::<u64>(&["ZADD", "bull:ai-job:delayed", "1", "9"]).await;
    redis
        .ask::<u64>(&["ZADD", "{myapp}:ai-jobs:prioritized", "1", "9"])
        .await;
    redis.ask::<u64>(&["ZADD", "ai-jobs:scheduled", "1", "9"]).await;
    redis.ask::<u64>(&["HSET", "ai-jobs:data", "9", "{}"]).await;
    push(&redis, "bull:email:paused", 1).await;
    // Not found: BullMQ's own worker, a worker of apalis-redis, a fleet of this worker, and what is no queue.
    push(&redis, "bull:mails:wait", 5).await;
    redis
        .ask::<String>(&["SET", "bull:mails:stalled-check", "1"])
        .await;
    push(&redis, "bull:reports:wait", 5).await;
    redis
        .ask::<String>(&["SET", "bull:reports:bw:witness", "1"])
        .await;
    push(&redis, "letters:active", 5).await;
    redis.ask::<u64>(&["HSET", "letters:data", "1", "{}"]).await;
    let now: (u64, u64) = redis.ask(&["TIME"]).await;
    redis
        .ask::<u64>(&["ZADD", "letters:workers", &now.0.to_string(), "w"])
        .await;
    push(&redis, "users:active", 5).await;
    redis.ask::<String>(&["SET", "shop:basket:wait", "text"]).await;
    redis.ask::<u64>(&["SADD", "shop:door:paused", "text"]).await;

    let seen = watch(&redis, "r").look(0).await.unwrap();
    assert!(seen.is_whole && seen.hidden == 0);
    let wanted = [
        ("ai-jobs", 1, "in the other layout alone: add apalis:ai-jobs"),
        (
            "bull:ai-job",
            4,
            "perhaps a misspelling of ai-jobs: correct the producer, or add bullmq:ai-job",
        ),
        ("bull:email", 1, "add bullmq:email to QUEUES"),
        (
            "{myapp}:ai-jobs",
            1,
            "uses the prefix {myapp}; this worker serves the prefix bull",
        ),
    ];
    let seen = found(&seen);
    assert_eq!(seen.len(), wanted.len(), "{seen:?}");
    for ((base, jobs, advice), (name, count, words)) in seen.into_iter().zip(wanted) {
        assert_eq!((base, jobs), (name, count));
        assert!(advice.contains(words), "{advice}");
    }
}

/// The walk is made in small steps, goes on where the last one ended, and looks into a bounded number of queues.
#[tokio::test]
async fn a_large_keyspace_is_walked_in_small_steps() {
    let redis = TestRedis::start().await;
    let fill = "for i = 1, 20000 do redis.call('HSET', 'bull:ai-jobs:' .. i, 'name', 'x') end \
                for i = 1, 300 do redis.call('LPUSH', 'bull:tenant-' .. i .. ':wait', 'x') end";
    redis.ask::<()>(&["EVAL", fill, "0"]).await;
    redis.ask::<String>(&["CONFIG", "RESETSTAT"]).await;
    let seen = watch(&redis, "r").look(0).await.unwrap();
    assert!(seen.is_whole);
    assert_eq!(seen.queues.len(), 100);
    let words = seen.in_words().unwrap();
    assert!(words.ends_with("and 90 more queue(s)"), "{words}");
    let stats: String = redis.ask(&["INFO", "commandstats"]).await;
    let scans = stats.split("cmdstat_scan:calls=").nth(1).unwrap();
    let scans: u64 = scans.split(',').next().unwrap().parse().unwrap();
    assert!(scans >= 20_300 / 1_000, "{scans} calls of SCAN for 20,300 keys");
}

#[tokio::test]
async fn one_replica_an_hour_looks() {
    let redis = TestRedis::start().await;
    push(&redis, "bull:ai-job:wait", 1).await;
    let (one, other) = (watch(&redis, "one"), watch(&redis, "other"));
    assert_eq!(one.look_for_fleet().await.unwrap().unwrap().queues.len(), 1);
    assert_eq!(one.look_for_fleet().await.unwrap(), None);
    assert_eq!(other.look_for_fleet().await.unwrap(), None);
    let left: u64 = redis.ask(&["PTTL", "fleet:unserved:look"]).await;
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    redis.ask::<u64>(&["DEL", "fleet:unserved:look"]).await;
    assert_eq!(other.look_for_fleet().await.unwrap().unwrap().queues.len(), 1);
}

/// A replica that dies during its walk, or that Redis refuses, does not take the hour from the others.
#[tokio::test]
async fn a_walk_that_failed_is_made_by_the_next_replica() {
    let redis = TestRedis::start().await;
    push(&redis, "bull:ai-job:wait", 1).await;
    let (one, other) = (watch(&redis, "one"), watch(&redis, "other"));
    let (scan, none) = (
        ["ACL", "SETUSER", "default", "+scan"],
        ["ACL", "SETUSER", "default", "-scan"],
    );
    redis.ask::<String>(&none).await;
    one.look_for_fleet().await.unwrap_err();
    redis.ask::<String>(&scan).await;
    let left: u64 = redis.ask(&["PTTL", "fleet:unserved:look"]).await;
    assert!(
        left <= 240_000,
        "the claim of a walk that failed expires in {left} ms"
    );
    // The time passes.
    redis.ask::<u64>(&["PEXPIRE", "fleet:unserved:look", "0"]).await;
    assert_eq!(other.look_for_fleet().await.unwrap().unwrap().queues.len(), 1);
}

#[tokio::test]
async fn check_and_the_log_name_them() {
    let scene = Scene::set(Duration::ZERO).await;
    let report = async || {
        let output = scene.command(&["check", "--json"]).output().await.unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = answer["findings"].as_array().unwrap().clone();
        findings
            .into_iter()
            .find(|finding| finding["check"] == "unserved queues")
            .unwrap()
    };
    assert_eq!(report().await["level"], "ok");
    push(&scene.redis, "bull:ai-jobz:wait", 7).await;
    push(&scene.redis, "bull:\u{1b}[2J:wait", 1).await;
    let finding = report().await;
    assert_eq!(finding["level"], "warning", "{finding}");
    let words = finding["found"].as_str().unwrap();
    assert!(
        words.contains("7 job(s) wait in bull:ai-jobz") && words.contains("misspelling of ai-jobs"),
        "{words}"
    );
    assert!(!words.contains('\u{1b}'), "{words}");

    let workers = [scene.worker(&[]).await, scene.worker(&[]).await];
    let warnings = || {
        let lines = workers.iter().flat_map(|worker| worker.log());
        lines
            .filter(|line| line.contains("7 job(s) wait in bull:ai-jobz"))
            .count()
    };
    eventually("one of them warns", async || (warnings() > 0).then_some(())).await;
    let looked: Option<String> = scene.redis.ask(&["GET", "fleet:unserved:look"]).await;
    assert!(
        workers.iter().any(|worker| looked.as_ref() == Some(&worker.name)),
        "{looked:?}"
    );
    assert_eq!(warnings(), 1, "one replica of the fleet warns");
}

/// A user of Redis that may not read foreign keys does not fail: it says so.
#[tokio::test]
async fn queues_that_may_not_be_looked_into_are_counted() {
    let scene = Scene::set(Duration::ZERO).await;
    push(&scene.redis, "bull:ai-jobz:wait", 1).await;
    let rule = [
        "ACL",
        "SETUSER",
        "narrow",
        "on",
        ">p",
        "~bull:ai-jobs:*",
        "~fleet:*",
        "+@all",
    ];
    scene.redis.ask::<String>(&rule).await;
    let url = format!("redis://narrow:p@127.0.0.1:{}", scene.redis.server.port());
    let mut check = scene.command(&["check"]);
    let output = check.env("REDIS_URL", url).output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        report.contains("1 may not be looked into by this ACL user"),
        "{report}"
    );
}
