//! The apalis-redis layout: what its producers push is consumed, and the faults of its own consumer are not ours.

use std::time::Duration;

use apalis::prelude::{TaskBuilder, TaskId, TaskSink, WaitForCompletion};
use apalis_redis::{Config, RedisStorage};
use backend_worker::queue::{Broker, ClaimNumber, JobState};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Script, TestRedis, enqueue, eventually, options, replica, until_completed, view};

fn storage(redis: &TestRedis, queue: &str) -> RedisStorage<Value> {
    RedisStorage::new(redis.raw.clone()).with_config(Config::default().queue(queue))
}

#[tokio::test]
async fn a_task_pushed_by_apalis_redis_is_consumed_and_its_result_read_back() {
    let redis = TestRedis::start().await;
    let running = replica(redis.apalis("q", "w"), 4, Script::echo(), &options());
    let mut storage = storage(&redis, "q");
    let payload = json!({"type": "process-image", "data": {"n": 1}});
    let id = TaskId::from_string("task-1");
    storage
        .push_task(TaskBuilder::new(payload.clone()).task_id(id.clone()).build())
        .await
        .unwrap();
    let result = eventually("apalis reads the result", async || {
        let results: Vec<apalis::prelude::TaskResult<Value>> =
            storage.clone().check_status([id.clone()]).await.unwrap();
        results.into_iter().next()
    })
    .await;
    assert_eq!(result.result.unwrap(), payload);
    assert_eq!(result.attempt, 1);
    running.stop().await;
}

#[tokio::test]
async fn ten_thousand_due_tasks_at_once_do_not_wedge_the_queue() {
    let redis = TestRedis::start().await;
    let script = "for i = 1, 10000 do redis.call('HSET', 'q:data', 'd' .. i, '1') \
        redis.call('HSET', 'q:meta:d' .. i, 'attempts', 0, 'max_attempts', 3, 'status', 'Pending') \
        redis.call('ZADD', 'q:scheduled', 1, 'd' .. i) end";
    redis.ask::<()>(&["EVAL", script, "0"]).await;
    let broker = redis.apalis("q", "w");
    let running = replica(broker.clone(), 100, Script::echo(), &options());
    until_completed(&*broker, 10_000).await;
    assert_eq!(running.stop().await.succeeded, 10_000);
}

#[tokio::test]
async fn a_hundred_thousand_queued_jobs_are_no_obstacle() {
    let redis = TestRedis::start().await;
    let script = "for i = 1, 1000 do local id = ARGV[1] .. '-' .. i redis.call('HSET', 'q:data', id, '1') \
        redis.call('HSET', 'q:meta:' .. id, 'attempts', 0, 'max_attempts', 3, 'status', 'Pending') \
        redis.call('RPUSH', 'q:active', id) end";
    for chunk in 0..100 {
        redis.ask::<()>(&["EVAL", script, "0", &chunk.to_string()]).await;
    }
    let broker = redis.apalis("q", "w");
    let running = replica(broker.clone(), 100, Script::echo(), &options());
    until_completed(&*broker, 3000).await;
    let tally = running.stop().await;
    let counts = broker.counts().await.unwrap();
    assert_eq!(
        counts.waiting,
        100_000 - tally.succeeded,
        "what was not run is where it was"
    );
    assert_eq!(counts.active, 0);
}

#[tokio::test]
async fn bad_tasks_fail_alone_and_keep_their_ids() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    let push = "redis.call('HSET', 'q:data', ARGV[1], ARGV[2]) redis.call('RPUSH', 'q:active', ARGV[1])";
    redis.ask::<()>(&["EVAL", push, "0", "007", "\"bond\""]).await; // no meta at all
    redis.ask::<()>(&["RPUSH", "q:active", "ghost"]).await; // no payload
    redis.ask::<()>(&["EVAL", push, "0", "odd-meta", "2"]).await;
    redis
        .ask::<()>(&[
            "HSET",
            "q:meta:odd-meta",
            "attempts",
            "many",
            "max_attempts",
            "-1",
            "status",
            "?",
        ])
        .await;
    redis.ask::<()>(&["EVAL", push, "0", "wrong-type", "3"]).await;
    redis.ask::<()>(&["SET", "q:meta:wrong-type", "a string"]).await;
    let mut not_utf8 = redis::cmd("RPUSH");
    not_utf8.arg("q:active").arg(b"\xff\xfe");
    not_utf8.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    enqueue(&*broker, "good").await;

    let running = replica(broker.clone(), 4, Script::echo(), &options());
    until_completed(&*broker, 5).await;
    for (id, result) in [
        ("007", json!("bond")),
        ("odd-meta", json!(2)),
        ("wrong-type", json!(3)),
    ] {
        let job = view(&*broker, id).await;
        assert_eq!(
            (job.state, job.result),
            (JobState::Completed, Some(result)),
            "{id}"
        );
    }
    assert_eq!(view(&*broker, "good").await.state, JobState::Completed);
    let aside: String = redis.ask(&["GET", "q:meta:wrong-type:corrupt"]).await;
    assert_eq!(aside, "a string", "what is not ours is put aside, not lost");
    assert!(
        redis
            .ask::<bool>(&[
                "EVAL",
                "return redis.call('SISMEMBER', 'q:dead', '\\255\\254')",
                "0"
            ])
            .await
    );
    running.stop().await;
}

#[tokio::test]
async fn a_doubled_id_runs_once() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    let gate = CancellationToken::new();
    let script = Script::behind(gate.clone());
    enqueue(&*broker, "1").await;
    redis.ask::<()>(&["RPUSH", "q:active", "1"]).await;
    let running = replica(broker.clone(), 4, script.clone(), &options());
    script.calls.until_started(1).await;
    gate.cancel();
    until_completed(&*broker, 1).await;
    redis.ask::<()>(&["RPUSH", "q:active", "1"]).await; // after its completion, too
    enqueue(&*broker, "2").await;
    until_completed(&*broker, 2).await;
    assert_eq!(script.calls.started(), ["1", "2"]);
    running.stop().await;
}

#[tokio::test]
async fn an_idle_queue_costs_next_to_nothing() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    let running = replica(broker.clone(), 4, Script::echo(), &options());
    enqueue(&*broker, "1").await;
    until_completed(&*broker, 1).await;
    redis.is_left_in_peace().await;
    running.stop().await;
}

#[tokio::test]
async fn completed_jobs_are_forgotten_beyond_the_retention() {
    use backend_worker::queue::{BrokerOptions, apalis::ApalisBroker};
    let redis = TestRedis::start().await;
    let options = BrokerOptions {
        keep_completed_count: 3,
        ..BrokerOptions::default()
    };
    let broker: &dyn Broker = &ApalisBroker::new(redis.connection(), "q", "w", options);
    broker.renew(&[]).await.unwrap();
    let mut number = ClaimNumber::FIRST;
    for n in 0..10 {
        enqueue(broker, &n.to_string()).await;
        let claimed = broker.claim(number, 1).await.unwrap();
        number = number.next();
        broker.complete(&claimed[0].lease, "1").await.unwrap();
    }
    assert!(broker.counts().await.unwrap().completed <= 4);
    assert!(broker.find("0").await.unwrap().is_none());
    assert!(broker.find("9").await.unwrap().is_some());
    let keys: Vec<String> = redis.ask(&["KEYS", "q:meta:*"]).await;
    assert!(keys.len() <= 4, "{keys:?}");
}

/// A key of a wrong type ends a script before it has changed anything: the job is still there afterwards.
#[tokio::test]
async fn foreign_keys_in_the_way_cost_no_job() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    broker.renew(&[]).await.unwrap();
    for id in ["1", "2"] {
        enqueue(&*broker, id).await;
    }
    let claimed = broker.claim(ClaimNumber::FIRST, 1).await.unwrap();
    let lease = &claimed[0].lease;
    for key in ["q:ended:done", "q:ended:dead", "q:scheduled", "q:history:1"] {
        redis.ask::<()>(&["SET", key, "in the way"]).await;
    }
    let note = backend_worker::queue::HistoryNote {
        attempt: 1,
        r#try: 1,
        class: "transient".to_owned(),
        cause: "x".to_owned(),
        delay_ms: None,
        replica: "w".to_owned(),
    };
    let later = backend_worker::queue::Postponement {
        delay: Duration::ZERO,
        counts: true,
        reason: "x",
        gate: None,
        note: Some(&note),
    };
    assert!(broker.complete(lease, "1").await.unwrap_err().is_refusal());
    assert!(broker.fail(lease, "x", None).await.unwrap_err().is_refusal());
    assert!(broker.retry_at(lease, later).await.unwrap_err().is_refusal());
    assert!(
        broker
            .progress(lease, 50, Some(&note))
            .await
            .unwrap_err()
            .is_refusal()
    );
    assert!(
        broker
            .claim(ClaimNumber::FIRST.next(), 1)
            .await
            .unwrap_err()
            .is_refusal()
    );
    assert_eq!(
        redis.ask::<i64>(&["LLEN", "q:active"]).await,
        1,
        "the other job still waits"
    );
    redis
        .ask::<()>(&[
            "DEL",
            "q:ended:done",
            "q:ended:dead",
            "q:scheduled",
            "q:history:1",
        ])
        .await;
    // `done` as a sorted set is not in the way: some of apalis's own readers expect it so.
    redis.ask::<()>(&["ZADD", "q:done", "1", "older"]).await;
    assert_eq!(
        broker.complete(lease, "1").await.unwrap(),
        backend_worker::queue::WriteResult::Applied
    );
    assert_eq!(view(&*broker, "1").await.state, JobState::Completed);
    assert_eq!(broker.counts().await.unwrap().completed, 2);
    assert_eq!(broker.claim(ClaimNumber::FIRST.next(), 1).await.unwrap().len(), 1);
}
