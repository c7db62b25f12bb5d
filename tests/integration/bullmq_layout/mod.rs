//! The BullMQ layout where it is not as its producers should have left it, and where Redis has been away.

mod beside;
mod bounds;
mod broken;

use std::time::Duration;

use backend_worker::queue::{BrokerError, ClaimNumber, JobState, NewJob, Postponement, WriteResult};
use serde_json::json;

use crate::support::{Script, TestRedis, enqueue, eventually, options, raw, replica, until_completed, view};

const FIRST: ClaimNumber = ClaimNumber::FIRST;

#[tokio::test]
async fn locks_that_ran_out_while_redis_was_away_are_set_again() {
    let redis = TestRedis::start().await;
    let layout = backend_worker::queue::Layout::Bullmq;
    // Both have lived through it: neither has renewed since long before.
    let (mine, other) = (
        redis.broker_with(layout, "q", "mine", Duration::from_millis(200)),
        redis.broker_with(layout, "q", "other", Duration::from_millis(200)),
    );
    enqueue(&*mine, "1").await;
    mine.renew(&[]).await.unwrap();
    other.renew(&[]).await.unwrap();
    let lease = mine.claim(FIRST, 1).await.unwrap().remove(0).lease;
    eventually("the lock ran out", async || {
        let locked: bool = redis.ask(&["EXISTS", "bull:q:1:lock"]).await;
        (!locked && matches!(other.claim(FIRST, 0).await, Err(BrokerError::Unleased))).then_some(())
    })
    .await;
    other.renew(&[]).await.unwrap();
    assert_eq!(other.recover().await.unwrap().requeued, 0, "its owner gets time");
    assert!(mine.renew(std::slice::from_ref(&lease)).await.unwrap().is_empty());
    let locked: bool = redis.ask(&["EXISTS", "bull:q:1:lock"]).await;
    assert!(locked, "nobody has touched the job since");
    assert_eq!(mine.complete(&lease, "1").await.unwrap(), WriteResult::Applied);
}

#[tokio::test]
async fn a_claim_that_another_worker_has_followed_is_lost() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    enqueue(&*broker, "1").await;
    broker.renew(&[]).await.unwrap();
    let lease = broker.claim(FIRST, 1).await.unwrap().remove(0).lease;
    // Simulates a BullMQ worker that claimed the job in between and lost its lock: the job is still in `active`.
    redis.ask::<()>(&["HINCRBY", "bull:q:1", "ats", "1"]).await;
    redis.ask::<()>(&["DEL", "bull:q:1:lock"]).await;
    assert_eq!(
        broker.renew(std::slice::from_ref(&lease)).await.unwrap(),
        std::slice::from_ref(&lease)
    );
    assert_eq!(broker.complete(&lease, "1").await.unwrap(), WriteResult::Lost);
    assert!(
        broker.claim(FIRST, 1).await.unwrap().is_empty(),
        "nor is it adopted"
    );
}

#[tokio::test]
async fn an_outcome_that_removed_its_job_may_be_sent_again() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    redis
        .ask::<()>(&[
            "HSET",
            "bull:q:1",
            "name",
            "x",
            "data",
            "1",
            "opts",
            r#"{"removeOnComplete":true}"#,
        ])
        .await;
    redis.ask::<()>(&["LPUSH", "bull:q:wait", "1"]).await;
    broker.renew(&[]).await.unwrap();
    let lease = broker.claim(FIRST, 1).await.unwrap().remove(0).lease;
    for _ in 0..2 {
        assert_eq!(broker.complete(&lease, "1").await.unwrap(), WriteResult::Applied);
    }
    let keys: Vec<String> = redis.ask(&["KEYS", "bull:q:1*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn a_resume_keeps_what_was_added_behind_the_pauses_back() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    for id in ["1", "2"] {
        enqueue(&*broker, id).await;
    }
    broker.set_paused(true).await.unwrap();
    enqueue(&*broker, "3").await;
    // As a producer of v6 does it, which knows one list only.
    redis
        .ask::<()>(&["HSET", "bull:q:4", "name", "x", "data", "4"])
        .await;
    redis.ask::<()>(&["LPUSH", "bull:q:wait", "4"]).await;
    broker.set_paused(false).await.unwrap();
    let claimed = broker.claim(FIRST, 9).await.unwrap();
    let order: Vec<_> = claimed.iter().map(|d| d.lease.id.as_ref()).collect();
    assert_eq!(order, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn ten_thousand_due_jobs_at_once_do_not_wedge_the_queue() {
    let redis = TestRedis::start().await;
    let script = "for i = 1, 10000 do redis.call('HSET', 'bull:q:d' .. i, 'name', 'x', 'data', '1') \
        redis.call('ZADD', 'bull:q:delayed', i, 'd' .. i) end";
    redis.ask::<()>(&["EVAL", script, "0"]).await;
    let broker = redis.bullmq("q", "w");
    let running = replica(broker.clone(), 100, Script::echo(), &options());
    until_completed(&*broker, 10_000).await;
    assert_eq!(running.stop().await.succeeded, 10_000);
}

#[tokio::test]
async fn an_idle_queue_costs_next_to_nothing() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    let running = replica(broker.clone(), 4, Script::echo(), &options());
    enqueue(&*broker, "1").await;
    until_completed(&*broker, 1).await;
    eventually("the worker waits", async || {
        let clients: String = redis.ask(&["CLIENT", "LIST"]).await;
        clients.contains("cmd=bzpopmin").then_some(())
    })
    .await;
    redis.is_left_in_peace().await;
    running.stop().await;
}

#[tokio::test]
async fn a_wait_that_is_given_up_eats_no_marker() {
    let redis = TestRedis::start().await;
    let (a, b) = (redis.bullmq("q", "a"), redis.bullmq("q", "b"));
    let listeners = async || {
        let clients: String = redis.ask(&["CLIENT", "LIST"]).await;
        clients.lines().filter(|c| c.contains("cmd=bzpopmin")).count()
    };
    let given_up = tokio::spawn(async move { a.wait(Duration::from_secs(3600)).await });
    eventually("the waiter listens", async || {
        (listeners().await == 1).then_some(())
    })
    .await;
    given_up.abort();
    eventually("its call is off", async || (listeners().await == 0).then_some(())).await;
    enqueue(&*b, "1").await;
    let marker: u64 = redis.ask(&["ZCARD", "bull:q:marker"]).await;
    assert_eq!(marker, 1);
}

#[tokio::test]
async fn an_absurd_delay_is_cut_and_the_job_still_there() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    enqueue(&*broker, "1").await;
    let lease = broker.claim(FIRST, 1).await.unwrap().remove(0).lease;
    let later = Postponement {
        delay: Duration::MAX,
        counts: false,
        reason: "for ever",
        gate: Some("openai"),
        note: None,
    };
    assert_eq!(
        broker.retry_at(&lease, later).await.unwrap(),
        WriteResult::Applied
    );
    let score: f64 = redis.ask(&["ZSCORE", "bull:q:delayed", "1"]).await;
    assert!(score < 2f64.powi(53), "{score}: the score is exact");
    let job = view(&*broker, "1").await;
    assert_eq!(job.error.as_deref(), Some("for ever"));
    assert_eq!(job.waiting_for.unwrap().gate.as_deref(), Some("openai"));
}

/// A key of a wrong type ends a script before it has changed anything: the job is still there afterwards.
#[tokio::test]
async fn foreign_keys_in_the_way_cost_no_job() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    for id in ["1", "2"] {
        enqueue(&*broker, id).await;
    }
    let claimed = broker.claim(FIRST, 1).await.unwrap();
    let lease = &claimed[0].lease;
    let note = backend_worker::queue::HistoryNote {
        attempt: 1,
        r#try: 1,
        class: "transient".to_owned(),
        cause: "x".to_owned(),
        delay_ms: None,
        replica: "w".to_owned(),
    };
    let later = || Postponement {
        delay: Duration::ZERO,
        counts: true,
        reason: "x",
        gate: None,
        note: Some(&note),
    };
    let dump = async || {
        let mut all = Vec::new();
        let mut keys: Vec<String> = redis.ask(&["KEYS", "bull:q:*"]).await;
        keys.sort();
        for key in keys {
            // Redis does not define the order of a hash's fields.
            let kind: String = redis.ask(&["TYPE", &key]).await;
            let value = if kind == "hash" {
                let fields: std::collections::BTreeMap<String, String> = redis.ask(&["HGETALL", &key]).await;
                format!("{fields:?}")
            } else {
                format!("{:?}", redis.ask::<redis::Value>(&["DUMP", &key]).await)
            };
            all.push((key, value));
        }
        all
    };
    // Each key alone, so that none hides behind another.
    const WRITTEN_AT_THE_END: [&str; 4] = ["events", "meta", "stalled", "active"];
    const WHERE_JOBS_WAIT: [&str; 5] = ["delayed", "prioritized", "marker", "paused", "wait"];
    for name in WRITTEN_AT_THE_END.into_iter().chain(WHERE_JOBS_WAIT) {
        let key = format!("bull:q:{name}");
        let aside = format!("aside:{key}");
        let there: bool = redis.ask(&["EXISTS", &key]).await;
        if there {
            redis.ask::<()>(&["RENAME", &key, &aside]).await;
        }
        redis.ask::<()>(&["SET", &key, "in the way"]).await;
        let before = dump().await;
        if WRITTEN_AT_THE_END.contains(&name) {
            assert!(
                broker.complete(lease, "1").await.unwrap_err().is_refusal(),
                "{key}"
            );
        }
        assert!(
            broker.fail(lease, "x", None).await.unwrap_err().is_refusal(),
            "{key}"
        );
        assert!(
            broker.retry_at(lease, later()).await.unwrap_err().is_refusal(),
            "{key}"
        );
        assert!(
            broker
                .release(std::slice::from_ref(lease))
                .await
                .unwrap_err()
                .is_refusal(),
            "{key}"
        );
        assert!(
            broker.claim(FIRST.next(), 1).await.unwrap_err().is_refusal(),
            "{key}"
        );
        assert_eq!(dump().await, before, "{key}: nothing was written");
        redis.ask::<()>(&["DEL", &key]).await;
        if there {
            redis.ask::<()>(&["RENAME", &aside, &key]).await;
        }
    }
    for key in ["bull:q:completed", "bull:q:failed", "bull:q:1:logs"] {
        redis.ask::<()>(&["SET", key, "in the way"]).await;
    }
    let before = dump().await;
    assert!(broker.complete(lease, "1").await.unwrap_err().is_refusal());
    assert!(broker.fail(lease, "x", None).await.unwrap_err().is_refusal());
    assert!(broker.retry_at(lease, later()).await.unwrap_err().is_refusal());
    assert!(
        broker
            .progress(lease, 50, Some(&note))
            .await
            .unwrap_err()
            .is_refusal()
    );
    assert_eq!(dump().await, before, "nothing was written");
    redis
        .ask::<()>(&["DEL", "bull:q:completed", "bull:q:failed", "bull:q:1:logs"])
        .await;
    // A job that ends needs none of the places where others wait.
    for name in WHERE_JOBS_WAIT {
        let (key, aside) = (format!("bull:q:{name}"), format!("aside:{name}"));
        if redis.ask(&["EXISTS", &key]).await {
            redis.ask::<()>(&["RENAME", &key, &aside]).await;
        }
        redis.ask::<()>(&["SET", &key, "in the way"]).await;
    }
    assert_eq!(broker.complete(lease, "1").await.unwrap(), WriteResult::Applied);
    for name in WHERE_JOBS_WAIT {
        let (key, aside) = (format!("bull:q:{name}"), format!("aside:{name}"));
        redis.ask::<()>(&["DEL", &key]).await;
        if redis.ask(&["EXISTS", &aside]).await {
            redis.ask::<()>(&["RENAME", &aside, &key]).await;
        }
    }
    assert_eq!(view(&*broker, "1").await.state, JobState::Completed);
    assert_eq!(broker.claim(FIRST.next(), 1).await.unwrap().len(), 1);
}
