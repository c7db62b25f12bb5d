//! Streamed answers through a whole worker: cards that are told while they are written, results as without a stream,
//! silence, breaks, and what they cost.

use std::time::Duration;

use backend_worker::{
    queue::{JobSnapshot, JobState},
    simulator::{Fault, Provider},
};
use serde_json::{Value, json};

use crate::support::{Scene, Sse, Worker, eventually};

/// Material with enough terms for a whole deck.
fn cards() -> String {
    let content =
        "Plants turn light water carbon dioxide into sugar oxygen through photosynthesis inside chloroplasts";
    json!({ "content": content, "subject": "Biology", "topic": "Cells", "userId": "u",
            "nativeLanguage": "Spanish", "targetLanguage": "English" })
    .to_string()
}

async fn enqueue(scene: &Scene, queue: &str, count: usize) -> Vec<String> {
    let (data, count) = (cards(), count.to_string());
    let arguments = [
        "generate-flashcards",
        "--data",
        &data,
        "--count",
        &count,
        "--queue",
        queue,
    ];
    scene.enqueue(&arguments).await
}

async fn ended(scene: &Scene, id: &str) -> JobSnapshot {
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually(&format!("{id} has ended"), async || {
        let job = broker.find(id).await.unwrap()?;
        matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
    })
    .await
}

async fn follow(worker: &Worker, id: &str) -> Sse {
    Sse::open(&format!(
        "http://localhost:{}/api/job-events?jobId={id}",
        worker.port
    ))
    .await
}

/// The cards that the events tell, by their index; later ones replace earlier ones.
fn told(events: &[(String, Value)]) -> Vec<Value> {
    let mut cards: Vec<Value> = Vec::new();
    for (_, body) in events.iter().filter(|(name, _)| name == "card") {
        let index = usize::try_from(body["index"].as_u64().unwrap()).unwrap();
        assert!(index <= cards.len(), "{body}");
        match cards.get_mut(index) {
            Some(card) => *card = body["card"].clone(),
            None => cards.push(body["card"].clone()),
        }
    }
    cards
}

/// The replica that tells is not the one that works.
#[tokio::test]
async fn cards_are_told_while_they_are_written() {
    for layout in ["bullmq", "apalis"] {
        let scene = Scene::set(Duration::ZERO).await;
        scene.simulator.set_stream_time(Duration::from_secs(6));
        let queue = format!("{layout}:ai-jobs");
        let queues = format!("{queue}=4");
        let working = scene.worker(&[("QUEUES", &queues)]).await;
        let id = enqueue(&scene, &queue, 1).await.remove(0);
        scene
            .simulator
            .journal()
            .wait_until(|journal| journal.counts(Provider::OpenAi).current == 1)
            .await;
        let telling = scene.worker(&[("QUEUES", &queues)]).await;
        let mut stream = follow(&telling, &id).await;
        let events = stream.rest().await;
        let (name, completed) = events.last().unwrap();
        assert_eq!(name, "completed", "{layout}: {events:?}");
        let result = &completed["result"]["flashcards"];
        assert_eq!(Value::Array(told(&events)), *result, "{layout}");
        // Most of them come before the end, and progress rises with them.
        let end = events
            .iter()
            .rposition(|(name, body)| name == "progress" && body["progress"] != 100);
        let early = told(&events[..end.unwrap()]).len();
        assert!(early >= 5, "{layout}: {early} cards came early, of {events:?}");
        let progress: Vec<u64> = events
            .iter()
            .filter(|(name, _)| name == "progress")
            .map(|(_, body)| body["progress"].as_u64().unwrap())
            .collect();
        assert!(
            progress.is_sorted() && progress.len() >= 4,
            "{layout}: {progress:?}"
        );
        assert!(
            progress
                .iter()
                .filter(|percent| (11..=95).contains(*percent))
                .count()
                >= 2,
            "{progress:?}"
        );
        drop(working);
    }
}

#[tokio::test]
async fn a_job_that_is_not_followed_writes_no_parts() {
    let scene = Scene::set(Duration::ZERO).await;
    scene.simulator.set_stream_time(Duration::from_secs(3));
    let _worker = scene.worker(&[("QUEUES", "ai-jobs=4")]).await;
    let id = enqueue(&scene, "ai-jobs", 1).await.remove(0);
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually("progress has risen", async || {
        broker
            .find(&id)
            .await
            .unwrap()
            .filter(|job| (11..100).contains(&job.progress))
    })
    .await;
    let keys: Vec<String> = scene.redis.ask(&["KEYS", "*parts*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
    assert_eq!(ended(&scene, &id).await.state, JobState::Completed);
}

/// A provider that takes no `stream` is asked without, and the result is the same to the byte.
#[tokio::test]
async fn a_streamed_result_is_the_one_without_a_stream() {
    let mut results = Vec::new();
    for refused in [None, Some("stream"), Some("stream_options")] {
        let scene = Scene::set(Duration::ZERO).await;
        if let Some(name) = refused {
            let refusal = Fault::RefuseParameter {
                name: name.to_owned(),
            };
            scene
                .simulator
                .faults()
                .on_match(Provider::OpenAi, "", refusal, None)
                .unwrap();
        }
        let _worker = scene.worker(&[("QUEUES", "ai-jobs=4")]).await;
        let id = enqueue(&scene, "ai-jobs", 1).await.remove(0);
        let mut result = ended(&scene, &id).await.result.unwrap();
        assert_eq!(result["usage"]["calls"], 1, "a refusal costs nothing");
        let requests = scene.simulator.journal().of(Provider::OpenAi).len();
        assert_eq!(requests, 1 + usize::from(refused.is_some()));
        if refused == Some("stream_options") {
            assert_eq!(result["usage"]["estimated"], true);
            assert!(result["tokenUsage"].as_u64().unwrap() > 1000);
            // Only what is counted differs.
            let counts = results
                .first()
                .map(|first: &Value| [first["tokenUsage"].clone(), first["usage"].clone()]);
            [result["tokenUsage"], result["usage"]] = counts.unwrap();
        }
        results.push(result);
    }
    assert_eq!(results[0].to_string(), results[1].to_string());
    assert_eq!(results[0].to_string(), results[2].to_string());
}

/// Five calls that a provider has fallen silent in open its breaker.
#[tokio::test]
async fn silence_is_a_failure_of_the_provider() {
    for silence in [
        Fault::Delay { ms: 600_000 },
        Fault::StreamSilence { percent: 0 },
        Fault::StreamSilence { percent: 10 },
    ] {
        let scene = Scene::set(Duration::ZERO).await;
        scene
            .simulator
            .faults()
            .on_match(Provider::OpenAi, "", silence.clone(), None)
            .unwrap();
        let env = [
            ("QUEUES", "ai-jobs=5"),
            ("OPENAI_IDLE_TIMEOUT", "500ms"),
            ("RETRY_MAX_ATTEMPTS", "1"),
        ];
        let worker = scene.worker(&env).await;
        enqueue(&scene, "ai-jobs", 5).await;
        eventually("the breaker is open", async || {
            let state: Option<String> = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
            (state.as_deref() == Some("OPEN")).then_some(())
        })
        .await;
        // The log line of the first failure can follow the fifth's settlement.
        eventually(&format!("the silence after {silence:?} is logged"), async || {
            let log = worker.log().join("");
            log.contains("openai sent nothing for 500ms").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_after_enough_cards_is_a_deck() {
    for broken in [
        Fault::StreamBreak { percent: 60 },
        Fault::StreamError { percent: 60 },
        Fault::StreamSilence { percent: 60 },
        Fault::CutBody,
    ] {
        let scene = Scene::set(Duration::ZERO).await;
        scene
            .simulator
            .faults()
            .script(Provider::OpenAi, [broken.clone()])
            .unwrap();
        let worker = scene
            .worker(&[("QUEUES", "ai-jobs=4"), ("OPENAI_IDLE_TIMEOUT", "500ms")])
            .await;
        let id = enqueue(&scene, "ai-jobs", 1).await.remove(0);
        let job = ended(&scene, &id).await;
        let result = job.result.unwrap();
        let cards = result["flashcards"].as_array().unwrap().len();
        assert!((5..20).contains(&cards), "{broken:?}: {cards}");
        assert_eq!(
            (&result["usage"]["calls"], &result["usage"]["estimated"]),
            (&json!(1), &json!(true)),
            "{broken:?}"
        );
        assert!(
            result["usage"]["costUsd"].as_f64().unwrap() > 0.0,
            "{broken:?}: it is booked"
        );
        assert_eq!(
            scene.simulator.journal().of(Provider::OpenAi).len(),
            1,
            "{broken:?}"
        );
        let failures: Option<u32> = scene.redis.ask(&["GET", "circuit:openai:failures"]).await;
        assert_eq!(
            failures,
            Some(1),
            "{broken:?}: the provider has failed nevertheless"
        );
        assert!(
            worker.log().join("").contains("broke off its answer behind"),
            "{broken:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_breaks_early_is_tried_again() {
    let scene = Scene::set(Duration::ZERO).await;
    scene
        .simulator
        .faults()
        .script(Provider::OpenAi, [Fault::StreamBreak { percent: 10 }])
        .unwrap();
    let _worker = scene.worker(&[("QUEUES", "ai-jobs=4")]).await;
    let id = enqueue(&scene, "ai-jobs", 1).await.remove(0);
    let result = ended(&scene, &id).await.result.unwrap();
    assert_eq!(result["usage"].get("estimated"), None, "{result}");
    assert_eq!(scene.simulator.journal().of(Provider::OpenAi).len(), 2);
}

#[tokio::test]
async fn what_a_provider_does_not_count_is_estimated_and_booked() {
    let scene = Scene::set(Duration::ZERO).await;
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::NoUsage, None)
        .unwrap();
    let _worker = scene.worker(&[("QUEUES", "ai-jobs=4")]).await;
    let id = enqueue(&scene, "ai-jobs", 1).await.remove(0);
    let usage = ended(&scene, &id).await.result.unwrap()["usage"].clone();
    assert_eq!(usage["estimated"], true, "{usage}");
    let [prompt, completion] = ["promptTokens", "completionTokens"].map(|name| usage[name].as_u64().unwrap());
    assert!(prompt > 300 && (500..5000).contains(&completion), "{usage}");
    let booked: Vec<(String, Vec<String>)> = scene.redis.ask(&["XRANGE", "usage", "-", "+"]).await;
    let fields = &booked.last().unwrap().1;
    let field = |name: &str| {
        fields
            .iter()
            .skip_while(|field| *field != name)
            .nth(1)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (field("kind"), field("completionTokens")),
        ("paid".to_owned(), completion.to_string())
    );
}
