//! Queues that are not as this worker leaves them: ids without jobs, foreign keys, a stock worker's dead letters.

use backend_worker::queue::{JobState, Layout, RemovalResult, RetryResult};
use rstest::rstest;

use super::{FIRST, Fixture, bury, dead_key, failed, ids, keys, numbers, order};
use crate::support::view;

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn ids_without_jobs_are_listed_and_removed(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    bury(&f, "1", FIRST).await;
    // With colons, and named like keys of the queue or of another job.
    let strange = ["gone", "a:b:c", "1:logs", "meta", "events", "", "\u{1b}[2J"];
    for id in strange {
        f.redis.ask::<i64>(&["ZADD", dead_key(&f), "3", id]).await;
    }
    let page = f.a.list(&failed(None, 50)).await.unwrap();
    assert_eq!(page.jobs.len(), strange.len() + 1);
    let ghosts = &page.jobs[1..];
    assert!(ghosts.iter().all(|job| job.kind.is_none() && job.error.is_none()));
    let fates = f.a.retry(&strange, &order("o")).await.unwrap();
    assert_eq!(fates, [RetryResult::Broken; 7]);
    let before = keys(&f).await;
    for id in strange {
        assert_eq!(f.a.remove(id).await.unwrap(), RemovalResult::Done, "{id:?}");
    }
    assert_eq!(keys(&f).await, before, "nobody else's key is gone");
    assert_eq!(ids(&f.a.list(&failed(None, 50)).await.unwrap()), ["1"]);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn keys_of_a_wrong_type_are_refused_and_nothing_is_written(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    for id in ["1", "2"] {
        bury(&f, id, number()).await;
    }
    // One job's own key spoils that job alone.
    let (log, list) = match f.a.layout() {
        Layout::Bullmq => ("bull:q:1:logs", "bull:q:wait"),
        Layout::Apalis => ("q:history:1", "q:active"),
    };
    f.redis.ask::<()>(&["SET", log, "in the way"]).await;
    assert_eq!(f.a.list(&failed(None, 9)).await.unwrap().jobs.len(), 2);
    assert_eq!(
        f.a.retry(&["1", "2"], &order("o")).await.unwrap(),
        [RetryResult::Broken, RetryResult::Done]
    );
    // The queue's own keys stop everything.
    f.redis.ask::<i64>(&["DEL", list]).await;
    f.redis.ask::<()>(&["SET", list, "in the way"]).await;
    assert!(f.a.retry(&["1"], &order("p")).await.unwrap_err().is_refusal());
    assert!(f.a.remove("1").await.unwrap_err().is_refusal());
    assert_eq!(view(&*f.a, "1").await.state, JobState::Failed);
    f.redis.ask::<i64>(&["DEL", list, dead_key(&f)]).await;
    f.redis.ask::<()>(&["SET", dead_key(&f), "in the way"]).await;
    assert!(f.a.list(&failed(None, 9)).await.unwrap_err().is_refusal());
    assert!(f.a.retry(&["1"], &order("p")).await.unwrap_err().is_refusal());
}

/// A stock worker of apalis buries jobs in its own list only.
#[tokio::test]
async fn dead_letters_of_a_stock_apalis_worker_are_found_too() {
    for zset in [false, true] {
        let f = Fixture::of(Layout::Apalis).await;
        let envelope = r#"{"data":{"type":"inner"},"type":"process-image"}"#;
        for id in ["s1", "s2", "s3"] {
            f.redis.ask::<i64>(&["HSET", "q:data", id, envelope]).await;
            let meta = format!("q:meta:{id}");
            let result = r#"{"Err":"stock"}"#;
            f.redis
                .ask::<i64>(&[
                    "HSET", &meta, "status", "Killed", "attempts", "2", "result", result,
                ])
                .await;
            match zset {
                true => f.redis.ask::<i64>(&["ZADD", "q:dead", "1700000000", id]).await,
                false => f.redis.ask::<i64>(&["SADD", "q:dead", id]).await,
            };
        }
        bury(&f, "ours", FIRST).await;
        let page = f.a.list(&failed(None, 9)).await.unwrap();
        let mut found = ids(&page);
        assert_eq!(found.remove(0), "ours");
        found.sort_unstable();
        assert_eq!(found, ["s1", "s2", "s3"]);
        assert_eq!(page.jobs[1].error.as_deref(), Some("stock"));
        assert_eq!(page.jobs[1].kind.as_deref(), Some("process-image"));
        assert_eq!(
            f.a.retry(&["s1", "s2"], &order("o")).await.unwrap(),
            [RetryResult::Done; 2]
        );
        assert_eq!(f.a.remove("s3").await.unwrap(), RemovalResult::Done);
        assert_eq!(ids(&f.a.list(&failed(None, 9)).await.unwrap()), ["ours"]);
    }
}
