//! Outcomes of claimed jobs: the holder of the claim writes each once.

use std::time::Duration;

use backend_worker::queue::{Broker, JobState, Layout, Lease, WriteResult};
use rstest::rstest;

use super::{FIRST, Fixture, later, note, one};
use crate::support::{claim_one, enqueue, view};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn completing_is_idempotent(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    for _ in 0..3 {
        assert_eq!(
            f.a.complete(&lease, r#"{"n":1}"#).await.unwrap(),
            WriteResult::Applied
        );
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.progress, job.attempts_made),
        (JobState::Completed, 100, 1)
    );
    assert_eq!(job.result, Some(serde_json::json!({"n": 1})));
    assert_eq!(f.a.counts().await.unwrap().completed, 1);
    // The outcome stands: another one of the same claim does not overwrite it.
    f.a.fail(&lease, "too late", None).await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, JobState::Completed);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_late_outcome_is_refused(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let late = f.orphan(FIRST).await;
    f.recovered().await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(f.brief.complete(&late, "1").await.unwrap(), WriteResult::Lost);
    assert_eq!(f.brief.fail(&late, "x", None).await.unwrap(), WriteResult::Lost);
    assert_eq!(
        f.brief.retry_at(&late, later(0, true)).await.unwrap(),
        WriteResult::Lost
    );
    assert_eq!(
        f.brief.progress(&late, 50, None).await.unwrap(),
        WriteResult::Lost
    );
    assert_eq!(f.brief.release(std::slice::from_ref(&late)).await.unwrap(), 0);
    assert_eq!(view(&*f.a, "1").await.state, JobState::Active);
    assert_eq!(f.a.complete(&lease, "2").await.unwrap(), WriteResult::Applied);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn late_parts_of_a_result_are_refused(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let show = async |broker: &dyn Broker, lease: &Lease, parts: &str| {
        let claim = broker.proof_of(lease);
        broker.partial_results().show("1", &claim, parts).await;
        broker.partial_results().shown("1").await
    };
    let late = f.orphan(FIRST).await;
    f.recovered().await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(show(&*f.brief, &late, "[1,2]").await, None);
    assert_eq!(show(&*f.a, &lease, "[3]").await.as_deref(), Some("[3]"));
    assert_eq!(show(&*f.brief, &late, "[1,2]").await.as_deref(), Some("[3]"));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_retry_counts_or_not(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(
        f.a.retry_at(&lease, later(40, true)).await.unwrap(),
        WriteResult::Applied
    );
    let job = view(&*f.a, "1").await;
    assert_eq!((job.state, job.attempts_made), (JobState::Delayed, 1));
    assert_eq!(job.error.as_deref(), Some("because"));
    assert!(f.a.claim(FIRST.next(), 0).await.unwrap().is_empty());

    let (second, number) = claim_one(&*f.a, FIRST.next().next()).await;
    assert_eq!((second.attempt, second.waited), (2, Duration::ZERO));
    f.a.retry_at(&second.lease, later(30, false)).await.unwrap();
    let (third, _) = claim_one(&*f.a, number).await;
    assert_eq!(
        (third.attempt, third.waited),
        (2, Duration::from_millis(30)),
        "waiting costs no attempt"
    );
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_failed_job_is_a_dead_letter(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    for _ in 0..2 {
        assert_eq!(
            f.a.fail(&lease, "no \"good\"", Some(&note())).await.unwrap(),
            WriteResult::Applied
        );
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.error.as_deref()),
        (JobState::Failed, Some("no \"good\""))
    );
    assert_eq!(job.history.len(), 1, "the note is written once");
    assert!(f.a.claim(FIRST.next(), 1).await.unwrap().is_empty());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn progress_and_history_are_kept(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(view(&*f.a, "1").await.progress, 10, "a claimed job has begun");
    assert_eq!(
        f.a.progress(&lease, 15, Some(&note())).await.unwrap(),
        WriteResult::Applied
    );
    let job = view(&*f.a, "1").await;
    assert_eq!(job.progress, 15);
    let line = &job.history[0];
    assert_eq!(line.note, note());
    assert!(line.at > 1_700_000_000_000, "Redis's clock, ms");
    for _ in 0..150 {
        f.a.progress(&lease, 20, Some(&note())).await.unwrap();
    }
    assert_eq!(view(&*f.a, "1").await.history.len(), 100, "a history is bounded");
}
