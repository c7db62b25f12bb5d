//! What is broken, foreign or in the way.

use super::*;

#[tokio::test]
async fn bad_jobs_fail_alone_and_keep_their_ids() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    let put = async |id: &str, fields: &[&str]| {
        redis
            .ask::<()>(&[&["HSET", &format!("bull:q:{id}")], fields].concat())
            .await;
        redis.ask::<()>(&["LPUSH", "bull:q:wait", id]).await;
    };
    redis.ask::<()>(&["LPUSH", "bull:q:wait", "ghost"]).await;
    redis.ask::<()>(&["SET", "bull:q:string", "not a job"]).await;
    redis.ask::<()>(&["LPUSH", "bull:q:wait", "string", "0:7"]).await;
    put("007", &["name", "x", "data", "\"bond\"", "opts", "{"]).await;
    put(
        "odd",
        &[
            "name", "x", "data", "2", "opts", "[1,", "ats", "many", "atm", "-3", "stc", "{}", "priority",
            "high",
        ],
    )
    .await;
    put(
        "nulls",
        &[
            "name",
            "x",
            "data",
            "3",
            "opts",
            r#"{"removeOnComplete":null,"repeat":null,"kl":null,"attempts":1e400}"#,
        ],
    )
    .await;
    let mut not_utf8 = redis::cmd("EVAL");
    not_utf8
        .arg("redis.call('HSET', 'bull:q:' .. ARGV[1], 'name', 'x', 'data', '1') redis.call('LPUSH', 'bull:q:wait', ARGV[1])")
        .arg(0)
        .arg(b"\xff\xfe");
    not_utf8.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    enqueue(&*broker, "good").await;

    let running = replica(broker.clone(), 4, Script::echo(), &options());
    until_completed(&*broker, 4).await;
    for (id, result) in [("007", json!("bond")), ("odd", json!(2)), ("nulls", json!(3))] {
        let job = view(&*broker, id).await;
        assert_eq!(
            (job.state, job.result, job.attempts_made),
            (JobState::Completed, Some(result), 1),
            "{id}"
        );
    }
    let counts = broker.counts().await.unwrap();
    assert_eq!((counts.active, counts.waiting, counts.failed), (0, 0, 1));
    assert!(broker.find("string").await.unwrap().is_none());
    assert!(broker.find("ghost").await.unwrap().is_none());
    let foreign: String = redis.ask(&["GET", "bull:q:string"]).await;
    assert_eq!(foreign, "not a job", "what is not ours is left alone");
    running.stop().await;
}

#[tokio::test]
async fn what_belongs_to_others_and_is_broken_keeps_no_job_from_ending() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    redis
        .ask::<()>(&["SET", "bull:q:parent:dependencies", "no set"])
        .await;
    redis.ask::<()>(&["SET", "bull:q:dn:d", "no hash"]).await;
    redis.ask::<()>(&["SET", "bull:q:repeat", "no zset"]).await;
    let parent = r#"{"id":"parent","queueKey":"bull:q"}"#;
    redis
        .ask::<()>(&[
            "HSET", "bull:q:1", "name", "x", "data", "1", "parent", parent, "deid", "d",
        ])
        .await;
    let mut bytes = redis::cmd("HSET");
    bytes.arg("bull:q:1").arg("parentKey").arg("bull:q:parent");
    bytes
        .arg("failedReason")
        .arg(b"\xff")
        .arg("progress")
        .arg(b"\xfe");
    bytes.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    let mut version = redis::cmd("HSET");
    version.arg("bull:q:meta").arg("version").arg(b"\xff");
    version.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    redis.ask::<()>(&["LPUSH", "bull:q:wait", "1"]).await;

    assert_eq!(view(&*broker, "1").await.error.as_deref(), Some("\u{fffd}"));
    let lease = broker.claim(FIRST, 1).await.unwrap().remove(0).lease;
    assert!(
        broker
            .renew(std::slice::from_ref(&lease))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(broker.complete(&lease, "1").await.unwrap(), WriteResult::Applied);
    assert_eq!(view(&*broker, "1").await.state, JobState::Completed);
}

#[tokio::test]
async fn an_id_that_names_a_key_of_the_queue_is_refused() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    for id in ["", "meta", "stalled", "a:lock", "1:2"] {
        let payload = raw("{}");
        let job = NewJob {
            id,
            kind: jobs::JobType::ProcessImage,
            payload: &payload,
            max_attempts: 1,
            delay: Duration::ZERO,
        };
        assert!(
            matches!(broker.enqueue(&job).await, Err(BrokerError::Id(_))),
            "{id:?}"
        );
    }
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
}
