//! Several deployments of the language model: which one a call goes to, and what an outage of the first costs.

use std::time::Duration;

use backend_worker::{
    queue::{JobSnapshot, JobState},
    simulator::{Fault, Provider, RunningSimulator, Simulator, SimulatorOptions},
};
use serde_json::{Value, json};

use crate::support::{Scene, eventually};

/// A second provider, and the variables of a deployment `spare` at it.
async fn spare() -> (RunningSimulator, Vec<(&'static str, String)>) {
    let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), SimulatorOptions::default())
        .await
        .unwrap();
    let env = vec![
        ("QUEUES", "ai-jobs=10".to_owned()),
        ("LLM_DEPLOYMENTS", "main,spare".to_owned()),
        ("LLM_SPARE_BASE_URL", simulator.openai_base_url()),
        ("LLM_SPARE_API_KEY", "sim-openai-key".to_owned()),
        ("OPENAI_BREAKER_OPEN_FOR", "1s".to_owned()),
        ("OPENAI_MODEL", "gpt-6-luna".to_owned()),
    ];
    (simulator.spawn(), env)
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn decks(scene: &Scene, count: usize) -> Vec<JobSnapshot> {
    let cards = json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" });
    let (data, count) = (cards.to_string(), count.to_string());
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", &count])
        .await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    let mut jobs = Vec::new();
    for id in ids {
        let job = eventually(&format!("{id} has ended"), async || {
            let job = broker.find(&id).await.unwrap()?;
            matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
        })
        .await;
        jobs.push(job);
    }
    jobs
}

/// The deployments that have written the decks.
fn deployments(jobs: &[JobSnapshot]) -> Vec<Value> {
    let deployment = |job: &JobSnapshot| {
        assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
        job.result.as_ref().unwrap()["usage"]["deployment"].clone()
    };
    jobs.iter().map(deployment).collect()
}

#[tokio::test]
async fn the_first_deployment_gets_the_calls_while_it_admits_them() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, env) = spare().await;
    let _worker = scene.worker(&borrowed(&env)).await;
    let jobs = decks(&scene, 20).await;
    assert!(deployments(&jobs).iter().all(|name| name == "main"));
    assert!(spare.journal().of(Provider::OpenAi).is_empty());
}

/// No job fails, the breaker of each deployment is its own, and the first gets calls again when it is back.
#[tokio::test]
async fn an_outage_of_the_first_is_bridged_by_the_second() {
    let outages = [
        Fault::status(503),
        Fault::Reset,
        Fault::status(401),
        Fault::Quota,
        Fault::status(404),
        Fault::StreamBreak { percent: 0 },
    ];
    for outage in outages {
        let scene = Scene::set(Duration::from_millis(5)).await;
        let (spare, mut env) = spare().await;
        env.push(("LLM_SPARE_MODEL", "gpt-4o-mini".to_owned()));
        env.push(("OPENAI_MODEL_SUCCESSOR", "none".to_owned()));
        let worker = scene.worker(&borrowed(&env)).await;
        scene
            .simulator
            .faults()
            .on_match(Provider::OpenAi, "", outage.clone(), None)
            .unwrap();
        let during = decks(&scene, 30).await;
        assert!(
            deployments(&during).iter().all(|name| name == "spare"),
            "{outage:?}"
        );
        for job in &during {
            let usage = &job.result.as_ref().unwrap()["usage"];
            assert_eq!(
                usage["model"], "gpt-4o-mini",
                "{outage:?}: its own model is asked"
            );
            assert!(usage["costUsd"].as_f64().unwrap() > 0.0, "{outage:?}");
        }
        let state: Option<String> = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
        assert_ne!(state.as_deref(), Some("CLOSED"), "{outage:?}");
        let spared: Option<String> = scene.redis.ask(&["GET", "circuit:llm-spare:state"]).await;
        assert!(spared.is_none_or(|state| state == "CLOSED"), "{outage:?}");
        let refused = scene.simulator.journal().of(Provider::OpenAi).len();
        assert!(
            refused <= 20,
            "{outage:?}: {refused} calls were made at the broken deployment"
        );
        assert_eq!(
            spare.journal().of(Provider::OpenAi).len(),
            30,
            "{outage:?}: each is paid for once"
        );

        scene.simulator.faults().clear();
        eventually("the first is back", async || {
            let names = deployments(&decks(&scene, 3).await);
            names.contains(&json!("main")).then_some(())
        })
        .await;
        drop(worker);
    }
}

#[tokio::test]
async fn a_full_deployment_is_passed_over_when_the_wait_is_long() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, mut env) = spare().await;
    env.extend([
        ("OPENAI_RATE_LIMIT_RPM", "5".to_owned()),
        ("LLM_SPARE_RATE_LIMIT_RPM", "0".to_owned()),
        ("LLM_FALLBACK_AFTER", "1s".to_owned()),
    ]);
    let _worker = scene.worker(&borrowed(&env)).await;
    let names = deployments(&decks(&scene, 20).await);
    let of = |name: &str| names.iter().filter(|deployment| *deployment == name).count();
    assert_eq!((of("main"), of("spare")), (5, 15));
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        5,
        "its limit holds"
    );
    assert_eq!(spare.journal().of(Provider::OpenAi).len(), 15);
}

#[tokio::test]
async fn shares_spread_the_calls() {
    let scene = Scene::set(Duration::ZERO).await;
    let (_spare, mut env) = spare().await;
    env.extend([
        ("LLM_STRATEGY", "weighted".to_owned()),
        ("LLM_MAIN_WEIGHT", "1".to_owned()),
        ("LLM_SPARE_WEIGHT", "3".to_owned()),
    ]);
    let _worker = scene.worker(&borrowed(&env)).await;
    let names = deployments(&decks(&scene, 60).await);
    let main = names.iter().filter(|name| *name == "main").count();
    assert!((3..=30).contains(&main), "{main} of 60");
}

/// Azure's classic interface, as the first deployment and as another one.
#[tokio::test]
async fn the_classic_interface_of_azure_is_served() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, mut env) = spare().await;
    let root = |url: String| url.trim_end_matches("/v1").to_owned();
    env.extend([
        ("OPENAI_API", "azure".to_owned()),
        ("OPENAI_BASE_URL", root(scene.simulator.openai_base_url())),
        ("LLM_SPARE_API", "azure".to_owned()),
        ("LLM_SPARE_API_VERSION", "2025-01-01".to_owned()),
        ("LLM_SPARE_BASE_URL", root(spare.openai_base_url())),
        ("LLM_STRATEGY", "weighted".to_owned()),
    ]);
    env.retain(|(name, value)| *name != "LLM_SPARE_BASE_URL" || !value.ends_with("/v1"));
    let _worker = scene.worker(&borrowed(&env)).await;
    deployments(&decks(&scene, 20).await);
    for (simulator, version) in [(&*scene.simulator, "2024-10-21"), (&*spare, "2025-01-01")] {
        let asked = simulator.journal().of(Provider::OpenAi);
        let path = format!("/openai/deployments/gpt-6-luna/chat/completions?api-version={version}");
        assert!(
            !asked.is_empty() && asked.iter().all(|entry| entry.path == path),
            "{asked:?}"
        );
    }
}
