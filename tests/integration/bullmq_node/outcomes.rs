//! One outcome of a job each, as Node's classes show it.

use super::*;

#[tokio::test]
async fn completed() {
    let scene = NodeScene::set().await;
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Transient, 0),
        &options(),
    );
    scene.node.add("user-7_card-1", defaults()).await;
    let job = scene.node.until("user-7_card-1", "completed").await;
    assert_eq!(tries(&job), (&json!(1), &json!(1), 0));
    assert_eq!(
        (&job["progress"], &job["returnvalue"]),
        (&json!(100), &json!({"ok": true}))
    );
    assert_eq!(
        (&job["processedBy"], &job["finished"]),
        (&json!("w"), &json!(true))
    );
    assert!(job.get("failedReason").is_none(), "{job}");
    scene
        .node
        .expect_events("user-7_card-1", &["added", "waiting", "active", "completed"])
        .await;
    let event = scene.node.event("completed").await;
    assert_eq!(
        (&event["returnvalue"], &event["prev"]),
        (&json!({"ok": true}), &json!("active"))
    );
    scene.node.event("drained").await;
    running.stop().await;
}

#[tokio::test]
async fn retried_with_the_producers_backoff() {
    let scene = NodeScene::set().await;
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Transient, 2),
        &options(),
    );
    let opts = json!({"attempts": 3, "backoff": {"type": "exponential", "delay": 30.5, "jitter": 0.5}});
    scene.node.add("1a", opts).await;
    let job = scene.node.until("1a", "completed").await;
    assert_eq!(tries(&job), (&json!(3), &json!(3), 2));
    assert_eq!(
        job["failedReason"],
        "The service is temporarily unavailable; please try again later. the provider \"stumbled\"",
        "the old reason stays"
    );
    assert_eq!(
        job["logs"].as_array().unwrap().len(),
        2,
        "a line for each failure"
    );
    let again = ["active", "delayed", "waiting"];
    let events = [
        &["added", "waiting"][..],
        &again,
        &again,
        &["active", "completed"],
    ]
    .concat();
    scene.node.expect_events("1a", &events).await;
    running.stop().await;
}

#[tokio::test]
async fn retried_at_once_where_the_producer_names_no_backoff() {
    let scene = NodeScene::set().await;
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Transient, 1),
        &options(),
    );
    scene.node.add("1a", json!({"attempts": 2})).await;
    let job = scene.node.until("1a", "completed").await;
    assert_eq!(tries(&job), (&json!(2), &json!(2), 1));
    let events = ["added", "waiting", "active", "waiting", "active", "completed"];
    scene.node.expect_events("1a", &events).await;
    running.stop().await;
}

#[tokio::test]
async fn failed_after_its_attempts_and_retried_by_hand() {
    let scene = NodeScene::set().await;
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Transient, 2),
        &options(),
    );
    scene
        .node
        .add("1a", json!({"attempts": 2, "backoff": 10, "stackTraceLimit": 1}))
        .await;
    let job = scene.node.until("1a", "failed").await;
    assert_eq!(tries(&job), (&json!(2), &json!(2), 1));
    assert_eq!(
        job["failedReason"],
        "The service is temporarily unavailable; please try again later. the provider \"stumbled\""
    );
    let events = [
        "added",
        "waiting",
        "active",
        "delayed",
        "waiting",
        "active",
        "failed",
        "retries-exhausted",
    ];
    scene.node.expect_events("1a", &events).await;
    assert_eq!(scene.node.event("retries-exhausted").await["attemptsMade"], "2");
    scene.node.ask("retry", json!({"id": "1a"})).await;
    let job = scene.node.until("1a", "completed").await;
    assert_eq!(job["attemptsMade"], 3);
    running.stop().await;
}

#[tokio::test]
async fn unrecoverable() {
    let scene = NodeScene::set().await;
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Permanent, 1),
        &options(),
    );
    scene.node.add("1a", defaults()).await;
    let job = scene.node.until("1a", "failed").await;
    assert_eq!(tries(&job), (&json!(1), &json!(1), 1));
    scene
        .node
        .expect_events("1a", &["added", "waiting", "active", "failed"])
        .await;
    running.stop().await;
}

#[tokio::test]
async fn given_back() {
    let scene = NodeScene::set().await;
    scene.node.add("1a", defaults()).await;
    let first = claim_one(&*scene.broker, FIRST).await.0;
    assert_eq!(scene.node.look("1a").await["state"], "active");
    scene.broker.release(&[first.lease]).await.unwrap();
    let job = scene.node.look("1a").await;
    assert_eq!(
        (&job["state"], tries(&job)),
        (&json!("waiting"), (&json!(0), &json!(1), 0))
    );
    let second = claim_one(&*scene.broker, FIRST.next()).await.0;
    assert_eq!(second.attempt, 1);
    scene.broker.complete(&second.lease, "null").await.unwrap();
    let job = scene.node.look("1a").await;
    assert_eq!(
        (&job["state"], tries(&job)),
        (&json!("completed"), (&json!(1), &json!(2), 0))
    );
    let events = ["added", "waiting", "active", "waiting", "active", "completed"];
    scene.node.expect_events("1a", &events).await;
}

#[tokio::test]
async fn delayed_by_its_producer_and_by_the_worker() {
    let scene = NodeScene::set().await;
    scene.node.add("1a", json!({"delay": 100})).await;
    assert_eq!(scene.node.look("1a").await["state"], "delayed");
    let first = claim_one(&*scene.broker, FIRST).await.0;
    let later = Postponement {
        delay: Duration::from_millis(50),
        counts: false,
        reason: "the gate is closed",
        gate: Some("openai"),
        note: None,
    };
    scene.broker.retry_at(&first.lease, later).await.unwrap();
    let job = scene.node.look("1a").await;
    assert_eq!((&job["state"], &job["delay"]), (&json!("delayed"), &json!(50)));
    assert_eq!(tries(&job), (&json!(0), &json!(1), 0));
    assert!(job.get("failedReason").is_none(), "{job}");
    let second = claim_one(&*scene.broker, FIRST.next()).await.0;
    assert_eq!((second.attempt, second.waited), (1, Duration::from_millis(50)));
    scene.broker.complete(&second.lease, "1").await.unwrap();
    assert_eq!(scene.node.look("1a").await["delay"], 0);
    let wait = ["delayed", "waiting", "active"];
    let events = [&["added"][..], &wait, &wait, &["completed"]].concat();
    scene.node.expect_events("1a", &events).await;
}

#[tokio::test]
async fn a_job_that_is_retried_by_hand_waits_anew() {
    let scene = NodeScene::set().await;
    scene.node.add("1a", defaults()).await;
    let first = claim_one(&*scene.broker, FIRST).await.0;
    let later = Postponement {
        delay: Duration::from_millis(30),
        counts: false,
        reason: "the gate is closed",
        gate: Some("openai"),
        note: None,
    };
    scene.broker.retry_at(&first.lease, later).await.unwrap();
    // Numbers that found nothing are used up: each look starts well above those of the one before.
    let far = |from: ClaimNumber| (0..10_000).fold(from, |number, _| number.next());
    let second = claim_one(&*scene.broker, far(FIRST)).await.0;
    assert_eq!(second.waited, Duration::from_millis(30));
    scene
        .broker
        .fail(&second.lease, "waited long enough", None)
        .await
        .unwrap();
    scene.node.ask("retry", json!({"id": "1a"})).await;
    assert_eq!(
        claim_one(&*scene.broker, far(far(FIRST))).await.0.waited,
        Duration::ZERO
    );
}
