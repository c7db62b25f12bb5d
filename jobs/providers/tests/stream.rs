//! Streamed answers on real sockets: silence, breaks, and providers that do not stream.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{PATIENT, settings};
use crate::{
    Failure, FailureClass, ProviderReply,
    chat_answer::ChatAnswer,
    providers::{Clients, Dialect, OpenAi, answer_stream::ArrivingAnswer},
    testing::server::{Play, Server, head},
};

/// Short enough for a test, long enough for a slow machine.
const IDLE: Duration = Duration::from_millis(400);

fn openai(server: &Server) -> OpenAi {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut settings = settings(&server.url, PATIENT);
    settings.openai.as_mut().unwrap().idle_timeout = IDLE;
    Clients::new(&settings, None).unwrap().openai.unwrap()
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

fn event(content: &str) -> Vec<u8> {
    let event = json!({ "model": "m", "choices": [{ "index": 0, "delta": { "content": content }, "finish_reason": null }] });
    format!("data: {event}\n\n").into()
}

fn end() -> Vec<u8> {
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let usage =
        json!({ "choices": [], "usage": { "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7 } });
    format!("data: {stop}\n\ndata: {usage}\n\ndata: [DONE]\n\n").into()
}

async fn chat(openai: &OpenAi) -> (Result<ProviderReply, Failure>, Arc<ArrivingAnswer>) {
    let arriving = Arc::new(ArrivingAnswer::default());
    arriving.watch();
    let request = serde_json::value::to_raw_value(&json!({
        "model": "gpt-4o-mini", "messages": [], "response_format": { "type": "json_schema", "json_schema": { "schema": {} } },
    }))
    .unwrap();
    (openai.chat_arriving(&request, &arriving).await, arriving)
}

#[tokio::test]
async fn a_stream_is_asked_for_and_put_together() {
    let parts = vec![[HEAD.as_bytes(), &event("{\"a\":")].concat(), event("1}"), end()];
    let server = Server::start(Play::Drip(parts, Duration::from_millis(20))).await;
    let (reply, arriving) = chat(&openai(&server)).await;
    let reply = reply.unwrap();
    assert_eq!(reply.tokens, Some(7));
    assert_eq!(ChatAnswer::read(&reply.body).text, "{\"a\":1}");
    assert_eq!(arriving.text_from(0), r#"{\"a\":1}"#);
    assert!(arriving.take_partial().is_none());
    let sent: Value = serde_json::from_slice(&server.only_request().body).unwrap();
    assert_eq!(
        (&sent["stream"], &sent["stream_options"]),
        (&json!(true), &json!({ "include_usage": true }))
    );
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_cut_off() {
    for (what, sent) in [
        ("no head", Vec::new()),
        ("a head", HEAD.as_bytes().to_vec()),
        ("a part", [HEAD.as_bytes(), &event("{\"front\"")].concat()),
        (
            "half an answer in one piece",
            [head(200, "", 900), b"{\"choices\":[".to_vec()].concat(),
        ),
    ] {
        let server = Server::start(Play::Hang(sent)).await;
        let (reply, arriving) = chat(&openai(&server)).await;
        let failure = reply.unwrap_err();
        assert_eq!(failure.class(), FailureClass::Transient, "{what}: {failure}");
        assert!(
            failure.to_string().contains("sent nothing for 400ms"),
            "{what}: {failure}"
        );
        assert!(failure.is_answer_lost(), "{what}: it may be billed");
        assert_eq!(arriving.take_partial().is_some(), what == "a part", "{what}");
        server.only_request();
    }
}

#[tokio::test]
async fn what_arrived_of_a_broken_stream_is_kept_with_an_estimate() {
    let begun = [
        HEAD.as_bytes(),
        &event("{\"flashcards\":["),
        &event("{\"front\":\"a\""),
    ]
    .concat();
    let overloaded =
        b"data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":529}}\n\n";
    for (what, play, class) in [
        ("reset", Play::Reset(begun.clone()), FailureClass::Transient),
        ("closed", Play::Write(begun.clone()), FailureClass::Transient),
        (
            "an error",
            Play::Write([&begun, overloaded.as_slice()].concat()),
            FailureClass::Transient,
        ),
    ] {
        let server = Server::start(play).await;
        let (reply, arriving) = chat(&openai(&server)).await;
        let failure = reply.unwrap_err();
        assert_eq!(
            (failure.class(), failure.is_answer_lost()),
            (class, true),
            "{what}: {failure}"
        );
        // A reset may overtake what was sent before it.
        if let Some(partial) = arriving.take_partial() {
            let answer = ChatAnswer::read(&partial);
            assert!(
                "{\"flashcards\":[{\"front\":\"a\"".starts_with(&answer.text),
                "{what}"
            );
            assert!(answer.tokens.is_estimated && answer.tokens.prompt > 20 && answer.tokens.completion > 3);
        } else {
            assert_eq!(what, "reset");
        }
        server.only_request();
    }
}

/// The provider says that the answer is over, and does not end its stream, or breaks it off.
#[tokio::test]
async fn an_answer_that_is_called_finished_is_whole() {
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let stream = [
        HEAD.as_bytes(),
        &event("{\"a\":1}"),
        format!("data: {stop}\n\n").as_bytes(),
    ]
    .concat();
    for play in [Play::Hang(stream.clone()), Play::Write(stream)] {
        let server = Server::start(play).await;
        let reply = chat(&openai(&server)).await.0.unwrap();
        let answer = ChatAnswer::read(&reply.body);
        assert_eq!(answer.text, "{\"a\":1}");
        assert!(answer.tokens.is_estimated);
        server.only_request();
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_an_error_is_not_whole() {
    let failed = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "error" }] });
    let stream = [
        HEAD.as_bytes(),
        &event("{\"a\":"),
        format!("data: {failed}\n\ndata: [DONE]\n\n").as_bytes(),
    ]
    .concat();
    let server = Server::start(Play::Write(stream)).await;
    let (reply, arriving) = chat(&openai(&server)).await;
    let failure = reply.unwrap_err();
    assert_eq!(
        (failure.class(), failure.is_answer_lost()),
        (FailureClass::Transient, true)
    );
    assert!(arriving.take_partial().is_some());
}

#[tokio::test]
async fn an_answer_without_counts_is_estimated_in_either_form() {
    let whole = json!({ "model": "m", "choices": [{ "message": { "content": "{\"a\":1}" }, "finish_reason": "stop" }] });
    let stream = [HEAD.as_bytes(), &event("{\"a\":1}"), b"data: [DONE]\n\n"].concat();
    let mut seen = Vec::new();
    for play in [Play::answer(200, "", whole.to_string()), Play::Write(stream)] {
        let server = Server::start(play).await;
        let reply = chat(&openai(&server)).await.0.unwrap();
        assert_eq!(reply.tokens, None, "the limit keeps its own estimate");
        seen.push(ChatAnswer::read(&reply.body).tokens);
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].is_estimated && seen[0].completion == 3, "{:?}", seen[0]);
}

#[tokio::test]
async fn what_a_provider_does_not_take_of_a_stream_is_left_out() {
    for (refused, text, asked, dialect) in [
        (
            "stream_options",
            r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}"#,
            2,
            "the JSON schema in response_format, without stream_options",
        ),
        (
            "stream_options",
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options","include_usage"],"msg":"Extra inputs are not permitted"}]}"#,
            2,
            "the JSON schema in response_format, without stream_options",
        ),
        (
            "stream",
            r#"{"error":{"message":"Your organization must be verified to stream this model. Please go to: https://platform.openai.com/settings/organization/general and click on Verify Organization.","type":"invalid_request_error","param":"stream","code":"unsupported_value"}}"#,
            2,
            "the JSON schema in response_format, without stream",
        ),
        (
            "stream",
            r#"{"error":{"message":"Streaming is not supported by this deployment.","type":"invalid_request_error"}}"#,
            2,
            "the JSON schema in response_format, without stream",
        ),
    ] {
        let server = Server::answering(move |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            match body.get(refused) {
                Some(_) => Play::answer(400, "", text),
                None => Play::answer(200, "", r#"{"choices":[{"message":{"content":"{}"}}]}"#),
            }
        })
        .await;
        let openai = openai(&server);
        chat(&openai).await.0.unwrap();
        assert_eq!(server.requests().len(), asked, "{text}");
        let last: Value = serde_json::from_slice(&server.requests().pop().unwrap().body).unwrap();
        assert_eq!(last.get("stream_options"), None, "{text}");
        assert_eq!(
            last.get("stream").is_some(),
            refused == "stream_options",
            "{text}"
        );
        assert_eq!(openai.dialect_now().await.to_string(), dialect);
        assert_ne!(openai.dialect_now().await, Dialect::default());
    }
}

/// Nothing arrives before the whole answer: a wait that is right for a stream is too short for it.
#[tokio::test]
async fn a_provider_that_does_not_stream_has_the_whole_time() {
    let answer = r#"{"choices":[{"message":{"content":"{}"}}]}"#;
    let whole = [head(200, "", answer.len()), answer.as_bytes().to_vec()].concat();
    let server = Server::answering(move |request| {
        match String::from_utf8_lossy(&request.body).contains("\"stream\"") {
            true => Play::answer(
                400,
                "",
                r#"{"error":{"message":"x","param":"stream","code":"unsupported_value"}}"#,
            ),
            false => Play::Drip(vec![whole.clone()], 2 * IDLE),
        }
    })
    .await;
    chat(&openai(&server)).await.0.unwrap();
}
