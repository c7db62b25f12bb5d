//! The queue as a whole: waiting for work, pauses, counts, known ids, and what a later version has written.

use std::time::Duration;

use backend_worker::queue::{Layout, NewJob, RetryOrder, WriteResult};
use jobs::JobType;
use rstest::rstest;

use super::{FIRST, Fixture, later, leases, note, one};
use crate::support::{PATIENCE, enqueue, enqueue_with, eventually, raw};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_paused_queue_hands_out_nothing(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    f.b.set_paused(true).await.unwrap();
    assert!(f.a.claim(FIRST, 1).await.unwrap().is_empty());
    f.b.set_paused(false).await.unwrap();
    one(&*f.a, FIRST.next()).await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn waiting_ends_when_work_arrives(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    // Longer than any patience: only the job can end the wait.
    let waiting = tokio::spawn({
        let a = f.a.clone();
        async move { a.wait(Duration::from_secs(3600)).await }
    });
    // Once a listener is connected, it is armed before it sleeps.
    eventually("the waiter listens", async || {
        let clients: String = f.redis.ask(&["CLIENT", "LIST"]).await;
        let listens = |c: &str| c.contains("flags=t") && c.contains("cmd=z") || c.contains("cmd=bzpopmin");
        clients.lines().any(listens).then_some(())
    })
    .await;
    enqueue(&*f.b, "1").await;
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the wait ends")
        .unwrap()
        .unwrap();
    // Nothing happens: the limit ends the wait, and says so.
    f.a.claim(FIRST, 1).await.unwrap();
    assert!(!f.a.wait(Duration::from_millis(20)).await.unwrap());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn waiting_ends_when_a_delayed_job_is_due(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    f.a.retry_at(&lease, later(200, true)).await.unwrap();
    let waits = async {
        let mut number = FIRST;
        loop {
            assert!(f.a.wait(Duration::from_secs(3600)).await.unwrap());
            number = number.next();
            if !f.a.claim(number, 1).await.unwrap().is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waits)
        .await
        .expect("the job comes due");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_known_id_is_not_enqueued_again(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue_with(&*f.a, "1", 5).await;
    let payload = raw("{}");
    let job = NewJob {
        id: "1",
        kind: JobType::ProcessImage,
        payload: &payload,
        max_attempts: 1,
        delay: Duration::ZERO,
    };
    assert!(!f.a.enqueue(&job).await.unwrap());
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].max_attempts), (1, 5));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn counts_follow_the_jobs(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for id in ["1", "2", "3", "4", "5"] {
        enqueue(&*f.a, id).await;
    }
    let leases = leases(&*f.a, FIRST, 4).await;
    f.a.complete(&leases[0], "1").await.unwrap();
    f.a.fail(&leases[1], "x", None).await.unwrap();
    f.a.retry_at(&leases[2], later(60_000, true)).await.unwrap();
    let counts = f.b.counts().await.unwrap();
    let numbers = (
        counts.waiting,
        counts.active,
        counts.completed,
        counts.failed,
        counts.delayed,
    );
    assert_eq!(numbers, (1, 1, 1, 1, 1));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn an_unknown_job_is_not_found(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    assert!(f.a.find("nobody").await.unwrap().is_none());
}

/// Replicas of neighbouring versions run side by side: fields that one does not know are the other's.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn what_a_later_version_has_written_is_left_as_it_is(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let (job, queue) = match f.a.layout() {
        Layout::Apalis => (
            format!("{}q:meta:1", f.redis.own()),
            format!("{}q:", f.redis.own()),
        ),
        Layout::Bullmq => {
            let prefix = format!("{}:q:", f.redis.prefix());
            (format!("{prefix}1"), format!("{prefix}bw:"))
        }
    };
    let session = format!("{queue}session:a");
    let hashes = match f.a.layout() {
        Layout::Apalis => vec![&*job, &session],
        Layout::Bullmq => vec![&*job], // Its session is a number.
    };
    for hash in &hashes {
        f.redis.ask::<()>(&["HSET", hash, "bw:later", "kept"]).await;
    }
    f.redis
        .ask::<()>(&["SET", &format!("{queue}later"), "kept"])
        .await;

    f.a.renew(&[]).await.unwrap();
    let first = one(&*f.a, FIRST).await;
    f.a.mark_started(&first).await.unwrap();
    f.a.progress(&first, 50, Some(&note())).await.unwrap();
    assert!(f.a.renew(std::slice::from_ref(&first)).await.unwrap().is_empty());
    f.a.release(&[first]).await.unwrap();
    f.orphan(FIRST).await;
    f.recovered().await;
    let second = one(&*f.a, FIRST.next()).await;
    f.a.fail(&second, "no", None).await.unwrap();
    let order = RetryOrder {
        id: "o",
        by: "test",
        reset_attempts: true,
    };
    f.a.retry(&["1"], &order).await.unwrap();
    let third = one(&*f.a, FIRST.next().next()).await;
    assert_eq!(f.a.complete(&third, "1").await.unwrap(), WriteResult::Applied);

    for hash in hashes {
        let kept: Option<String> = f.redis.ask(&["HGET", hash, "bw:later"]).await;
        assert_eq!(kept.as_deref(), Some("kept"), "{hash}");
    }
    let kept: Option<String> = f.redis.ask(&["GET", &format!("{queue}later")]).await;
    assert_eq!(kept.as_deref(), Some("kept"));
}
