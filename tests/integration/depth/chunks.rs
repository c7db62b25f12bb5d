//! No operation runs many commands in one script, however many jobs it is asked to move.

use std::time::Duration;

use backend_worker::queue::{JobState, Layout, ListQuery, NewJob, RetryOrder};
use jobs::JobType;
use rstest::rstest;

use super::{FIRST, bounded, claim};
use crate::support::{TestRedis, enqueue, raw};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn no_script_runs_many_commands(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let lease = Duration::from_secs(2);
    let (a, b) = (
        redis.broker(layout, "q", "a"),
        redis.broker_with(layout, "q", "b", lease),
    );
    a.renew(&[]).await.unwrap();
    let payload = raw("{}");
    for n in 0..1500 {
        let id = n.to_string();
        let job = NewJob {
            id: &id,
            kind: JobType::GenerateFlashcards,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::from_millis(u64::from(n % 2 == 0)),
        };
        a.enqueue(&job).await.unwrap();
    }
    let mut number = FIRST;
    let held = bounded(&redis, "claim", claim(&*a, &mut number, 1500)).await;
    bounded(&redis, "renew", a.renew(&held)).await.unwrap();
    bounded(&redis, "list", async {
        let query = ListQuery {
            state: JobState::Active,
            kind: Some("none"),
            since: None,
            after: None,
            limit: 50,
        };
        a.list(&query).await.unwrap();
    })
    .await;
    for lease in &held[..300] {
        a.fail(lease, "refused", None).await.unwrap();
    }
    let ids: Vec<&str> = held[..300].iter().map(|lease| &*lease.id).collect();
    let order = RetryOrder {
        id: "order",
        by: "test",
        reset_attempts: false,
    };
    bounded(&redis, "retry", a.retry(&ids, &order)).await.unwrap();
    bounded(&redis, "release", a.release(&held[300..900]))
        .await
        .unwrap();
    bounded(&redis, "leave", a.remove_replica()).await.unwrap();

    // What it has lost sight of goes back, after a moment.
    b.renew(&[]).await.unwrap();
    let mut number = FIRST;
    claim(&*b, &mut number, 600).await;
    for _ in 0..400 {
        bounded(&redis, "strays", b.renew(&[])).await.unwrap();
        if b.counts().await.unwrap().active == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("strays do not go back");
}

/// What a producer of BullMQ v6 has added during a pause is moved in chunks.
#[tokio::test]
async fn a_resume_moves_a_long_line_in_chunks() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "a");
    let fill = async |list: &str, from: u32| {
        let script = redis::Script::new("for i = 0, 2499 do redis.call('LPUSH', KEYS[1], ARGV[1] + i) end");
        let mut call = script.prepare_invoke();
        call.key(format!("bull:q:{list}")).arg(from);
        call.invoke_async::<()>(&mut redis.raw.clone()).await.unwrap();
    };
    fill("wait", 0).await;
    broker.set_paused(true).await.unwrap();
    fill("wait", 2500).await;
    bounded(&redis, "resume", async {
        broker.set_paused(false).await.unwrap()
    })
    .await;
    let line: Vec<u32> = redis.ask(&["LRANGE", "bull:q:wait", "0", "-1"]).await;
    assert!(line.iter().rev().copied().eq(0..5000), "in their order");
    assert_eq!(redis.ask::<u32>(&["EXISTS", "bull:q:paused"]).await, 0);
    // A pause that finds both lists.
    broker.set_paused(true).await.unwrap();
    fill("wait", 5000).await;
    bounded(&redis, "pause", async { broker.set_paused(true).await.unwrap() }).await;
    let line: Vec<u32> = redis.ask(&["LRANGE", "bull:q:paused", "0", "-1"]).await;
    assert!(line.iter().rev().copied().eq(0..7500), "in their order");
}

/// Ids that are in the line again although their jobs are done are dropped by the hundred.
#[tokio::test]
async fn doubles_are_dropped_in_chunks() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "a");
    broker.renew(&[]).await.unwrap();
    let script = redis::Script::new(
        "for i = 1, 5000 do redis.call('HSET', 'q:meta:' .. i, 'status', 'Done') redis.call('RPUSH', 'q:active', i) end",
    );
    script
        .prepare_invoke()
        .invoke_async::<()>(&mut redis.raw.clone())
        .await
        .unwrap();
    enqueue(&*broker, "last").await;
    let mut number = FIRST;
    let claimed = bounded(&redis, "claim", claim(&*broker, &mut number, 1)).await;
    assert_eq!(&*claimed[0].id, "last");
}
