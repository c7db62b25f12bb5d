//! Every operation of a broker on bad jobs, and on a queue whose own numbers are none.

use std::time::Duration;

use backend_worker::queue::{
    Broker, BrokerError, ClaimNumber, Delivery, HistoryNote, JobState, Layout, ListQuery, Postponement,
    RetryOrder, WriteResult,
};
use rstest::rstest;

use super::bad::{BAD, Events, Raw, bad_jobs, ended, put};
use crate::support::{TestRedis, enqueue};

/// No script trips over a job, whatever stands in it: it can be claimed, put off, ended, shown, retried and removed.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn every_operation_takes_any_job(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    broker.renew(&[]).await.unwrap();
    let (mut number, mut claimed) = (ClaimNumber::FIRST, 0);
    for (nth, job) in bad_jobs(layout).iter().enumerate() {
        put(&redis, layout, job).await;
        let jobs = taken(job, "claim", broker.claim(number, 2).await);
        number = number.next();
        taken(job, "find", broker.find(&job.id).await);
        let Some(delivery) = jobs.into_iter().next() else {
            // The claim dropped or refused the job, because no handler could run it.
            continue;
        };
        claimed += 1;
        run(&*broker, job, nth, delivery).await;
        // The events are what Node waits for.
        if layout == Layout::Bullmq && nth % 4 != 1 {
            let last: Events = redis
                .ask(&["XREVRANGE", "bull:q:events", "+", "-", "COUNT", "4"])
                .await;
            let event = if nth % 4 == 0 { "completed" } else { "failed" };
            assert!(
                ended(last).contains(&(job.id.clone(), event.to_owned())),
                "no event: {job}"
            );
        }
        look_and_remove(&*broker, job, nth).await;
    }
    assert!(claimed > BAD / 2, "{claimed} of {BAD} were run");
}

/// What an operation on a job returned, which may not be an error.
fn taken<T>(job: &Raw, operation: &str, result: Result<T, BrokerError>) -> T {
    result.unwrap_or_else(|error| panic!("{operation}: {error}: {job}"))
}

/// What a worker does with a job, to one end or another.
async fn run(broker: &dyn Broker, job: &Raw, nth: usize, delivery: Delivery) {
    let lease = delivery.lease;
    assert_eq!(*lease.id, job.id);
    assert!(delivery.attempt >= 1 && delivery.max_attempts >= 1, "{job}");
    let lost = broker.renew(std::slice::from_ref(&lease)).await.unwrap();
    assert!(lost.is_empty(), "{job}");
    let note = HistoryNote {
        attempt: 1,
        r#try: 1,
        class: "transient".to_owned(),
        cause: "stumbled".to_owned(),
        delay_ms: None,
        replica: "w".to_owned(),
    };
    let told = broker.progress(&lease, 15, Some(&note)).await;
    assert_eq!(taken(job, "progress", told), WriteResult::Applied);
    let later = Postponement {
        delay: Duration::ZERO,
        counts: nth.is_multiple_of(2),
        reason: "later",
        gate: nth.is_multiple_of(3).then_some("openai"),
        note: Some(&note),
    };
    let settled = match nth % 4 {
        0 => broker.complete(&lease, "{}").await,
        1 => broker.retry_at(&lease, later).await,
        _ => broker.fail(&lease, "it failed", Some(&note)).await,
    };
    assert_eq!(taken(job, "end", settled), WriteResult::Applied);
}

/// What onlookers and operators do with a job.
async fn look_and_remove(broker: &dyn Broker, job: &Raw, nth: usize) {
    taken(job, "find", broker.find(&job.id).await);
    let order = RetryOrder {
        id: "o",
        by: "me",
        reset_attempts: nth.is_multiple_of(2),
    };
    taken(job, "retry", broker.retry(&[&job.id], &order).await);
    for state in JobState::ALL {
        let query = ListQuery {
            state,
            kind: None,
            since: None,
            after: None,
            limit: 10,
        };
        taken(job, "list", broker.list(&query).await);
    }
    broker.counts().await.unwrap();
    taken(job, "oldest", broker.oldest_waiting().await);
    taken(job, "remove", broker.remove(&job.id).await);
}

/// Numbers of the queue that a foreign program has overwritten with text count as missing.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn numbers_that_are_none_stop_no_queue(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    broker.renew(&[]).await.unwrap();
    if layout == Layout::Apalis {
        // There a job's own numbers are all that counts: one that is none must not keep the others from coming back.
        for id in ["1", "2"] {
            enqueue(&*broker, id).await;
        }
        assert_eq!(broker.claim(ClaimNumber::FIRST, 2).await.unwrap().len(), 2);
        for (id, locked_at) in [("1", "text"), ("2", "1e999")] {
            redis
                .ask::<()>(&["HSET", &format!("q:meta:{id}"), "locked_at", locked_at])
                .await;
        }
        broker.renew(&[]).await.unwrap();
        return assert_eq!(broker.counts().await.unwrap().waiting, 2);
    }
    redis
        .ask::<()>(&["HSET", "bull:q:meta", "max", "5", "duration", "60000"])
        .await;
    for (nth, text) in ["text", "", "1e3", "9223372036854775807"].iter().enumerate() {
        redis.ask::<()>(&["SET", "bull:q:limiter", text]).await;
        redis.ask::<()>(&["SET", "bull:q:pc", text]).await;
        let id = nth.to_string();
        redis
            .ask::<()>(&[
                "HSET",
                &format!("bull:q:{id}"),
                "name",
                "x",
                "data",
                "1",
                "priority",
                "3",
            ])
            .await;
        redis.ask::<()>(&["ZADD", "bull:q:delayed", "1", &id]).await;
        let number = (0..nth).fold(ClaimNumber::FIRST, |number, _| number.next());
        let lease = broker.claim(number, 1).await.unwrap().remove(0).lease;
        let limiter: String = redis.ask(&["GET", "bull:q:limiter"]).await;
        assert_eq!(limiter, "1", "{text:?}: counted anew");
        assert_eq!(broker.complete(&lease, "1").await.unwrap(), WriteResult::Applied);
    }
    assert_eq!(broker.counts().await.unwrap().completed, 4);
}

/// A job of which an onlooker can read something, although bytes in it are no text.
#[tokio::test]
async fn a_meta_that_is_not_text_is_shown_all_the_same() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    let mut pipeline = redis::pipe();
    pipeline.hset("q:data", "1", "{}").ignore();
    for (field, value) in [
        ("status", "Failed".as_bytes()),
        ("error", b"bad \xff byte"),
        ("attempts", b"2"),
    ] {
        pipeline.hset("q:meta:1", field, value).ignore();
    }
    pipeline.hset("q:meta:1", b"\xfe", b"\xff").ignore();
    let note = r#"{"attempt":2,"try":1,"class":"permanent","cause":"x","replica":"w"}"#;
    pipeline
        .rpush(
            "q:history:1",
            [b"\xff".as_slice(), format!("7 {note}").as_bytes()].as_slice(),
        )
        .ignore();
    pipeline.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    let job = broker.find("1").await.unwrap().unwrap();
    assert_eq!((job.state, job.attempts_made), (JobState::Failed, 2));
    assert_eq!(job.error.as_deref(), Some("bad \u{fffd} byte"));
    assert_eq!(job.history.len(), 1);
}
