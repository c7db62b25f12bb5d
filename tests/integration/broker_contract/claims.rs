//! Claims and outcomes, resent and late ones too.

use super::*;

both_layouts! {
    [Fixture]
    claims_in_order_and_no_more_than_asked
    a_claim_without_a_lease_is_refused
    a_resent_claim_returns_the_same_jobs
    completing_is_idempotent
    a_late_outcome_is_refused
    a_retry_counts_or_not
    a_failed_job_is_a_dead_letter
    a_released_job_is_next_in_line
    progress_and_history_are_kept
}

async fn claims_in_order_and_no_more_than_asked(f: Fixture) {
    for id in ["1", "2", "3", "4"] {
        enqueue(&*f.a, id).await;
    }
    let ids = async |broker: &dyn Broker, number, count| -> Vec<String> {
        let claimed = broker.claim(number, count).await.unwrap();
        claimed.iter().map(|d| d.lease.id.to_string()).collect()
    };
    assert_eq!(ids(&*f.a, FIRST, 2).await, ["1", "2"]);
    assert_eq!(ids(&*f.b, FIRST, 1).await, ["3"]);
    assert_eq!(ids(&*f.a, FIRST.next(), 5).await, ["4"]);
    assert!(ids(&*f.b, FIRST.next(), 5).await.is_empty());
}

async fn a_claim_without_a_lease_is_refused(f: Fixture) {
    enqueue(&*f.a, "1").await;
    assert!(matches!(
        f.brief.claim(FIRST, 1).await,
        Err(BrokerError::Unleased)
    ));
    assert_eq!(one(&*f.a, FIRST).await.id.as_ref(), "1");
}

async fn a_resent_claim_returns_the_same_jobs(f: Fixture) {
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    let mut again = f.a.claim(FIRST, 2).await.unwrap();
    again.sort_by(|x, y| x.lease.id.cmp(&y.lease.id));
    let leases = |deliveries: &[backend_worker::queue::Delivery]| -> Vec<_> {
        deliveries
            .iter()
            .map(|d| (d.lease.clone(), d.attempt, d.payload.clone()))
            .collect()
    };
    assert_eq!(leases(&claimed), leases(&again));
    // A copy of it that was held up on its way claims nothing, even when its jobs have ended.
    for delivery in &claimed {
        f.a.complete(&delivery.lease, "1").await.unwrap();
    }
    assert!(f.a.claim(FIRST, 2).await.unwrap().is_empty());
    f.a.claim(FIRST.next().next(), 0).await.unwrap();
    assert!(
        f.a.claim(FIRST.next(), 2).await.unwrap().is_empty(),
        "an older number is too late"
    );
    // One that never arrived is carried out when it is sent again.
    assert_eq!(f.b.claim(FIRST, 2).await.unwrap().len(), 1);
}

async fn completing_is_idempotent(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    for _ in 0..3 {
        assert_eq!(
            f.a.complete(&lease, r#"{"n":1}"#).await.unwrap(),
            Settled::Applied
        );
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.progress, job.attempts_made),
        (State::Completed, 100, 1)
    );
    assert_eq!(job.result, Some(serde_json::json!({"n": 1})));
    assert_eq!(f.a.counts().await.unwrap().completed, 1);
    // The outcome stands: another one of the same claim does not overwrite it.
    f.a.fail(&lease, "too late", None).await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, State::Completed);
}

async fn a_late_outcome_is_refused(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let late = f.orphan(FIRST).await;
    f.recovered().await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(f.brief.complete(&late, "1").await.unwrap(), Settled::Lost);
    assert_eq!(f.brief.fail(&late, "x", None).await.unwrap(), Settled::Lost);
    assert_eq!(
        f.brief.retry_at(&late, later(0, true)).await.unwrap(),
        Settled::Lost
    );
    assert_eq!(f.brief.progress(&late, 50, None).await.unwrap(), Settled::Lost);
    assert_eq!(f.brief.release(std::slice::from_ref(&late)).await.unwrap(), 0);
    assert_eq!(view(&*f.a, "1").await.state, State::Active);
    assert_eq!(f.a.complete(&lease, "2").await.unwrap(), Settled::Applied);
}

async fn a_retry_counts_or_not(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(
        f.a.retry_at(&lease, later(40, true)).await.unwrap(),
        Settled::Applied
    );
    let job = view(&*f.a, "1").await;
    assert_eq!((job.state, job.attempts_made), (State::Delayed, 1));
    assert_eq!(job.error.as_deref(), Some("because"));
    assert!(f.a.claim(FIRST.next(), 0).await.unwrap().is_empty());

    let number = std::cell::Cell::new(FIRST.next());
    let claim = async || {
        eventually("due", async || {
            number.set(number.get().next());
            f.a.claim(number.get(), 1).await.unwrap().pop()
        })
        .await
    };
    let second = claim().await;
    assert_eq!((second.attempt, second.waited), (2, Duration::ZERO));
    f.a.retry_at(&second.lease, later(30, false)).await.unwrap();
    let third = claim().await;
    assert_eq!(
        (third.attempt, third.waited),
        (2, Duration::from_millis(30)),
        "waiting costs no attempt"
    );
}

async fn a_failed_job_is_a_dead_letter(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    for _ in 0..2 {
        assert_eq!(
            f.a.fail(&lease, "no \"good\"", Some(&note())).await.unwrap(),
            Settled::Applied
        );
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.error.as_deref()),
        (State::Failed, Some("no \"good\""))
    );
    assert_eq!(job.history.len(), 1, "the note is written once");
    assert!(f.a.claim(FIRST.next(), 1).await.unwrap().is_empty());
}

async fn a_released_job_is_next_in_line(f: Fixture) {
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed: Vec<Lease> =
        f.a.claim(FIRST, 2)
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.lease)
            .collect();
    for _ in 0..2 {
        assert_eq!(f.a.release(&claimed).await.unwrap(), 2, "said again, it stands");
    }
    assert_eq!(view(&*f.a, "1").await.attempts_made, 0);
    let again = f.b.claim(FIRST, 9).await.unwrap();
    let order: Vec<_> = again.iter().map(|d| (d.lease.id.as_ref(), d.attempt)).collect();
    assert_eq!(order, [("1", 1), ("2", 1), ("3", 1)]);
}

async fn progress_and_history_are_kept(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(view(&*f.a, "1").await.progress, 10, "a claimed job has begun");
    assert_eq!(
        f.a.progress(&lease, 15, Some(&note())).await.unwrap(),
        Settled::Applied
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
