//! Decks of flashcards through a whole replica: every answer of the corpus, the language pairs of the contract, and
//! what useless answers cost.

use jobs::generate_flashcards::{Payload, contract::violations};
use serde::Deserialize;

use super::*;
use backend_worker::{
    queue::{RetryOrder, RetryResult},
    simulator::DeckFlaw,
};

/// The provider answers of `jobs/generate_flashcards/tests`, each with its result.
const CORPUS: &str = include_str!("../../../jobs/generate_flashcards/tests/corpus.json");

#[derive(Deserialize)]
struct Case {
    name: String,
    payload: Value,
    answers: Vec<String>,
    calls: usize,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    failure: Option<String>,
}

fn body(body: &str) -> Fault {
    Fault::Status {
        status: 200,
        retry_after: None,
        retry_after_ms: None,
        body: Some(body.to_owned()),
    }
}

fn with(change: &Value) -> Value {
    let mut payload = cards("Cells are the smallest unit of life.");
    payload
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    payload
}

/// A replica with the breaker at its defaults.
async fn scene() -> Scene {
    Scene::set_with(&[("OPENAI_BREAKER_FAILURES", "5"), ("OPENAI_MODEL", "gpt-4o-mini")]).await
}

/// The breaker has seen no failure.
async fn expect_closed(scene: &Scene) {
    let state: Option<String> = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
    assert!(
        state.as_deref().is_none_or(|state| state == "CLOSED"),
        "{state:?}"
    );
    let failures: Option<u32> = scene.redis.ask(&["GET", "circuit:openai:failures"]).await;
    assert_eq!(failures.unwrap_or_default(), 0);
}

/// The next answers of OpenAI are decks with this flaw.
fn script_decks(scene: &Scene, flaw: DeckFlaw, times: usize) {
    let faults = vec![Fault::Deck { flaw }; times];
    scene.simulator.faults().script(Provider::OpenAi, faults).unwrap();
}

#[tokio::test]
async fn every_answer_of_the_corpus_has_its_result_and_its_price() {
    let scene = scene().await;
    let cases: Vec<Case> = serde_json::from_str(CORPUS).unwrap();
    for (n, case) in cases.iter().enumerate() {
        let before = scene.requests(Provider::OpenAi);
        let answers = case.answers.iter().map(|answer| body(answer));
        scene
            .simulator
            .faults()
            .script(Provider::OpenAi, answers)
            .unwrap();
        let view = scene
            .run(&n.to_string(), JobType::GenerateFlashcards, with(&case.payload))
            .await;
        match (&case.result, &case.failure) {
            (Some(right), None) => {
                let mut result = done(&view).clone();
                // tests/integration/spending.rs looks at the cost.
                let cost = result["usage"]
                    .as_object_mut()
                    .and_then(|usage| usage.remove("costUsd"));
                assert!(cost.is_some(), "{}", case.name);
                // The client estimates what the provider has not counted; the corpus knows of no client.
                if result["usage"]["estimated"] == true {
                    for counts in ["tokenUsage", "usage"] {
                        result[counts] = right[counts].clone();
                    }
                }
                assert_eq!(&result, right, "{}", case.name);
            }
            (None, Some(right)) => {
                let reason = failed(&view);
                assert!(
                    reason.starts_with("The study material could not be turned into flashcards. openai: "),
                    "{}: {reason}",
                    case.name
                );
                assert!(reason.ends_with(right), "{}: {reason}", case.name);
            }
            _ => panic!("{} has a result or a failure", case.name),
        }
        assert_eq!(
            scene.requests(Provider::OpenAi) - before,
            case.calls,
            "{}",
            case.name
        );
    }
    expect_closed(&scene).await;
    scene.end().await;
}

#[tokio::test]
async fn twenty_useless_answers_leave_the_breaker_closed() {
    let scene = scene().await;
    script_decks(&scene, DeckFlaw::Prose, 20);
    for n in 0..10 {
        // Attempts of the queue are left, and are not used up on a job that cannot succeed.
        scene
            .enqueue(
                &format!("useless-{n}"),
                JobType::GenerateFlashcards,
                cards("cells"),
                3,
            )
            .await;
    }
    for n in 0..10 {
        let view = scene.ended(&format!("useless-{n}")).await;
        assert!(
            failed(&view).ends_with("it holds no usable flashcard"),
            "{}",
            failed(&view)
        );
        assert_eq!(view.attempts_made, 1);
    }
    assert_eq!(scene.requests(Provider::OpenAi), 20);
    expect_closed(&scene).await;
    done(
        &scene
            .run("good", JobType::GenerateFlashcards, cards("cells"))
            .await,
    );
    scene.end().await;
}

#[tokio::test]
async fn each_language_pair_gets_the_backs_of_the_contract() {
    let scene = scene().await;
    let material = "Las plantas convierten la luz del sol en azúcar y oxígeno.";
    for (n, (native, target, is_translated)) in [
        (Some("English"), Some("Spanish"), true),
        (Some("German"), Some("English"), true),
        (Some("en-GB"), Some("de"), true),
        (Some("English"), Some("English"), false),
        (Some("English"), Some("en-GB"), false),
        (None, None, false),
        (Some("German"), None, false),
        (None, Some("es-MX"), false),
    ]
    .into_iter()
    .enumerate()
    {
        for topic in ["Botánica", "AI Selection"] {
            let payload = with(&json!({
                "content": material, "topic": topic, "nativeLanguage": native, "targetLanguage": target,
            }));
            let id = format!("{n}-{topic}");
            let view = scene.run(&id, JobType::GenerateFlashcards, payload.clone()).await;
            let result = done(&view);
            let payload: Payload = serde_json::from_value(payload).unwrap();
            assert_eq!(violations(&payload, result), [], "{native:?} {target:?} {topic}");
            let cards = result["flashcards"].as_array().unwrap();
            assert!(cards.len() >= 20, "{} cards", cards.len());
            // The simulator writes the backs that the schema of the request asks for.
            let is_definition =
                |card: &Value| card["back"].as_str().unwrap().ends_with("of the study material");
            assert_eq!(
                !cards.iter().any(is_definition),
                is_translated,
                "{native:?} {target:?}"
            );
            assert_eq!(
                cards.iter().all(is_definition),
                !is_translated,
                "{native:?} {target:?}"
            );
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn decks_of_a_careless_model_are_repaired_with_one_call() {
    let scene = scene().await;
    let material = "Plants turn light into sugar, water into oxygen, and soil into leaves.";
    for (flaw, cards) in [
        (DeckFlaw::Few, 6),
        (DeckFlaw::Duplicates, 20),
        (DeckFlaw::NoExamples, 20),
        (DeckFlaw::Capitals, 20),
        (DeckFlaw::Fence, 20),
        (DeckFlaw::Array, 20),
        (DeckFlaw::Reasoning, 20),
        (DeckFlaw::LoneSurrogates, 20),
    ] {
        let before = scene.requests(Provider::OpenAi);
        scene
            .simulator
            .faults()
            .script(Provider::OpenAi, [Fault::Deck { flaw }])
            .unwrap();
        let payload = with(&json!({ "content": material, "count": 20 }));
        let view = scene
            .run(&format!("{flaw:?}"), JobType::GenerateFlashcards, payload.clone())
            .await;
        let result = done(&view);
        let payload: Payload = serde_json::from_value(payload).unwrap();
        assert_eq!(violations(&payload, result), [], "{flaw:?}");
        assert_eq!(result["flashcards"].as_array().unwrap().len(), cards, "{flaw:?}");
        assert_eq!(result["requestedCards"], 20);
        assert_eq!(scene.requests(Provider::OpenAi) - before, 1, "{flaw:?}");
    }
    for flaw in [
        DeckFlaw::Questions,
        DeckFlaw::Sentences,
        DeckFlaw::Empty,
        DeckFlaw::Prose,
    ] {
        scene
            .simulator
            .faults()
            .script(Provider::OpenAi, vec![Fault::Deck { flaw }; 2])
            .unwrap();
        let view = scene
            .run(
                &format!("{flaw:?}"),
                JobType::GenerateFlashcards,
                with(&json!({ "content": material })),
            )
            .await;
        assert!(failed(&view).starts_with("The study material could not be turned into flashcards."));
    }
    expect_closed(&scene).await;
    scene.end().await;
}

#[tokio::test]
async fn a_job_that_an_operator_retries_replaces_its_useless_answer() {
    let scene = scene().await;
    script_decks(&scene, DeckFlaw::Prose, 2);
    failed(
        &scene
            .run("1", JobType::GenerateFlashcards, cards("Cells divide."))
            .await,
    );
    assert_eq!(scene.requests(Provider::OpenAi), 2);
    // Both answers are kept as paid. Without a replacement each retry would fail on them until LEDGER_TTL.
    let order = RetryOrder {
        id: "order",
        by: "operator",
        reset_attempts: false,
    };
    assert_eq!(
        scene.broker.retry(&["1"], &order).await.unwrap(),
        [RetryResult::Done]
    );
    let view = eventually("the retried job is done", async || {
        let view = scene.broker.find("1").await.unwrap()?;
        (view.state == JobState::Completed).then_some(view)
    })
    .await;
    assert_eq!(done(&view)["usage"]["calls"], 1);
    assert_eq!(scene.requests(Provider::OpenAi), 3, "asked for again once");
    scene.end().await;
}
