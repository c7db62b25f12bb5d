//! Retrying: dead letters run again, once an order, with their history.

use std::time::Duration;

use backend_worker::queue::{ClaimNumber, JobState, Layout, Postponement, RetryOrder, RetryResult};
use rstest::rstest;

use super::{FIRST, Fixture, bury, failed, numbers, one, order, transient};
use crate::support::{claim_one, enqueue, enqueue_with, view};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_retried_job_runs_once_more_and_keeps_its_history(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    enqueue_with(&*f.a, "1", 1).await;
    let lease = one(&*f.a, number()).await;
    f.a.fail(&lease, "no", Some(&transient())).await.unwrap();
    assert_eq!(f.a.retry(&["1"], &order("o")).await.unwrap(), [RetryResult::Done]);

    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.attempts_made, job.error),
        (JobState::Waiting, 1, None)
    );
    let classes: Vec<&str> = job.history.iter().map(|line| line.note.class.as_str()).collect();
    assert_eq!(classes, ["transient", "retried"]);
    let line = &job.history[1].note;
    assert_eq!(
        (line.cause.as_str(), line.replica.as_str(), line.attempt),
        ("retried by hand", "op", 1)
    );
    assert!(f.a.list(&failed(None, 9)).await.unwrap().jobs.is_empty());

    // A late copy of the outcome that buried it changes nothing.
    f.a.fail(&lease, "no", Some(&transient())).await.unwrap();
    let mut again = f.a.claim(number(), 9).await.unwrap();
    let delivery = again.pop().unwrap();
    assert_eq!((delivery.attempt, delivery.max_attempts), (2, 1));
    assert!(again.is_empty());
    f.a.complete(&delivery.lease, "1").await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, JobState::Completed);
    assert_eq!(f.a.counts().await.unwrap().failed, 0);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn all_attempts_are_given_anew_where_asked_for(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    bury(&f, "1", FIRST).await;
    let anew = RetryOrder {
        reset_attempts: true,
        ..order("o")
    };
    assert_eq!(f.a.retry(&["1"], &anew).await.unwrap(), [RetryResult::Done]);
    assert_eq!(view(&*f.a, "1").await.attempts_made, 0);
    assert_eq!(f.a.claim(FIRST.next(), 1).await.unwrap()[0].attempt, 1);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn the_same_order_retries_nothing_twice(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    bury(&f, "1", number()).await;
    bury(&f, "2", number()).await;
    for _ in 0..3 {
        assert_eq!(
            f.a.retry(&["1", "2"], &order("o")).await.unwrap(),
            [RetryResult::Done; 2]
        );
    }
    assert_eq!(f.a.counts().await.unwrap().waiting, 2);
    assert_eq!(view(&*f.a, "1").await.history.len(), 2);
    let lease = one(&*f.a, number()).await;
    f.a.fail(&lease, "no", None).await.unwrap();
    let id = lease.id.to_string();
    assert_eq!(
        f.a.retry(&[&id], &order("o")).await.unwrap(),
        [RetryResult::Again]
    );
    assert_eq!(view(&*f.a, &id).await.state, JobState::Failed);
    assert_eq!(
        f.a.retry(&[&id], &order("another")).await.unwrap(),
        [RetryResult::Done]
    );
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn only_dead_letters_are_retried(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    f.a.complete(&claimed[0].lease, "1").await.unwrap();
    let before = f.a.counts().await.unwrap();
    assert_eq!(
        f.a.retry(&["1", "2", "3", "nobody"], &order("o")).await.unwrap(),
        [
            RetryResult::NotFailed,
            RetryResult::NotFailed,
            RetryResult::NotFailed,
            RetryResult::Broken
        ]
    );
    assert_eq!(f.a.counts().await.unwrap(), before);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_poisoned_job_starts_with_a_fresh_count(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    let lose = async |number: &mut ClaimNumber| {
        f.begun_orphan(*number).await;
        *number = number.next().next();
        let found = f.recovered().await;
        f.swept().await;
        found.poisoned
    };
    for poisoned in [0, 0, 1] {
        assert_eq!(lose(&mut number).await, poisoned);
    }
    let page = f.a.list(&failed(None, 9)).await.unwrap();
    assert_eq!(page.jobs[0].class.as_deref(), Some("poison"));
    assert!(page.jobs[0].error.as_deref().unwrap().contains("poison: 3"));

    assert_eq!(f.a.retry(&["1"], &order("o")).await.unwrap(), [RetryResult::Done]);
    for poisoned in [0, 0, 1] {
        assert_eq!(lose(&mut number).await, poisoned, "three more, not one");
    }
    let classes: Vec<String> = view(&*f.a, "1")
        .await
        .history
        .into_iter()
        .map(|line| line.note.class)
        .collect();
    assert_eq!(classes, ["poison", "retried", "poison"]);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn gates_may_hold_up_a_retried_job_anew(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    let later = Postponement {
        delay: Duration::from_millis(1),
        counts: false,
        reason: "blocked",
        gate: Some("openai"),
        note: None,
    };
    f.a.retry_at(&lease, later).await.unwrap();
    let (second, number) = claim_one(&*f.a, FIRST.next()).await;
    assert_eq!(second.waited, Duration::from_millis(1));
    f.a.fail(&second.lease, "waited 0 s in all", None).await.unwrap();
    f.a.retry(&["1"], &order("o")).await.unwrap();
    let third = f.a.claim(number, 1).await.unwrap();
    assert_eq!(third[0].waited, Duration::ZERO);
}
