//! Models that reason, and models that are gone.

use std::time::Duration;

use backend_worker::{
    queue::JobState,
    simulator::{Fault, Provider},
};
use serde_json::{Value, json};

use crate::support::{Scene, eventually};

fn cards() -> String {
    json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" }).to_string()
}

/// Runs so many decks, and returns their results.
async fn decks(scene: &Scene, count: usize, env: &[(&str, &str)]) -> Vec<Value> {
    let usual = [
        ("QUEUES", "ai-jobs=20"),
        ("OPENAI_RATE_LIMIT_RPM", "0"),
        ("OPENAI_MAX_CONCURRENT", "0"),
    ];
    let _worker = scene.worker(&[&usual, env].concat()).await;
    let (data, count) = (cards(), count.to_string());
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", &count])
        .await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    let mut results = Vec::new();
    for id in ids {
        let job = eventually(&format!("{id} has ended"), async || {
            let job = broker.find(&id).await.unwrap()?;
            matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
        })
        .await;
        assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
        results.push(job.result.unwrap());
    }
    results
}

/// Each deck is whole at the first call, whatever the model spends on reasoning.
#[tokio::test]
async fn reasoning_cuts_no_deck_off() {
    let efforts = [
        ("gpt-6-luna", "lowest", 0..=0),
        ("gpt-6-luna", "provider-default", 1000..=3000),
        ("gpt-5-nano", "lowest", 64..=192),
        ("gpt-6-luna", "high", 3000..=9000),
    ];
    for (model, effort, reasoning) in efforts {
        let scene = Scene::set(Duration::ZERO).await;
        let env = [("OPENAI_MODEL", model), ("OPENAI_REASONING_EFFORT", effort)];
        for deck in decks(&scene, 25, &env).await {
            let spent = deck["usage"]["reasoningTokens"].as_u64().unwrap();
            assert!(reasoning.contains(&spent), "{model} {effort}: {spent}");
            assert_eq!(deck["usage"]["calls"], 1, "{model} {effort}");
            assert!(!deck["flashcards"].as_array().unwrap().is_empty());
        }
        assert_eq!(scene.simulator.journal().of(Provider::OpenAi).len(), 25);
    }
}

#[tokio::test]
async fn jobs_go_on_with_the_successor_of_a_model_that_is_gone() {
    let scene = Scene::set(Duration::from_millis(5)).await;
    let gone = Fault::Status {
        status: 404,
        retry_after: None,
        retry_after_ms: None,
        body: None,
    };
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "\"model\":\"gpt-4o-mini\"", gone, None)
        .unwrap();
    let env = [
        ("OPENAI_MODEL", "gpt-4o-mini"),
        ("OPENAI_MODEL_SUCCESSOR", "gpt-6-luna"),
    ];
    for deck in decks(&scene, 40, &env).await {
        assert_eq!(deck["usage"]["model"], "gpt-6-luna");
        assert_eq!(deck["usage"]["reasoningTokens"], 0);
    }
    let refused = scene.simulator.journal().of(Provider::OpenAi).len() - 40;
    assert!(
        (1..=20).contains(&refused),
        "each slot asks for it once at most: {refused}"
    );
    let state: Option<String> = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
    assert!(state.is_none_or(|state| state == "CLOSED"));
    let mut check = scene.command(&["check"]);
    let output = check.envs(env).output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("to the model gpt-6-luna"), "{report}");
    assert!(report.contains("shuts the model down on 2027-01-14"), "{report}");
}
