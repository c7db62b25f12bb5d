//! The worker over a queue: outcomes, drain, panics, deadlines, names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backend_worker::{
    queue::{JobState, Layout},
    worker::{DeliveryOutcome, RuntimeOptions},
};
use jobs::{Failure, FailureClass};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::support::{Script, TestRedis, enqueue, enqueue_with, eventually, options, replica, view};

async fn until(broker: &dyn backend_worker::queue::Broker, id: &str, state: JobState) {
    eventually(&format!("{id} is {state:?}"), async || {
        (view(broker, id).await.state == state).then_some(())
    })
    .await;
}

/// A handler that fails as told.
fn failing(class: FailureClass) -> Arc<Script> {
    Script::new(move |assignment| async move {
        options().rules.of(
            &Failure::new(class, format!("a {class} failure")),
            &assignment.delivery,
            1,
        )
    })
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn max_attempts_are_respected(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let script = failing(FailureClass::Transient);
    let running = replica(broker.clone(), 4, script.clone(), &options());
    enqueue_with(&*broker, "two", 2).await;
    enqueue_with(&*broker, "one", 1).await;
    until(&*broker, "two", JobState::Failed).await;
    until(&*broker, "one", JobState::Failed).await;
    let mut started = script.calls.started();
    started.sort();
    assert_eq!(started, ["one", "two", "two"]);
    let job = view(&*broker, "two").await;
    assert_eq!((job.attempts_made, job.history.len()), (2, 2));
    assert_eq!(
        job.error.as_deref(),
        Some("The service is temporarily unavailable; please try again later. a transient failure")
    );
    running.stop().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn what_cannot_succeed_is_not_tried_again(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    for class in [FailureClass::Permanent, FailureClass::Deployment] {
        let broker = redis.broker(layout, class.as_str(), "w");
        let script = failing(class);
        let running = replica(broker.clone(), 1, script.clone(), &options());
        enqueue(&*broker, "1").await;
        until(&*broker, "1", JobState::Failed).await;
        assert_eq!(script.calls.count(), 1, "{class}");
        running.stop().await;
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_blocked_job_waits_without_losing_an_attempt_but_not_for_ever(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let mut options = options();
    options.rules.max_wait = Duration::from_millis(250);
    let rules = options.rules.clone();
    let script = Script::new(move |assignment| {
        let blocked = Failure::new(
            FailureClass::Blocked,
            "Circuit breaker is OPEN for openai. Retry in 1s",
        )
        .by(jobs::Provider::OpenAi)
        .with_retry_after(Some(Duration::from_millis(100)));
        let outcome = rules.of(&blocked, &assignment.delivery, 0);
        async move { outcome }
    });
    let running = replica(broker.clone(), 1, script.clone(), &options);
    enqueue_with(&*broker, "1", 1).await;
    until(&*broker, "1", JobState::Failed).await;
    let job = view(&*broker, "1").await;
    assert_eq!(script.calls.count(), 4, "after 100, 200 and 250 ms");
    assert!(job.error.unwrap().contains("Circuit breaker is OPEN for openai"));
    running.stop().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_panic_fails_the_attempt_and_nothing_else(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let script = Script::new(|assignment| async move {
        if assignment.delivery.lease.id.as_ref() == "bad" {
            panic!("out of order");
        }
        DeliveryOutcome::Completed("1".to_owned())
    });
    let running = replica(broker.clone(), 4, script.clone(), &options());
    enqueue_with(&*broker, "bad", 2).await;
    enqueue(&*broker, "good").await;
    until(&*broker, "good", JobState::Completed).await;
    until(&*broker, "bad", JobState::Failed).await;
    assert!(
        view(&*broker, "bad")
            .await
            .error
            .unwrap()
            .contains("out of order")
    );
    enqueue(&*broker, "later").await;
    until(&*broker, "later", JobState::Completed).await;
    assert!(running.is_running());
    running.stop().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_deadline_ends_a_job_that_hangs(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let script = Script::new(|_| std::future::pending());
    let brief = RuntimeOptions {
        deadline: Duration::from_millis(50),
        ..options()
    };
    let running = replica(broker.clone(), 1, script, &brief);
    enqueue_with(&*broker, "1", 1).await;
    until(&*broker, "1", JobState::Failed).await;
    assert!(view(&*broker, "1").await.error.unwrap().contains("deadline"));
    running.stop().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_hundred_jobs_in_flight_are_drained(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    for n in 0..150 {
        enqueue(&*broker, &n.to_string()).await;
    }
    let gate = CancellationToken::new();
    let script = Script::behind(gate.clone());
    let running = replica(broker.clone(), 100, script.clone(), &options());
    script.calls.until_started(100).await;
    running.begin_stop();
    // Nothing may be claimed after the stop: the slots are full, so let them free up only then.
    gate.cancel();
    let tally = running.stop().await;
    assert_eq!(
        (tally.succeeded, tally.released + tally.lost + tally.failed),
        (100, 0)
    );
    let counts = broker.counts().await.unwrap();
    assert_eq!((counts.completed, counts.active, counts.waiting), (100, 0, 50));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn what_outlasts_the_drain_goes_back_unharmed(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    for n in 0..10 {
        enqueue(&*broker, &n.to_string()).await;
    }
    let script = Script::new(|_| std::future::pending());
    let hasty = RuntimeOptions {
        drain: Duration::from_millis(100),
        ..options()
    };
    let running = replica(broker.clone(), 10, script.clone(), &hasty);
    script.calls.until_started(10).await;
    assert_eq!(running.stop().await.released, 10);
    let counts = broker.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active), (10, 0));
    assert_eq!(view(&*broker, "3").await.attempts_made, 0);
    // Another replica runs them.
    let second = redis.broker(layout, "q", "w2");
    let running = replica(second.clone(), 10, Script::echo(), &options());
    until(&*second, "9", JobState::Completed).await;
    running.stop().await;
}

/// Thousands of calls side by side would keep Redis from answering any of them in time.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn jobs_in_flight_go_back_together(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    for n in 0..300 {
        enqueue(&*broker, &n.to_string()).await;
    }
    let script = Script::new(|_| std::future::pending());
    let hasty = RuntimeOptions {
        drain: Duration::from_millis(100),
        ..options()
    };
    let running = replica(broker.clone(), 300, script.clone(), &hasty);
    script.calls.until_started(300).await;
    // Another worker takes over one of them.
    let (key, field) = match layout {
        Layout::Apalis => ("q:meta:7", "claim"),
        Layout::Bullmq => ("bull:q:7", "bw:claim"),
    };
    redis.ask::<()>(&["HSET", key, field, "other:1"]).await;
    let before = redis.scripts().await;
    let tally = running.stop().await;
    assert_eq!((tally.released, tally.lost), (299, 1));
    let took = redis.scripts().await - before;
    assert!(took < 150, "{took} scripts");
    assert!(broker.counts().await.unwrap().waiting >= 299);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn two_replicas_share_a_queue_and_run_each_job_once(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let (a, b) = (redis.broker(layout, "q", "a"), redis.broker(layout, "q", "b"));
    let script = Script::echo();
    let (first, second) = (
        replica(a.clone(), 8, script.clone(), &options()),
        replica(b, 8, script.clone(), &options()),
    );
    for n in 0..400 {
        enqueue(&*a, &n.to_string()).await;
    }
    eventually("all completed", async || {
        (a.counts().await.unwrap().completed == 400).then_some(())
    })
    .await;
    let (x, y) = (first.stop().await, second.stop().await);
    assert_eq!(x.succeeded + y.succeeded, 400);
    let mut started = script.calls.started();
    started.sort();
    started.dedup();
    assert_eq!((started.len(), script.calls.count()), (400, 400));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn no_more_jobs_run_at_a_time_than_there_are_slots(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let (now, peak) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (n, p) = (now.clone(), peak.clone());
    let script = Script::new(move |_| {
        let (now, peak) = (n.clone(), p.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            DeliveryOutcome::Completed("1".to_owned())
        }
    });
    for n in 0..500 {
        enqueue(&*broker, &n.to_string()).await;
    }
    let running = replica(broker.clone(), 7, script, &options());
    eventually("all completed", async || {
        (broker.counts().await.unwrap().completed == 500).then_some(())
    })
    .await;
    assert!(peak.load(Ordering::SeqCst) <= 7);
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_was_lost_is_stopped_and_writes_nothing() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    let script = Script::new(|_| std::future::pending());
    let quick = RuntimeOptions {
        renew_every: Duration::from_millis(50),
        ..options()
    };
    let running = replica(broker.clone(), 1, script.clone(), &quick);
    enqueue(&*broker, "1").await;
    script.calls.until_started(1).await;
    // Another worker takes the job over.
    redis.ask::<()>(&["HSET", "q:meta:1", "claim", "other:1"]).await;
    eventually("the slot is free again", async || {
        running.workers[0].slots().is_empty().then_some(())
    })
    .await;
    let token: String = redis.ask(&["HGET", "q:meta:1", "claim"]).await;
    assert_eq!(token, "other:1");
    assert_eq!(running.workers[0].health().outcome_totals().lost, 1);
    running.stop().await;
}
