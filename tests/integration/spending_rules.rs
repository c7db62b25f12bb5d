//! Money from outside: the settings of budgets and the ledger as they act on jobs, and budgets over HTTP.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{Broker, JobSnapshot, JobState, Layout, NewJob},
    spending::{
        Budgets, Usd,
        accounts::{SpendAccounts, SpendGrouping},
    },
};
use jobs::JobType;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Scene, eventually, raw};

const CARDS: &str = r#"{"content":"The cell divides. Mitosis has four phases.","subject":"Biology","topic":"Cells","userId":"ann"}"#;

async fn enqueue(scene: &Scene, layout: Layout, id: &str) -> Arc<dyn Broker> {
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let payload = raw(CARDS);
    let job = NewJob {
        id,
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
    broker
}

async fn ends(broker: &dyn Broker, id: &str, state: JobState) -> JobSnapshot {
    eventually(&format!("{id} is {state:?}"), async || {
        let view = broker.find(id).await.unwrap().unwrap();
        (view.state == state).then_some(view)
    })
    .await
}

fn accounts(scene: &Scene) -> SpendAccounts {
    SpendAccounts::new(scene.redis.connection(), Budgets::default())
}

fn asked(scene: &Scene) -> usize {
    scene.simulator.journal().entries(0, 100).len()
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn without_a_ledger_calls_are_booked_and_budgets_hold(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let _worker = scene.worker(&[("LEDGER_TTL", "0s")]).await;
    let broker = enqueue(&scene, layout, "first").await;
    let result = ends(&*broker, "first", JobState::Completed).await.result.unwrap();
    let cost = result["usage"]["costUsd"].as_f64().unwrap();
    let report = accounts(&scene).report(None, SpendGrouping::User).await.unwrap();
    assert!(
        cost > 0.0 && (report.usd.dollars() - cost).abs() < 1e-9,
        "{report:?}"
    );
    assert_eq!(report.lines[0].name, "ann");
    let kept: Vec<String> = scene.redis.ask(&["KEYS", "ledger:*"]).await;
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(scene.redis.ask::<u64>(&["XLEN", "usage"]).await, 1);

    // The operator's budget is followed without a ledger, too.
    accounts(&scene)
        .set_month(Some(Usd::from_nanos(1000)))
        .await
        .unwrap();
    enqueue(&scene, layout, "second").await;
    let view = ends(&*broker, "second", JobState::Delayed).await;
    let reason = view.waiting_for.unwrap().reason.unwrap();
    assert!(reason.contains("the budget of the month is used up"), "{reason}");
    accounts(&scene).set_month(None).await.unwrap();
    ends(&*broker, "second", JobState::Completed).await;
    assert_eq!(scene.redis.ask::<u64>(&["EXISTS", "spend:reserved"]).await, 0);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_budget_that_is_used_up_fails_jobs_where_it_is_to(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let env = [("BUDGET_DAILY_USD", "0.000001"), ("BUDGET_EXHAUSTED", "fail")];
    let _worker = scene.worker(&env).await;
    let broker = enqueue(&scene, layout, "over").await;
    let view = ends(&*broker, "over", JobState::Failed).await;
    let reason = view.error.unwrap();
    assert!(reason.contains("the budget of the day is used up"), "{reason}");
    assert_eq!(view.attempts_made, 1, "it is not tried again");
    assert_eq!(asked(&scene), 0, "nothing was sent");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_budget_holds_no_calls_without_a_price(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    // The simulator knows any model of this family, the prices do not.
    let unpriced = ("OPENAI_MODEL", "gpt-4o-unpriced");
    let worker = scene.worker(&[unpriced, ("BUDGET_DAILY_USD", "5")]).await;
    let broker = enqueue(&scene, layout, "mystery").await;
    let view = ends(&*broker, "mystery", JobState::Delayed).await;
    let reason = view.waiting_for.unwrap().reason.unwrap();
    assert!(
        reason.contains("has no price") && reason.contains("UNPRICED_CALLS"),
        "{reason}"
    );
    assert_eq!(asked(&scene), 0, "nothing was sent");
    drop(worker);
    let env = [unpriced, ("BUDGET_DAILY_USD", "5"), ("UNPRICED_CALLS", "allow")];
    let _worker = scene.worker(&env).await;
    let view = ends(&*broker, "mystery", JobState::Completed).await;
    assert_eq!(view.result.unwrap()["usage"]["costUsd"], Value::Null);
    // Without any budget they are made and counted.
    let line = accounts(&scene)
        .report(None, SpendGrouping::Model)
        .await
        .unwrap()
        .lines
        .remove(0);
    assert_eq!((line.unpriced_calls, line.usd), (1, Usd::ZERO));
}

/// The operator's prices take the place of this version's own.
#[tokio::test]
async fn calls_cost_what_the_operators_file_says() {
    let scene = Scene::set(Duration::ZERO).await;
    let path = std::env::temp_dir().join(format!("prices-{}.toml", scene.redis.server.port()));
    let row = |output: &str| {
        format!(
            "[[price]]\nprovider = \"openai\"\nmodels = [\"gpt-*\"]\ntier = \"standard\"\ninput = \"0\"\noutput = \"{output}\"\n\
             currency = \"USD\"\nsource = \"the contract\"\ndate = \"2026-11-30\"\n"
        )
    };
    std::fs::write(&path, row("1000000")).unwrap();
    let file = path.display().to_string();
    let _worker = scene.worker(&[("PRICES_FILE", &file)]).await;
    let broker = enqueue(&scene, Layout::Bullmq, "dear").await;
    let result = ends(&*broker, "dear", JobState::Completed).await.result.unwrap();
    let report = accounts(&scene).report(None, SpendGrouping::Type).await.unwrap();
    let tokens = report.lines[0].completion_tokens;
    assert!(tokens > 0, "{report:?}");
    assert_eq!(report.usd.nanos(), tokens * 1_000_000_000, "a dollar a token");
    assert_eq!(result["usage"]["costUsd"].as_f64(), Some(tokens as f64));

    std::fs::write(&path, row("cheap")).unwrap();
    let output = scene
        .command(&["run"])
        .env("PRICES_FILE", &file)
        .output()
        .await
        .unwrap();
    let told =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("cheap") || told.contains("output"), "{told}");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn budgets_are_set_over_http() {
    let scene = Scene::set(Duration::ZERO).await;
    let token = "an-admin-token-of-32-characters!";
    let worker = scene
        .worker(&[("ADMIN_TOKEN", token), ("ADMIN_FROM_LOOPBACK", "off")])
        .await;
    let client = reqwest::Client::new();
    let post = async |path: &str, token: &str, body: Value| {
        let url = format!("http://localhost:{}{path}", worker.port);
        let answer = client
            .post(url)
            .bearer_auth(token)
            .json(&body)
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap_or_default())
    };
    let (status, _) = post("/api/budget/month", "wrong", json!({"usd": 5})).await;
    assert!(status.is_client_error());
    for (usd, expected) in [(json!(12.5), "12.50"), (json!("7.000000001"), "7.000000001")] {
        let (status, body) = post("/api/budget/month", token, json!({ "usd": usd })).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let limit: String = scene.redis.ask(&["GET", "system:monthly_budget_limit"]).await;
        assert_eq!(limit, expected);
        assert!(body["budget"]["month"]["budgetUsd"].is_number(), "{body}");
    }
    let (status, body) = post("/api/budget/month", token, json!({ "usd": null })).await;
    assert_eq!(
        (status, &body["budget"]["month"]["budgetUsd"]),
        (StatusCode::OK, &Value::Null)
    );

    let path = "/api/budget/students/ann%2Fb";
    assert_eq!(post(path, token, json!({"usd": "3"})).await.0, StatusCode::OK);
    let allowed: Option<u64> = scene.redis.ask(&["HGET", "spend:allowances", "ann/b"]).await;
    assert_eq!(allowed, Some(3_000_000_000));
    assert_eq!(post(path, token, json!({"usd": null})).await.0, StatusCode::OK);
    assert_eq!(scene.redis.ask::<u64>(&["EXISTS", "spend:allowances"]).await, 0);
    let long = format!("/api/budget/students/{}", "x".repeat(129));
    for (path, body) in [
        (path, json!({"usd": -1})),
        (path, json!({"usd": [1]})),
        (path, json!({})),
        (path, json!({"usd": 1, "more": 2})),
        (&*long, json!({"usd": 1})),
        ("/api/budget/month", json!({"usd": "1e9"})),
    ] {
        let (status, answer) = post(path, token, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {answer}");
    }
}
