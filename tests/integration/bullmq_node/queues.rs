//! What belongs to the queue: order, pause, retention, limits, other versions.

use super::*;

#[tokio::test]
async fn prioritized() {
    let scene = NodeScene::set().await;
    let jobs = [("low", 9), ("mid-1", 5), ("mid-2", 5), ("high", 1), ("plain", 0)];
    for (id, priority) in jobs {
        scene.node.add(id, json!({"priority": priority})).await;
    }
    assert_eq!(scene.node.look("low").await["state"], "prioritized");
    let claimed = scene.broker.claim(FIRST, 3).await.unwrap();
    let order = |claimed: &[backend_worker::queue::Delivery]| -> Vec<String> {
        claimed.iter().map(|d| d.lease.id.to_string()).collect()
    };
    assert_eq!(order(&claimed), ["plain", "high", "mid-1"]);
    // What is given back goes before its equals.
    scene.broker.release(&[claimed[2].lease.clone()]).await.unwrap();
    let rest = scene.broker.claim(FIRST.next(), 9).await.unwrap();
    assert_eq!(order(&rest), ["mid-1", "mid-2", "low"]);
}

#[tokio::test]
async fn paused_and_resumed_while_retries_come_due() {
    let scene = NodeScene::set().await;
    for n in 0..8 {
        scene.node.add(&format!("j{n}"), defaults()).await;
    }
    for delivery in scene.broker.claim(FIRST, 8).await.unwrap() {
        let later = Postponement {
            delay: Duration::from_millis(30),
            counts: true,
            reason: "503",
            gate: None,
            note: None,
        };
        scene.broker.retry_at(&delivery.lease, later).await.unwrap();
    }
    scene.node.ask("pause", json!({})).await;
    let script = stumbling(FailureClass::Transient, 0);
    let running = replica(scene.broker.clone(), 8, script.clone(), &options());
    eventually("all have come due", async || {
        (scene.broker.counts().await.unwrap().delayed == 0).then_some(())
    })
    .await;
    let counts = scene.node.ask("counts", json!({})).await;
    assert_eq!(counts["paused"], 8, "{counts}");
    assert_eq!(script.calls.count(), 0, "a paused queue hands out nothing");
    scene.node.ask("resume", json!({})).await;
    for n in 0..8 {
        scene.node.until(&format!("j{n}"), "completed").await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_producer_of_v6_loses_nothing() {
    let scene = NodeScene::set().await;
    let add = async |id: &str| {
        let opts = json!({"jobId": id, "attempts": 3, "backoff": 30});
        let job = json!({"version": 6, "name": "process-image", "data": {}, "opts": opts});
        scene.node.ask("add", job).await;
    };
    for n in 0..8 {
        add(&format!("j{n}")).await;
    }
    let claimed = scene.broker.claim(FIRST, 8).await.unwrap();
    scene.node.ask("pause", json!({"version": 6})).await;
    for delivery in &claimed {
        let later = Postponement {
            delay: Duration::from_millis(30),
            counts: true,
            reason: "503",
            gate: None,
            note: None,
        };
        scene.broker.retry_at(&delivery.lease, later).await.unwrap();
    }
    add("while-paused").await;
    let running = replica(
        scene.broker.clone(),
        8,
        stumbling(FailureClass::Transient, 0),
        &options(),
    );
    eventually("all have come due", async || {
        (scene.broker.counts().await.unwrap().delayed == 0).then_some(())
    })
    .await;
    scene.node.ask("resume", json!({"version": 6})).await;
    for id in (0..8).map(|n| format!("j{n}")).chain(["while-paused".to_owned()]) {
        eventually(&format!("{id} is completed"), async || {
            let state = scene.node.ask("state", json!({"id": id, "version": 6})).await;
            (state == "completed").then_some(())
        })
        .await;
    }
    running.stop().await;
}

#[tokio::test]
async fn stalled_and_recovered() {
    let scene = NodeScene::set().await;
    let brief = scene
        .redis
        .broker_with(scene.broker.layout(), "q", "brief", Duration::from_millis(30));
    scene.node.add("1a", defaults()).await;
    brief.renew(&[]).await.unwrap();
    assert_eq!(brief.claim(FIRST, 1).await.unwrap().len(), 1);
    // Who judges others has held its own lease for a ttl.
    let sweeper = scene
        .redis
        .broker_with(scene.broker.layout(), "q", "sweeper", Duration::from_millis(300));
    eventually("the job is recovered", async || {
        sweeper.renew(&[]).await.unwrap();
        (sweeper.recover().await.unwrap().requeued == 1).then_some(())
    })
    .await;
    let job = scene.node.look("1a").await;
    assert_eq!(
        (&job["state"], &job["stalledCounter"]),
        (&json!("waiting"), &json!(1))
    );
    let delivery = claim_one(&*scene.broker, FIRST).await.0;
    scene.broker.complete(&delivery.lease, "1").await.unwrap();
    let job = scene.node.look("1a").await;
    assert_eq!(
        (&job["state"], tries(&job)),
        (&json!("completed"), (&json!(1), &json!(2), 0))
    );
    let events = [
        "added",
        "waiting",
        "active",
        "waiting",
        "stalled",
        "active",
        "completed",
    ];
    scene.node.expect_events("1a", &events).await;
}

#[tokio::test]
async fn kept_as_the_producer_says() {
    let scene = NodeScene::set().await;
    let fails = Script::new(|assignment| async move {
        if assignment.delivery.lease.id.starts_with("bad") {
            options()
                .rules
                .of(&Failure::permanent("no"), &assignment.delivery, 1)
        } else {
            DeliveryOutcome::Completed("1".to_owned())
        }
    });
    let running = replica(scene.broker.clone(), 1, fails, &options());
    for (id, opts) in [
        ("gone", json!({"removeOnComplete": true})),
        ("bad-gone", json!({"removeOnFail": true})),
        ("none", json!({"removeOnComplete": 0})),
        ("kept", json!({"removeOnComplete": false})),
        ("bad-kept", json!({})),
    ] {
        scene.node.add(id, opts).await;
    }
    let counted = json!({"removeOnComplete": {"count": 3, "age": 1000}});
    for n in 0..6 {
        scene.node.add(&format!("n{n}"), counted.clone()).await;
    }
    scene.node.until("n5", "completed").await;
    for id in ["gone", "bad-gone", "none", "kept", "n0", "n2"] {
        assert_eq!(scene.node.look(id).await, Value::Null, "{id}");
    }
    for (id, state) in [("n3", "completed"), ("n4", "completed"), ("bad-kept", "failed")] {
        assert_eq!(scene.node.look(id).await["state"], state, "{id}");
    }
    let mut keys: Vec<String> = scene.redis.ask(&["KEYS", "bull:q:*gone*"]).await;
    keys.extend(scene.redis.ask::<Vec<String>>(&["KEYS", "bull:q:n0*"]).await);
    assert!(keys.is_empty(), "{keys:?}");
    scene
        .node
        .expect_events("gone", &["added", "waiting", "active", "completed"])
        .await;
    running.stop().await;
}

#[tokio::test]
async fn the_last_of_the_deduplicated_runs_after_the_first() {
    let scene = NodeScene::set().await;
    let add = async |n: u32| {
        let opts = json!({"deduplication": {"id": "d", "keepLastIfActive": true}});
        let job = json!({"name": "process-image", "data": {"n": n}, "opts": opts});
        scene.node.ask("add", job).await
    };
    add(1).await;
    let first = claim_one(&*scene.broker, FIRST).await.0;
    add(2).await;
    add(3).await;
    assert!(scene.broker.claim(FIRST.next(), 9).await.unwrap().is_empty());
    scene.broker.complete(&first.lease, "1").await.unwrap();
    let second = claim_one(&*scene.broker, FIRST.next().next()).await.0;
    assert_eq!(second.payload.as_deref(), Some(&br#"{"n":3}"#[..]));
    scene.broker.complete(&second.lease, "1").await.unwrap();
    let held: Vec<String> = scene.redis.ask(&["KEYS", "bull:q:d?:*"]).await;
    assert!(held.is_empty(), "{held:?}");
    // The id is free again.
    add(4).await;
    assert_eq!(
        claim_one(&*scene.broker, FIRST.next().next().next())
            .await
            .0
            .payload
            .as_deref(),
        Some(&br#"{"n":4}"#[..])
    );
}

#[tokio::test]
async fn the_queues_own_limits_hold() {
    let scene = NodeScene::set().await;
    scene.node.ask("concurrency", json!({"count": 2})).await;
    for n in 0..6 {
        scene.node.add(&format!("j{n}"), json!({})).await;
    }
    let claimed = scene.broker.claim(FIRST, 9).await.unwrap();
    assert_eq!(claimed.len(), 2);
    assert!(scene.broker.claim(FIRST.next(), 9).await.unwrap().is_empty());
    // A slot that this worker frees wakes a waiting worker.
    let waiting = tokio::spawn({
        let other = scene.redis.bullmq("q", "other");
        async move { other.wait(Duration::from_secs(3600)).await }
    });
    scene.broker.complete(&claimed[0].lease, "1").await.unwrap();
    assert!(waiting.await.unwrap().unwrap());
    assert_eq!(scene.broker.claim(FIRST.next().next(), 9).await.unwrap().len(), 1);

    let limited = NodeScene::set().await;
    limited
        .node
        .ask("rateLimit", json!({"max": 2, "duration": 300}))
        .await;
    for n in 0..5 {
        limited.node.add(&format!("j{n}"), json!({})).await;
    }
    assert_eq!(limited.broker.claim(FIRST, 9).await.unwrap().len(), 2);
    let mut number = FIRST.next();
    let mut rest = Vec::new();
    while rest.len() < 3 {
        number = number.next();
        assert!(limited.broker.wait(Duration::from_secs(3600)).await.unwrap());
        rest.push(limited.broker.claim(number, 9).await.unwrap().len());
        rest.retain(|n| *n > 0);
        if rest.iter().sum::<usize>() == 3 {
            break;
        }
    }
    assert_eq!(rest, [2, 1], "two in each period");
}

#[tokio::test]
async fn a_schedulers_job_fails_and_says_why() {
    let scene = NodeScene::set().await;
    let running = replica(
        scene.broker.clone(),
        2,
        stumbling(FailureClass::Transient, 0),
        &options(),
    );
    scene
        .node
        .ask("schedule", json!({"id": "nightly", "every": 60_000}))
        .await;
    scene.node.add("1a", json!({})).await;
    scene.node.until("1a", "completed").await;
    let failed = scene.node.event("failed").await;
    assert!(
        failed["failedReason"].as_str().unwrap().contains("job scheduler"),
        "{failed}"
    );
    running.stop().await;
}
