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
    providers::{Clients, Dialect, DialectStore, OpenAi},
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
    assert!(server.requests().len() <= 4, "{}", server.requests().len());
    assert!(store.0.lock().unwrap().is_empty());
}

/// A provider that takes all of it gets it as it was written, byte by byte.
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
    assert_eq!(server.only_request().body, request().to_string().into_bytes());
    assert_eq!(Dialect::parse("no dialect"), None);
}
