//! A provider that takes less of the request than OpenAI does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{PATIENT, settings};
use crate::{
    AccountFault,
    providers::{Clients, Dialect, DialectStore, OpenAi, models::ModelSuccessor},
    testing::server::{Play, Request, Server},
};

/// A store as replicas share it.
#[derive(Debug, Default)]
struct Shared(Mutex<HashMap<String, String>>);

#[async_trait]
impl DialectStore for Shared {
    async fn load(&self, deployment: &str) -> Option<String> {
        self.0.lock().unwrap().get(deployment).cloned()
    }

    async fn save(&self, deployment: &str, dialect: &str) {
        self.0
            .lock()
            .unwrap()
            .insert(deployment.to_owned(), dialect.to_owned());
    }
}

fn replica(server: &Server, store: &Arc<Shared>) -> OpenAi {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store: Arc<dyn DialectStore> = store.clone();
    Clients::new(&settings(&server.url, PATIENT), Some(store))
        .unwrap()
        .openai
        .unwrap()
}

fn request() -> Value {
    json!({
        "model": "gpt-4o-mini",
        "messages": [{ "role": "system", "content": "Write cards." }, { "role": "user", "content": "text" }],
        "max_completion_tokens": 4370,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": { "name": "cards", "strict": true, "schema": { "type": "object", "required": ["flashcards"] } },
        },
    })
}

const DECK: &str = r#"{"choices":[{"message":{"content":"{}"},"finish_reason":"stop"}]}"#;

fn sent(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

/// Refuses what it does not take, each in the words of another provider.
async fn strict_provider() -> Server {
    Server::answering(|request| {
        let body = sent(request);
        let refused = |status: u16, text: &str| Play::answer(status, "", text);
        if body.get("max_completion_tokens").is_some() {
            return refused(422, r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted","input":4370}]},"type":"invalid_request_error","param":null,"code":null}"#);
        }
        if body.get("reasoning_effort").is_some() {
            return refused(400, r#"{"code":"Client specified an invalid argument","error":"Model does not support parameter reasoning_effort."}"#);
        }
        match body["response_format"]["type"].as_str() {
            Some("json_schema") => refused(400, r#"{"error":{"message":"This response_format type is unavailable now","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#),
            Some(_) if !body["messages"].to_string().contains("JSON") => {
                refused(400, r#"{"error":{"message":"'messages' must contain the word 'json'","param":"messages"}}"#)
            }
            _ => Play::answer(200, "", DECK),
        }
    })
    .await
}

#[tokio::test]
async fn a_request_is_written_with_what_the_provider_takes() {
    let (server, store) = (strict_provider().await, Arc::new(Shared::default()));
    let openai = replica(&server, &store);
    openai.chat(&request()).await.unwrap();
    let last = sent(server.requests().last().unwrap());
    assert_eq!(last["response_format"], json!({ "type": "json_object" }));
    assert_eq!(
        (&last["max_tokens"], last.get("max_completion_tokens")),
        (&json!(4370), None)
    );
    assert_eq!(last.get("reasoning_effort"), None);
    let instructions = last["messages"][0]["content"].as_str().unwrap();
    assert!(
        instructions.starts_with("Write cards.") && instructions.contains(r#""required":["flashcards"]"#),
        "{instructions}"
    );
    assert_eq!(last["messages"][1], request()["messages"][1]);
    // Three refusals, one answer. From then on each call is one request, in this replica and in a new one.
    assert_eq!(server.requests().len(), 4);
    openai.chat(&request()).await.unwrap();
    replica(&server, &store).chat(&request()).await.unwrap();
    assert_eq!(server.requests().len(), 6);
    let known = store.0.lock().unwrap().values().next().cloned().unwrap();
    let known = Dialect::parse(&known).unwrap();
    assert_eq!(
        known.to_string(),
        "response_format json_object and the schema in the instructions, max_tokens, without reasoning_effort"
    );
}

/// Calls that are refused together find it out once.
#[tokio::test]
async fn one_call_finds_out_for_all() {
    let (server, store) = (strict_provider().await, Arc::new(Shared::default()));
    let openai = replica(&server, &store);
    let request = request();
    let calls = futures_util::future::join_all((0..5).map(|_| openai.chat(&request))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    let refused = server.requests().len() - 5;
    assert!((3..=5 + 2).contains(&refused), "{refused} refusals");
}

#[tokio::test]
async fn a_form_that_no_response_format_can_ask_for_stands_in_the_instructions() {
    let server = Server::answering(|request| match sent(request).get("response_format") {
        Some(_) => Play::answer(
            400,
            "",
            r#"{"error":{"message":"Invalid input","param":"response_format"}}"#,
        ),
        None => Play::answer(200, "", DECK),
    })
    .await;
    replica(&server, &Arc::default()).chat(&request()).await.unwrap();
    assert_eq!(server.requests().len(), 3);
    let last = sent(server.requests().last().unwrap());
    assert!(
        last["messages"][0]["content"]
            .as_str()
            .unwrap()
            .contains("JSON schema")
    );
    assert_eq!(last["max_completion_tokens"], 4370);
}

/// What no step helps with stays a fault of the deployment, and nothing is remembered.
#[tokio::test]
async fn a_refusal_that_no_step_helps_with_ends() {
    let body = r#"{"error":{"message":"Unsupported parameter: 'messages'","code":"unsupported_parameter"}}"#;
    let (server, store) = (
        Server::start(Play::answer(400, "", body)).await,
        Arc::new(Shared::default()),
    );
    let failure = replica(&server, &store).chat(&request()).await.unwrap_err();
    assert_eq!(failure.account_fault(), Some(AccountFault::Parameter));
    assert!(server.requests().len() <= 5, "{}", server.requests().len());
    assert!(store.0.lock().unwrap().is_empty());
}

/// A provider that takes all of it gets it as it was written, byte by byte, and behind it what asks for a stream.
#[tokio::test]
async fn a_whole_request_is_not_touched() {
    let server = Server::start(Play::answer(200, "", DECK)).await;
    let store = Arc::new(Shared::default());
    store
        .0
        .lock()
        .unwrap()
        .insert("x".to_owned(), "no dialect".to_owned());
    replica(&server, &store).chat(&request()).await.unwrap();
    let written = request().to_string();
    let members = written.strip_suffix('}').unwrap();
    let with_stream = format!(r#"{members},"stream":true,"stream_options":{{"include_usage":true}}}}"#);
    assert_eq!(
        String::from_utf8(server.only_request().body).unwrap(),
        with_stream
    );
    assert_eq!(Dialect::parse("no dialect"), None);
}

/// As OpenAI answers for a model that it has shut down.
const NO_MODEL: &str = r#"{"error":{"message":"The model `gpt-4o-mini` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#;

/// A provider that has shut `gpt-4o-mini` down, and whose other models take no effort of `none`.
async fn provider_without_the_model() -> Server {
    Server::answering(|request| {
        let body = sent(request);
        if body["model"] == "gpt-4o-mini" {
            return Play::answer(404, "", NO_MODEL);
        }
        if body["reasoning_effort"] == "none" {
            return Play::answer(400, "", r#"{"error":{"message":"Unsupported value: 'reasoning_effort' does not support 'none' with this model.","type":"invalid_request_error","param":"reasoning_effort","code":"unsupported_value"}}"#);
        }
        Play::answer(200, "", DECK)
    })
    .await
}

fn replica_with(server: &Server, store: &Arc<Shared>, successor: ModelSuccessor) -> OpenAi {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store: Arc<dyn DialectStore> = store.clone();
    let mut settings = settings(&server.url, PATIENT);
    settings.openai.as_mut().unwrap().successor = successor;
    Clients::new(&settings, Some(store)).unwrap().openai.unwrap()
}

#[tokio::test]
async fn a_model_that_is_gone_is_replaced_by_its_successor() {
    let (server, store) = (provider_without_the_model().await, Arc::new(Shared::default()));
    let luna = ModelSuccessor::Model("gpt-6-luna".to_owned());
    let openai = replica_with(&server, &store, luna.clone());
    openai.chat(&request()).await.unwrap();
    let last = sent(server.requests().last().unwrap());
    assert_eq!(last["model"], "gpt-6-luna");
    assert_eq!(last["prompt_cache_options"], json!({ "mode": "explicit" }));
    assert_eq!(last.get("reasoning_effort"), None);
    assert_eq!(last["response_format"], request()["response_format"]);
    // The old name, the new one, and the new one without an effort; from then on one request a call in the whole fleet.
    assert_eq!(server.requests().len(), 3);
    openai.chat(&request()).await.unwrap();
    replica_with(&server, &store, luna)
        .chat(&request())
        .await
        .unwrap();
    assert_eq!(server.requests().len(), 5);
    let known = store.0.lock().unwrap().values().next().cloned().unwrap();
    assert_eq!(
        Dialect::parse(&known).unwrap().to_string(),
        "the JSON schema in response_format, without reasoning_effort, to the model gpt-6-luna"
    );
}

#[tokio::test]
async fn a_model_that_is_gone_without_a_successor_is_the_deployments_fault() {
    let (server, store) = (provider_without_the_model().await, Arc::new(Shared::default()));
    // The table knows when OpenAI shuts it down, not when this address does.
    for successor in [
        ModelSuccessor::None,
        ModelSuccessor::Recommended,
        ModelSuccessor::Model("gpt-4o-mini".to_owned()),
    ] {
        let failure = replica_with(&server, &store, successor).chat(&request()).await;
        assert_eq!(failure.unwrap_err().account_fault(), Some(AccountFault::Model));
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn reasoning_that_was_seen_gets_its_room() {
    let server = Server::answering(|_| {
        Play::answer(200, "", r#"{"choices":[],"usage":{"total_tokens":9,"completion_tokens_details":{"reasoning_tokens":2000}}}"#)
    })
    .await;
    let openai = replica(&server, &Arc::new(Shared::default()));
    assert_eq!(openai.model().reasoning_room, 0);
    openai.chat(&request()).await.unwrap();
    assert_eq!(openai.model().reasoning_room, 2_500);
}
