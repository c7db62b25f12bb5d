//! An operator sees each call of a job that cost money, or may have: `job show` and the HTTP API list the same.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Scene};

/// `job show` of the command line.
async fn shown(scene: &Scene, id: &str) -> Value {
    let output = scene.command(&["job", "show", id]).output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_lost_answer_and_a_useless_one_are_listed_with_their_cost() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("ADMIN_API_TOKEN", ADMIN_TOKEN)]).await;
    // The connection breaks before the first answer; the second one is paid for, and refuses the job.
    let faults = scene.simulator.faults();
    faults
        .script(Provider::OpenAi, [Fault::Reset, Fault::Refusal])
        .unwrap();
    let id = worker.enqueue(1).await;
    let over_http = worker.until_status(&id, "failed").await;

    let calls = over_http["paidCalls"].as_array().unwrap();
    let words = |name: &str| -> Vec<&str> { calls.iter().map(|call| call[name].as_str().unwrap()).collect() };
    assert_eq!(words("cameTo"), ["possible", "paid"], "{calls:?}");
    assert_eq!(words("service"), ["openai", "openai"]);
    let [possible, paid] = [0, 1].map(|n| calls[n]["usd"].as_f64().unwrap());
    assert!(possible > paid && paid > 0.0, "{calls:?}");
    assert_eq!(shown(&scene, &id).await["paidCalls"], over_http["paidCalls"]);

    let sums = worker.get("/api/spend?by=type").await.1["spend"].take();
    assert_eq!(
        (&sums["usd"], &sums["possibleUsd"]),
        (&json!(paid), &json!(possible)),
        "{sums}"
    );
}

#[tokio::test]
async fn a_refused_call_is_not_listed_and_a_retry_by_hand_adds_its_own() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[("ADMIN_API_TOKEN", ADMIN_TOKEN)]).await;
    let faults = scene.simulator.faults();
    faults
        .script(Provider::OpenAi, [Fault::status(400), Fault::Refusal])
        .unwrap();
    let id = worker.enqueue(1).await;
    let refused = worker.until_status(&id, "failed").await;
    assert_eq!(refused["paidCalls"], json!([]), "a refusal costs nothing");

    let retry = scene.command(&["job", "retry", &id]).output().await.unwrap();
    assert!(
        retry.status.success(),
        "{}",
        String::from_utf8_lossy(&retry.stderr)
    );
    let paid = crate::support::eventually("the second delivery has paid", async || {
        let job = worker.job(&id).await;
        (job["status"] == "failed" && job["paidCalls"] != json!([])).then(|| job["paidCalls"].clone())
    })
    .await;
    assert_eq!(
        (paid.as_array().unwrap().len(), &paid[0]["cameTo"]),
        (1, &json!("paid")),
        "{paid}"
    );
}
