//! Removing: a job goes with all that is kept of it, unless a replica has it.

use backend_worker::queue::{JobState, Layout, QueueCounts, RemovalResult};
use rstest::rstest;

use super::{FIRST, Fixture, bury, keys, numbers, one, put_off};
use crate::support::{enqueue, view};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_removed_job_leaves_nothing(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    bury(&f, "other", number()).await;
    let before = keys(&f).await;
    bury(&f, "1", number()).await;
    assert_eq!(f.a.remove("1").await.unwrap(), RemovalResult::Done);
    assert_eq!(f.a.remove("1").await.unwrap(), RemovalResult::Unknown);
    assert_eq!(keys(&f).await, before);
    assert!(f.a.find("1").await.unwrap().is_none());

    for id in ["waits", "done", "later"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(number(), 3).await.unwrap();
    f.a.release(std::slice::from_ref(&claimed[0].lease))
        .await
        .unwrap();
    f.a.complete(&claimed[1].lease, "1").await.unwrap();
    put_off(&f, &claimed[2].lease).await;
    for id in ["waits", "done", "later", "other"] {
        assert_eq!(f.a.remove(id).await.unwrap(), RemovalResult::Done, "{id}");
        assert!(f.a.find(id).await.unwrap().is_none(), "{id}");
    }
    let left = keys(&f).await;
    let of_jobs = |key: &&String| {
        ["waits", "done", "later", "other", ":1"]
            .iter()
            .any(|id| key.contains(id))
    };
    // The queue's own list of ended jobs may be called so.
    let left: Vec<_> = left.iter().filter(of_jobs).collect();
    assert!(left.is_empty(), "{left:?}");
    let counts = f.a.counts().await.unwrap();
    assert_eq!(counts, QueueCounts::default());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn an_active_job_is_not_removed(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(f.a.remove("1").await.unwrap(), RemovalResult::Active);
    f.a.complete(&lease, "1").await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, JobState::Completed);
}
