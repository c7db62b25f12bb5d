//! Endpoints that are compatible with OpenAI, each in its own words: a deck end to end through a whole worker, with the
//! result of any other endpoint, and the tokens that it counts.
//!
//! - `formats`: the endpoints. `stand_in`: a server that sends each byte as they do.

mod formats;
mod stand_in;

use std::time::Duration;

use backend_worker::queue::{JobSnapshot, JobState};
use serde_json::{Value, json};

use self::{
    formats::{ENDPOINTS, Endpoint},
    stand_in::{Answer, Request, StandIn},
};
use crate::support::{Scene, Worker, eventually};

const KEY: &str = "key-of-the-endpoint";

/// Twenty cards as a model writes them, with characters of two to four bytes.
fn deck() -> (String, Value) {
    let terms = [
        ("cell", "célula"),
        ("leaf", "hoja"),
        ("root", "raíz"),
        ("stem", "tallo"),
        ("seed", "semilla"),
        ("fruit", "fruta"),
        ("petal", "pétalo"),
        ("pollen", "polen"),
        ("sugar", "azúcar"),
        ("water", "agua"),
        ("light", "luz"),
        ("oxygen", "oxígeno"),
        ("carbon", "carbono"),
        ("energy", "energía"),
        ("membrane", "membrana"),
        ("nucleus", "núcleo"),
        ("tissue", "tejido"),
        ("organ", "órgano"),
        ("plant", "planta"),
        ("animal", "animal vivo"),
    ];
    let card = |(n, (front, back)): (usize, &(&str, &str))| {
        let level = ["beginner", "intermediate", "expert"][n % 3];
        json!({
            "front": front, "back": back, "topic": "Cells", "difficulty": level,
            "example": format!("“The {front}” is part of life – 光 😀."),
            "pronunciation": format!("/ˈ{front}ː/"),
        })
    };
    let cards: Vec<Value> = terms.iter().enumerate().map(card).collect();
    (json!({ "flashcards": cards }).to_string(), Value::Array(cards))
}

/// A text in parts of a few characters.
fn parts(text: &str) -> Vec<&str> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(5).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &text[*start..end])
        .collect()
}

/// The parameters of a request that an endpoint may refuse.
fn has(request: &Value, parameter: &str) -> bool {
    match parameter {
        "json_schema" | "json_object" => request["response_format"]["type"] == parameter,
        name => request.get(name).is_some(),
    }
}

async fn worker(scene: &Scene, base: &str, env: &[(&str, &str)]) -> Worker {
    let usual = [
        ("QUEUES", "ai-jobs=4"),
        ("OPENAI_BASE_URL", base),
        ("OPENAI_API_KEY", KEY),
        ("OPENAI_MODEL", "gpt-4o-mini"),
    ];
    scene.worker(&[&usual, env].concat()).await
}

async fn run(scene: &Scene) -> JobSnapshot {
    let data = json!({ "content": "Plants and their cells.", "subject": "Biology", "topic": "Cells", "userId": "u",
                       "nativeLanguage": "Spanish", "targetLanguage": "English" });
    let data = data.to_string();
    let id = scene
        .enqueue(&["generate-flashcards", "--data", &data])
        .await
        .remove(0);
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    eventually("the job has ended", async || {
        let job = broker.find(&id).await.unwrap()?;
        matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
    })
    .await
}

async fn write_a_deck(endpoint: &'static Endpoint) {
    let name = endpoint.name;
    let scene = Scene::set(Duration::ZERO).await;
    let (text, cards) = deck();
    let stand_in = StandIn::answering(move |request, _| {
        let refused = endpoint
            .refuses
            .iter()
            .find(|(parameter, ..)| has(&request.body, parameter));
        match refused {
            Some((_, status, body)) => Answer::json(*status, body),
            None => Answer {
                is_chunked: !endpoint.closes,
                ..Answer::events((endpoint.stream)(&parts(&text)))
            },
        }
    })
    .await;
    let base = format!("http://{}{}", stand_in.address, endpoint.base);
    let _worker = worker(&scene, &base, endpoint.env).await;
    let job = run(&scene).await;
    let requests = stand_in.requests();
    let asked: Vec<&Value> = requests
        .iter()
        .map(|request| &request.body["response_format"])
        .collect();
    assert_eq!(
        job.state,
        JobState::Completed,
        "{name}: {:?} {asked:?}",
        job.error
    );
    let result = job.result.unwrap();
    assert_eq!(result["flashcards"], cards, "{name}");
    assert_eq!(requests.len(), endpoint.refuses.len() + 1, "{name}");
    for request in &requests {
        assert_eq!(request.target, endpoint.target, "{name}");
        let is_classic = endpoint.env.contains(&("OPENAI_API", "azure"));
        let (header, key) = match is_classic {
            true => ("api-key", KEY.to_owned()),
            false => ("authorization", format!("Bearer {KEY}")),
        };
        assert_eq!(request.header(header), key, "{name}");
    }
    let usage = &result["usage"];
    assert_eq!(usage["calls"], 1, "{name}: {usage}");
    match endpoint.counts {
        Some((prompt, completion)) => {
            assert_eq!(usage.get("estimated"), None, "{name}: {usage}");
            assert_eq!(usage["promptTokens"], prompt, "{name}: {usage}");
            assert_eq!(usage["completionTokens"], completion, "{name}: {usage}");
        }
        None => assert_eq!(usage["estimated"], true, "{name}: {usage}"),
    }
    // The second job knows what the endpoint takes.
    assert_eq!(run(&scene).await.state, JobState::Completed, "{name}");
    assert_eq!(stand_in.requests().len(), endpoint.refuses.len() + 2, "{name}");
}

/// Each endpoint in a scene of its own, four at a time.
#[tokio::test]
async fn each_endpoint_writes_the_same_deck() {
    use futures_util::StreamExt as _;
    let decks = ENDPOINTS.iter().map(write_a_deck);
    futures_util::stream::iter(decks)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
}

/// An error inside of a stream, and what it means.
struct StreamedError {
    name: &'static str,
    /// The events before the error.
    begins: fn(&[&str]) -> String,
    error: &'static str,
}

fn comments(_: &[&str]) -> String {
    ": OPENROUTER PROCESSING\n\n".to_owned()
}

/// The first part of the deck, too short for a deck of its own.
fn two_cards(parts: &[&str]) -> String {
    let begun = parts[..parts.len() / 10].iter();
    let event = |part: &&str| {
        let choice = json!({ "index": 0, "delta": { "content": part }, "finish_reason": null });
        format!("data: {}\n\n", json!({ "model": "m", "choices": [choice] }))
    };
    begun.map(event).collect()
}

/// Errors after which the same call is made again, and writes the deck.
const PASSING: &[StreamedError] = &[
    StreamedError {
        name: "openrouter, a provider that is gone",
        begins: two_cards,
        error: r#"data: {"id":"gen-1","object":"chat.completion.chunk","created":1796000000,"model":"m","provider":"OpenAI","error":{"code":"server_error","message":"Provider disconnected unexpectedly"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}"#,
    },
    StreamedError {
        name: "openrouter, an error in the choice",
        begins: two_cards,
        error: r#"data: {"id":"gen-1","choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"code":502,"message":"Upstream error"}}]}"#,
    },
    StreamedError {
        name: "openrouter, overloaded before a word",
        begins: comments,
        error: r#"data: {"error":{"code":502,"message":"Provider returned error","metadata":{"provider_name":"X"}}}"#,
    },
    StreamedError {
        name: "an end because of an error that is not told",
        begins: two_cards,
        error: "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\ndata: [DONE]",
    },
    StreamedError {
        name: "openai",
        begins: two_cards,
        error: r#"data: {"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}"#,
    },
    StreamedError {
        name: "groq, a bad sample",
        begins: two_cards,
        error: "event: error\ndata: {\"error\":{\"message\":\"Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.\",\"type\":\"invalid_request_error\",\"code\":\"json_validate_failed\",\"failed_generation\":\"{\",\"status_code\":400}}",
    },
    StreamedError {
        name: "vllm",
        begins: two_cards,
        error: r#"data: {"object":"error","message":"EngineCore encountered an issue.","type":"InternalServerError","param":null,"code":500}"#,
    },
    StreamedError {
        name: "a stream that ends without a word",
        begins: two_cards,
        error: "",
    },
    StreamedError {
        name: "nothing but comments",
        begins: comments,
        error: ": OPENROUTER PROCESSING",
    },
];

async fn recover(case: &'static StreamedError) {
    let name = case.name;
    let scene = Scene::set(Duration::ZERO).await;
    let (text, cards) = deck();
    let stand_in = StandIn::answering(move |_: &Request, before| {
        let parts = parts(&text);
        Answer::events(match before {
            0 => format!("{}{}\n\n", (case.begins)(&parts), case.error),
            _ => (ENDPOINTS[0].stream)(&parts),
        })
    })
    .await;
    let base = format!("http://{}/v1", stand_in.address);
    let _worker = worker(&scene, &base, &[]).await;
    let job = run(&scene).await;
    assert_eq!(job.state, JobState::Completed, "{name}: {:?}", job.error);
    assert_eq!(job.result.unwrap()["flashcards"], cards, "{name}");
    assert_eq!(stand_in.requests().len(), 2, "{name}");
}

#[tokio::test]
async fn an_error_in_a_stream_is_followed_by_another_try() {
    use futures_util::StreamExt as _;
    let runs = PASSING.iter().map(recover);
    futures_util::stream::iter(runs)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
}

/// 402 and 429 in a stream are about the account: the job waits, and nothing is asked again before its time.
#[tokio::test]
async fn a_limit_in_a_stream_is_a_limit() {
    for (error, gate_says) in [
        (
            r#"{"error":{"message":"Rate limit exceeded: free-models-per-min","code":429,"metadata":{"headers":{"X-RateLimit-Reset":"4102444800000"}}}}"#,
            "limit",
        ),
        (
            r#"{"error":{"message":"Insufficient credits","code":402}}"#,
            "credit",
        ),
    ] {
        let scene = Scene::set(Duration::ZERO).await;
        let stand_in =
            StandIn::answering(move |_: &Request, _| Answer::events(format!(": hm\n\ndata: {error}\n\n")))
                .await;
        let base = format!("http://{}/v1", stand_in.address);
        let worker = worker(&scene, &base, &[]).await;
        let data = json!({ "content": "c", "subject": "s", "topic": "t", "userId": "u" }).to_string();
        let id = scene
            .enqueue(&["generate-flashcards", "--data", &data])
            .await
            .remove(0);
        let broker = scene.redis.apalis("ai-jobs", "onlooker");
        eventually("the job waits", async || {
            let job = broker.find(&id).await.unwrap()?;
            assert_ne!(job.state, JobState::Failed, "{gate_says}: {:?}", job.error);
            (job.state == JobState::Delayed).then_some(())
        })
        .await;
        assert_eq!(stand_in.requests().len(), 1, "{gate_says}: {:?}", worker.log());
    }
}
