//! The cheaper tier of a provider: who asks for it, and what becomes of a call that is refused or late.

use std::time::Duration;

use backend_worker::{
    queue::JobState,
    simulator::{Fault, Provider},
    spending::{Budgets, Usd, accounts::SpendAccounts},
};
use serde_json::{Value, json};

use crate::support::{Scene, eventually};

const FLEX: &str = "\"service_tier\":\"flex\"";

fn cards() -> String {
    json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" }).to_string()
}

/// Adds a job of BullMQ with these options, as a producer of that library does.
async fn add(scene: &Scene, queue: &str, id: &str, options: Value) {
    let key = format!("bull:{queue}:{id}");
    let (data, options) = (cards(), options.to_string());
    let fields = [
        "HSET",
        &key,
        "name",
        "generate-flashcards",
        "data",
        &data,
        "opts",
        &options,
        "timestamp",
        "1",
        "delay",
        "0",
        "priority",
        "0",
    ];
    scene.redis.ask::<u64>(&fields).await;
    let wait = format!("bull:{queue}:wait");
    scene.redis.ask::<u64>(&["LPUSH", &wait, id]).await;
    scene
        .redis
        .ask::<u64>(&["ZADD", &format!("bull:{queue}:marker"), "0", "0"])
        .await;
}

/// The result of a job that has completed at its first attempt.
async fn result(scene: &Scene, queue: &str, id: &str) -> Value {
    let broker = scene.redis.bullmq(queue, "onlooker");
    let job = eventually(&format!("{id} has ended"), async || {
        let job = broker.find(id).await.unwrap()?;
        matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
    })
    .await;
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    assert!(job.history.is_empty(), "{:?}", job.history);
    job.result.unwrap()
}

/// The tiers that were billed, and what was billed, USD.
fn billed(scene: &Scene) -> (Vec<String>, f64) {
    let bills = scene.simulator.journal().of(Provider::OpenAi).into_iter();
    let bills: Vec<_> = bills.filter_map(|entry| entry.bill).collect();
    let usd = bills.iter().filter_map(|bill| bill.usd).sum();
    (bills.into_iter().map(|bill| bill.tier).collect(), usd)
}

/// The bookings as paid and as possibly paid, call by call, billionths of a dollar.
async fn booked(scene: &Scene) -> (Vec<u64>, Vec<u64>) {
    let entries: Vec<(String, Vec<String>)> = scene.redis.ask(&["XRANGE", "usage", "-", "+"]).await;
    let (mut paid, mut possible) = (Vec::new(), Vec::new());
    for (_, fields) in entries {
        let field = |name: &str| {
            let at = fields.iter().position(|field| field == name).unwrap();
            fields[at + 1].as_str()
        };
        let amount = field("nanoUsd").parse().unwrap();
        match field("kind") {
            "paid" => paid.push(amount),
            "possible" => possible.push(amount),
            other => panic!("{other}"),
        }
    }
    (paid, possible)
}

/// A call that is lost for good does not forbid the usual tier: the operator forbids to repeat a call, not to make it.
#[tokio::test]
async fn a_late_tier_does_not_count_as_a_call_of_unknown_answer() {
    let scene = Scene::set(Duration::ZERO).await;
    let late = Fault::Delay { ms: 600_000 };
    let faults = scene.simulator.faults();
    faults.on_match(Provider::OpenAi, FLEX, late, None).unwrap();
    let env = [
        ("FLEX_TIMEOUT", "200ms"),
        ("UNKNOWN_CALL", "fail"),
        ("FLEX_QUEUES", "ai-jobs"),
    ];
    let _worker = scene.worker(&env).await;
    for id in ["one", "two"] {
        add(&scene, "ai-jobs", id, json!({ "attempts": 1 })).await;
    }
    for id in ["one", "two"] {
        result(&scene, "ai-jobs", id).await;
    }
    let (paid, possible) = booked(&scene).await;
    assert_eq!((paid.len(), possible.len()), (2, 2));
}

#[tokio::test]
async fn the_producer_the_priority_and_the_queue_choose_the_tier() {
    let scene = Scene::set(Duration::ZERO).await;
    let env = [
        ("QUEUES", "bullmq:ai-jobs,bullmq:bulk-jobs"),
        ("FLEX_QUEUES", "bulk-jobs"),
        ("FLEX_FROM_PRIORITY", "50"),
    ];
    let _worker = scene.worker(&env).await;
    let rows = [
        ("ai-jobs", json!({}), "default"),
        ("ai-jobs", json!({ "serviceTier": "flex" }), "flex"),
        ("ai-jobs", json!({ "priority": 49 }), "default"),
        ("ai-jobs", json!({ "priority": 50 }), "flex"),
        (
            "ai-jobs",
            json!({ "priority": 50, "serviceTier": "standard" }),
            "default",
        ),
        ("bulk-jobs", json!({}), "flex"),
        ("bulk-jobs", json!({ "serviceTier": "default" }), "default"),
    ];
    let mut told = 0.0;
    for (index, (queue, options, tier)) in rows.into_iter().enumerate() {
        let id = format!("job-{index}");
        add(&scene, queue, &id, options.clone()).await;
        let result = result(&scene, queue, &id).await;
        told += result["usage"]["costUsd"].as_f64().unwrap();
        assert_eq!(billed(&scene).0.last().unwrap(), tier, "{queue} {options}");
    }
    let (tiers, usd) = billed(&scene);
    assert_eq!(tiers.len(), 7, "one call each");
    // Money is booked in whole nanodollars, rounded up for each call.
    assert!((told - usd).abs() < 1e-7, "{told} told, {usd} billed");
}

/// A tier that is refused throttles nothing, opens nothing and loses no attempt: the usual one answers in the same call.
#[tokio::test]
async fn a_refused_tier_is_answered_by_the_usual_one() {
    for (status, body) in [
        (
            429,
            r#"{"error":{"message":"Resource unavailable","type":"resource_unavailable","code":"resource_unavailable"}}"#,
        ),
        (
            498,
            r#"{"error":{"message":"Flex tier capacity exceeded","type":"flex","code":"capacity_exceeded"}}"#,
        ),
        (503, ""),
    ] {
        let scene = Scene::set(Duration::ZERO).await;
        let refused = Fault::Status {
            status,
            retry_after: Some(30.0),
            retry_after_ms: None,
            body: Some(body.to_owned()),
        };
        let faults = scene.simulator.faults();
        faults.on_match(Provider::OpenAi, FLEX, refused, None).unwrap();
        let _worker = scene
            .worker(&[("FLEX_QUEUES", "ai-jobs"), ("OPENAI_BREAKER_FAILURES", "1")])
            .await;
        for index in 0..20 {
            add(
                &scene,
                "ai-jobs",
                &format!("job-{index}"),
                json!({ "attempts": 1 }),
            )
            .await;
        }
        for index in 0..20 {
            result(&scene, "ai-jobs", &format!("job-{index}")).await;
        }
        assert_eq!(billed(&scene).0, vec!["default"; 20], "{status}");
        assert_eq!(
            scene.simulator.journal().of(Provider::OpenAi).len(),
            40,
            "{status}"
        );
        let state: Option<String> = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
        assert!(state.is_none_or(|state| state == "CLOSED"), "{status}");
    }
}

/// A call that does not begin is given up in time, and a provider that does not know the tier is asked without it.
#[tokio::test]
async fn a_late_or_unknown_tier_is_answered_by_the_usual_one() {
    let scene = Scene::set(Duration::ZERO).await;
    let faults = scene.simulator.faults();
    let late = Fault::Delay { ms: 600_000 };
    faults.on_match(Provider::OpenAi, FLEX, late, None).unwrap();
    let worker = scene.worker(&[("FLEX_TIMEOUT", "200ms")]).await;
    add(
        &scene,
        "ai-jobs",
        "late",
        json!({ "serviceTier": "flex", "attempts": 1 }),
    )
    .await;
    result(&scene, "ai-jobs", "late").await;
    assert_eq!(billed(&scene).0, ["default"]);
    let (paid, possible) = booked(&scene).await;
    assert_eq!(
        (paid.len(), possible.len()),
        (1, 1),
        "the late call may be billed"
    );
    assert!(
        possible[0] >= paid[0],
        "{possible:?}: an estimate is the most that a call costs, {paid:?}"
    );
    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    let day = accounts.status().await.unwrap().day;
    assert_eq!(day.usd, Usd::from_nanos(paid[0]));
    assert_eq!(day.possible_usd, Usd::from_nanos(possible[0]), "once");
    eventually("nothing stays reserved", async || {
        let reserved = accounts.status().await.unwrap().reserved_usd;
        (reserved == Usd::default()).then_some(())
    })
    .await;
    drop(worker);

    let scene = Scene::set(Duration::ZERO).await;
    let unknown = Fault::Status {
        status: 400,
        retry_after: None,
        retry_after_ms: None,
        body: Some(
            r#"{"error":{"message":"Unrecognized request argument supplied: service_tier","param":"service_tier","code":"unknown_parameter"}}"#
                .to_owned(),
        ),
    };
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "service_tier", unknown, None)
        .unwrap();
    let _worker = scene.worker(&[]).await;
    for id in ["one", "two"] {
        add(
            &scene,
            "ai-jobs",
            id,
            json!({ "serviceTier": "flex", "attempts": 1 }),
        )
        .await;
        result(&scene, "ai-jobs", id).await;
    }
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        3,
        "the second job is asked without it at once"
    );
}
