//! Results that are too large for a script: they end where small ones do, and no script gets them.

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{
    Answered, Broker, ClaimNumber, Completion, Delivery, EqualJobs, JobState, Layout, WriteResult,
};
use redis::Value as RedisValue;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{NodeScene, TestRedis, claim_one, enqueue, view};

/// A JSON text of about so many bytes.
fn large(bytes: usize) -> String {
    json!({"success": true, "text": "x".repeat(bytes)}).to_string()
}

async fn claimed(redis: &TestRedis, layout: Layout, worker: &str) -> (Arc<dyn Broker>, Delivery) {
    let broker = redis.broker(layout, "q", worker);
    broker.renew(&[]).await.unwrap();
    let (delivery, _) = claim_one(&*broker, ClaimNumber::FIRST).await;
    (broker, delivery)
}

/// Bytes of the longest argument that a script has had since the slow log was reset.
async fn longest_script_argument(redis: &TestRedis) -> usize {
    type Entry = (u64, u64, u64, Vec<Vec<u8>>, RedisValue, RedisValue);
    let entries: Vec<Entry> = redis.ask(&["SLOWLOG", "GET", "-1"]).await;
    let scripts = entries
        .iter()
        .filter(|entry| entry.3[0].eq_ignore_ascii_case(b"EVALSHA"));
    let lengths = scripts.flat_map(|entry| &entry.3).map(|argument| {
        let text = String::from_utf8_lossy(argument);
        // Redis cuts long ones.
        let cut = text
            .rsplit_once("... (")
            .and_then(|(_, rest)| rest.split(' ').next());
        argument.len() + cut.map_or(0, |more| more.parse().unwrap())
    });
    lengths.max().unwrap()
}

#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn a_large_result_is_written_without_passing_a_script(#[case] layout: Layout) {
    let redis =
        TestRedis::start_with(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000"]).await;
    for version in [Some(redis), TestRedis::start_6_2().await].into_iter().flatten() {
        let redis = version;
        enqueue(&*redis.broker(layout, "q", "p"), "a").await;
        let (broker, delivery) = claimed(&redis, layout, "w").await;
        redis
            .ask::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"])
            .await;
        redis
            .ask::<()>(&["CONFIG", "SET", "slowlog-max-len", "10000"])
            .await;
        redis.ask::<()>(&["SLOWLOG", "RESET"]).await;
        let result = large(32 << 20);
        for _ in 0..2 {
            // The second is a resend after a lost answer.
            let written = broker.complete(&delivery.lease, &result).await.unwrap();
            assert_eq!(written, WriteResult::Applied);
        }
        assert!(longest_script_argument(&redis).await < 100_000);
        let view = view(&*broker, "a").await;
        assert_eq!(view.state, JobState::Completed);
        assert_eq!(view.result.unwrap()["text"].as_str().unwrap().len(), 32 << 20);
        assert_eq!(broker.counts().await.unwrap().completed, 1);
    }
}

#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn large_and_small_results_of_one_call_keep_their_order(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    broker.renew(&[]).await.unwrap();
    for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        enqueue(&*broker, id).await;
    }
    let claimed = broker.claim(ClaimNumber::FIRST, 8).await.unwrap();
    let completion = |nth: usize, result: String| Completion {
        lease: claimed[nth].lease.clone(),
        result,
        equal: None,
    };
    let mut lost = completion(2, large(1 << 20));
    lost.lease.token = "someone:1".into();
    let completions = [
        completion(0, large(1 << 20)),
        completion(1, "1".to_owned()),
        lost,
        completion(3, "2".to_owned()),
        completion(4, large(1 << 20)),
        completion(5, large(2 << 20)),
        completion(6, large(1 << 20)),
        completion(7, large(3 << 20)),
    ];
    let settled = broker.complete_all(&completions, None).await.settled;
    let settled: Vec<WriteResult> = settled.into_iter().map(Result::unwrap).collect();
    let applied = WriteResult::Applied;
    let lost = WriteResult::Lost;
    assert_eq!(
        settled,
        [
            applied, applied, lost, applied, applied, applied, applied, applied
        ]
    );
    for (id, megabytes) in [("a", 1), ("e", 1), ("f", 2), ("g", 1), ("h", 3)] {
        let result = view(&*broker, id).await.result.unwrap();
        assert_eq!(result["text"].as_str().unwrap().len(), megabytes << 20, "{id}");
    }
    assert_eq!(view(&*broker, "b").await.result, Some(json!(1)));
    assert_eq!(view(&*broker, "c").await.result, None);
}

#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn equal_jobs_get_a_large_result(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    enqueue(&*redis.broker(layout, "q", "p"), "a").await;
    let (broker, delivery) = claimed(&redis, layout, "w").await;
    let equal = EqualJobs {
        result_key: "dedup:x:result".into(),
        prefix: "dedup:x".into(),
        keep_for: Duration::from_secs(60),
    };
    let completion = Completion {
        lease: delivery.lease,
        result: large(1 << 20),
        equal: Some((equal, Answered::New)),
    };
    let settled = broker.complete_all(&[completion], None).await.settled;
    assert!(matches!(settled[..], [Ok(WriteResult::Applied)]));
    let entry: String = redis.ask(&["GET", "dedup:x:result"]).await;
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(entry["jobId"], "a");
    assert_eq!(entry["result"]["text"].as_str().unwrap().len(), 1 << 20);
    assert!(entry["cachedAt"].is_u64());
    let left: i64 = redis.ask(&["PTTL", "dedup:x:result"]).await;
    assert!((1..=60_000).contains(&left), "{left}");
}

/// What an earlier claim has put there is not the result of a later one.
#[rstest]
#[case::fails(false)]
#[case::ends_well(true)]
#[tokio::test]
async fn a_result_that_was_placed_and_lost_is_no_result(#[case] ends_well: bool) {
    let redis = TestRedis::start().await;
    enqueue(&*redis.broker(Layout::Bullmq, "q", "p"), "a").await;
    let (broker, first) = claimed(&redis, Layout::Bullmq, "w").await;
    let token = &*first.lease.token;
    redis
        .ask::<u8>(&["HSET", "bull:q:a", "returnvalue", "1", "bw:placed", token])
        .await;
    broker.release(&[first.lease]).await.unwrap();
    let (second, _) = claim_one(&*broker, ClaimNumber::FIRST.next()).await;
    if ends_well {
        broker.complete(&second.lease, "2").await.unwrap();
    } else {
        broker.fail(&second.lease, "no such voice", None).await.unwrap();
    }
    let fields: Vec<Option<String>> = redis
        .ask(&["HMGET", "bull:q:a", "returnvalue", "bw:placed"])
        .await;
    assert_eq!(fields, [ends_well.then(|| "2".to_owned()), None]);
}

/// A user without the right to transactions: as before, the result passes the script.
#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn without_transactions_a_large_result_is_written_all_the_same(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    enqueue(&*redis.broker(layout, "q", "p"), "a").await;
    redis
        .ask::<()>(&["ACL", "SETUSER", "default", "-watch", "-multi", "-exec"])
        .await;
    let (broker, delivery) = claimed(&redis, layout, "w").await;
    let written = broker.complete(&delivery.lease, &large(1 << 20)).await.unwrap();
    assert_eq!(written, WriteResult::Applied);
    assert_eq!(view(&*broker, "a").await.state, JobState::Completed);
}

#[tokio::test]
async fn node_reads_a_large_result_and_its_events() {
    let scene = NodeScene::set().await;
    let parent = json!({"name": "process-image", "queueName": "q", "data": {}, "opts": {"jobId": "parent"},
        "children": [{"name": "process-image", "queueName": "q", "data": {}, "opts": {
            "jobId": "child", "idempotencyKey": "idempotency:k"}}]});
    scene.node.ask("flow", parent).await;
    let (child, next) = claim_one(&*scene.broker, ClaimNumber::FIRST).await;
    scene
        .broker
        .complete(&child.lease, &large(1 << 20))
        .await
        .unwrap();
    let (parent, next) = claim_one(&*scene.broker, next).await;
    let children = scene.node.ask("children", json!({"id": "parent"})).await;
    let length = |value: &Value| value["text"].as_str().unwrap().len();
    assert_eq!(length(&children["bull:q:child"]), 1 << 20);
    scene.broker.complete(&parent.lease, "1").await.unwrap();
    let job = scene.node.until("child", "completed").await;
    assert_eq!(
        (length(&job["returnvalue"]), &job["progress"]),
        (1 << 20, &json!(100))
    );
    let all = scene.node.ask("events", json!({})).await;
    let completed = all.as_array().unwrap().iter();
    let mut completed = completed.filter(|e| e["event"] == "completed" && e["jobId"] == "child");
    assert_eq!(length(&completed.next().unwrap()["returnvalue"]), 1 << 20);
    assert!(completed.next().is_none());
    let entry: String = scene.redis.ask(&["GET", "idempotency:k"]).await;
    assert_eq!(
        length(&serde_json::from_str::<Value>(&entry).unwrap()["result"]),
        1 << 20
    );

    scene.node.add("gone", json!({"removeOnComplete": true})).await;
    let (gone, _) = claim_one(&*scene.broker, next).await;
    scene.broker.complete(&gone.lease, &large(1 << 20)).await.unwrap();
    scene
        .node
        .expect_events("gone", &["added", "waiting", "active", "completed"])
        .await;
    assert_eq!(scene.node.look("gone").await, Value::Null);
}
