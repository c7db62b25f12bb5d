//! Recovery of dead replicas' jobs: not before the lease is over, and not without a bound.

use backend_worker::queue::{JobState, Layout};
use rstest::rstest;

use super::{FIRST, Fixture, TTL, one};
use crate::support::{enqueue, eventually, view};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn an_orphan_is_recovered_without_losing_an_attempt(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    let found = f.recovered().await;
    assert_eq!((found.requeued, found.poisoned), (1, 0));
    let claimed = f.b.claim(FIRST, 1).await.unwrap();
    assert_eq!(claimed[0].attempt, 1);
    f.swept().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn three_lost_deliveries_are_poison(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    for lost in 1..=3 {
        if lost == 1 {
            f.orphan(number).await;
        } else {
            f.begun_orphan(number).await;
        }
        number = number.next().next();
        let found = f.recovered().await;
        assert_eq!(
            (found.requeued, found.poisoned),
            if lost < 3 { (1, 0) } else { (0, 1) }
        );
        f.swept().await;
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(job.state, JobState::Failed);
    assert!(
        job.error
            .unwrap()
            .contains("poison: 3 deliveries ended without an outcome")
    );
}

/// A claimed job that only waits when its replica dies is not blamed. Its lost deliveries still have a bound, because a
/// payload may kill a replica before the job runs.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn what_was_lost_before_it_had_begun_is_none(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    for lost in 1..=12 {
        // One of them has begun. The mark that it leaves is no later claim's.
        if lost == 5 {
            f.begun_orphan(number).await;
        } else {
            f.orphan(number).await;
        }
        number = number.next().next();
        let found = f.recovered().await;
        let expected = if lost < 12 { (1, 0) } else { (0, 1) };
        assert_eq!((found.requeued, found.poisoned), expected, "after {lost}");
        f.swept().await;
        if lost == 6 {
            let next = f.b.claim(FIRST, 1).await.unwrap().remove(0);
            assert_eq!(next.lost, 6, "whoever claims it is told");
            f.b.release(&[next.lease]).await.unwrap();
        }
    }
    let error = view(&*f.a, "1").await.error.unwrap();
    assert!(error.contains("poison: 12 deliveries ended without"), "{error}");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn after_an_outage_nobody_is_judged_at_once(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    tokio::time::sleep(TTL).await; // The length of the outage: no replica can renew.
    f.sweeper.renew(&[]).await.unwrap();
    let found = f.sweeper.recover().await.unwrap();
    assert_eq!((found.requeued, found.more), (0, false), "its owner gets time");
    assert_eq!(f.recovered().await.requeued, 1, "but not for ever");
}

/// Jobs of dead replicas come back even if every replica dies before its lease runs out.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn the_dead_are_judged_by_whoever_comes(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    let born = std::cell::Cell::new(0);
    eventually("recovered by somebody who has only just come", async || {
        born.set(born.get() + 1);
        let newcomer = f
            .redis
            .broker_with(f.a.layout(), "q", &format!("newcomer-{}", born.get()), TTL);
        newcomer.renew(&[]).await.unwrap();
        (newcomer.recover().await.unwrap().requeued == 1).then_some(())
    })
    .await;
    assert_eq!(one(&*f.b, FIRST).await.id.as_ref(), "1");
}
