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

/// Prints the figures of `docs/models.md`: decks that were cut off, and the cost of a thousand decks.
#[tokio::test]
#[ignore = "a measurement of a minute, not a test"]
async fn a_thousand_decks_of_a_model_that_reasons() {
    let settings = [
        ("gpt-4o-mini", "lowest"),
        ("gpt-6-luna", "lowest"),
        ("gpt-6-luna", "provider-default"),
    ];
    for (model, effort) in settings {
        let scene = Scene::set(Duration::ZERO).await;
        let env = [("OPENAI_MODEL", model), ("OPENAI_REASONING_EFFORT", effort)];
        let (mut cut_off, mut usd, mut tokens) = (0, 0.0, [0; 3]);
        for deck in decks(&scene, 1000, &env).await {
            let usage = &deck["usage"];
            // A deck that was cut off is asked for once more.
            cut_off += u32::from(usage["calls"] != 1);
            usd += usage["costUsd"].as_f64().unwrap();
            for (sum, name) in tokens
                .iter_mut()
                .zip(["promptTokens", "completionTokens", "reasoningTokens"])
            {
                *sum += usage[name].as_u64().unwrap();
            }
        }
        let [prompt, completion, reasoning] = tokens.map(|sum| sum / 1000);
        println!(
            "{model}, {effort}: {cut_off} of 1000 cut off, {usd:.2} USD; tokens of a deck: {prompt} in, {completion} out, of these {reasoning} reasoning"
        );
        assert_eq!(cut_off, 0);
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

/// The service that reads images ends as a model does: `check` and the gauge tell of the day.
#[tokio::test]
async fn the_end_of_the_service_that_reads_images_is_told() {
    let scene = Scene::set(Duration::ZERO).await;
    let in_twenty_days = std::time::SystemTime::now() + Duration::from_hours(20 * 24);
    let day = humantime::format_rfc3339_seconds(in_twenty_days).to_string()[..10].to_owned();
    let table = std::env::temp_dir().join(format!("models-{}.toml", std::process::id()));
    let row = format!(
        "[[shutdown]]\nhost = \"127.0.0.1\"\nmodels = [\"read-3.2\"]\ndate = \"{day}\"\n\
         successor = \"document-intelligence\"\nsource = \"this test\"\n"
    );
    std::fs::write(&table, row).unwrap();
    let table = table.to_str().unwrap();

    let report = async |api: &str| {
        let env = [("MODELS_FILE", table), ("AZURE_VISION_API", api)];
        let output = scene.command(&["check"]).envs(env).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = report("3.2").await;
    assert!(
        told.contains(&format!("it shuts the service that reads images down on {day}")),
        "{told}"
    );
    assert!(
        told.contains("set AZURE_VISION_API to document-intelligence"),
        "{told}"
    );
    for api in ["4.0", "document-intelligence"] {
        let told = report(api).await;
        assert!(!told.contains("that reads images"), "{told}");
    }

    let worker = scene
        .worker(&[("MODELS_FILE", table), ("AZURE_VISION_API", "3.2")])
        .await;
    let metrics = reqwest::get(format!("http://127.0.0.1:{}/metrics", worker.port))
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let begins = humantime::parse_rfc3339(&format!("{day}T00:00:00Z")).unwrap();
    let begins = begins.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let gauge =
        format!("backend_worker_model_shutdown_timestamp_seconds{{provider=\"azure-vision\"}} {begins}\n");
    assert!(metrics.contains(&gauge), "{metrics}");
    std::fs::remove_file(table).unwrap();
}
