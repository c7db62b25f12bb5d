//! Questions with dependent answers, and the answers that a model may write to them.

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::{
    FailureClass,
    testing::{FakeGuard, Script},
};

#[derive(Debug, PartialEq, Deserialize)]
struct Outline {
    headings: Vec<String>,
}

fn schema() -> AnswerSchema {
    AnswerSchema::new("outline", &json!({ "type": "object" }))
}

fn question<'a>(schema: &'a AnswerSchema, user: &'a str) -> ChatQuestion<'a> {
    ChatQuestion {
        step: "outline",
        system: "Write an outline.",
        user,
        schema,
        room: 100,
    }
}

fn answer(content: &str, finish: &str) -> Value {
    json!({
        "model": "m-1",
        "choices": [{ "message": { "content": content }, "finish_reason": finish }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
                   "prompt_tokens_details": { "cached_tokens": 0 } },
    })
}

/// The result, what was used, and the room of each request.
async fn asked(
    answers: Vec<Value>,
    guard: &FakeGuard,
    user: &str,
) -> (Result<Outline, String>, ChatUsage, Vec<u64>) {
    let script = Script::new(answers.into_iter().map(Ok));
    let mut account = TokenAccount::new("m");
    let schema = schema();
    let model = ModelRequest {
        model: "m".to_owned(),
        reasoning_effort: None,
        explicit_cache: false,
        reasoning_room: 0,
    };
    let result = ask_through(
        &model,
        &|request| script.answer(request),
        guard,
        &question(&schema, user),
        &mut account,
    )
    .await
    .map_err(|failure| {
        assert_eq!(failure.class(), FailureClass::Permanent);
        failure.to_string()
    });
    let rooms = script.asked().into_iter().map(|request| {
        let request: Value = serde_json::from_str(request.get()).unwrap();
        request["max_completion_tokens"].as_u64().unwrap()
    });
    (result, account.into_usage(), rooms.collect())
}

#[tokio::test]
async fn an_answer_is_read_with_text_around_it() {
    for text in [
        r#"{"headings":["a"]}"#,
        "Here it is [as asked]:\n```json\n{\"headings\": [\"a\"]}\n``` Good luck {you}!",
        r#"{"note":1} {"headings":["a"]}"#,
    ] {
        let (result, usage, rooms) = asked(vec![answer(text, "stop")], &FakeGuard::default(), "u").await;
        assert_eq!(result.unwrap().headings, ["a"], "{text}");
        assert_eq!((usage.calls, usage.prompt_tokens, &*usage.model), (1, 10, "m-1"));
        assert_eq!(rooms, [100]);
    }
}

#[tokio::test]
async fn an_unusable_answer_is_asked_for_once_more() {
    let good = answer(r#"{"headings":[]}"#, "stop");
    let cut = answer(r#"{"headings":["a"#, "length");
    let (result, usage, rooms) = asked(vec![cut.clone(), good.clone()], &FakeGuard::default(), "u").await;
    assert_eq!(result.unwrap().headings, [""; 0]);
    assert_eq!((usage.calls, usage.completion_tokens), (2, 10));
    assert_eq!(rooms, [100, 200]);

    let (result, _, rooms) = asked(vec![answer("sorry", "stop"), good], &FakeGuard::default(), "u").await;
    assert!(result.is_ok());
    assert_eq!(rooms, [100, 100]);

    let (result, _, _) = asked(vec![cut.clone(), cut], &FakeGuard::default(), "u").await;
    assert_eq!(
        result.unwrap_err(),
        "openai: unusable answer: it was cut off, even with room for 200 tokens"
    );
    let secret = answer("SECRET", "stop");
    let (result, _, _) = asked(vec![secret.clone(), secret], &FakeGuard::default(), "u").await;
    assert_eq!(
        result.unwrap_err(),
        "openai: unusable answer: it does not have the form of \"outline\""
    );
}

#[tokio::test]
async fn a_refusal_is_final_and_its_words_stay_out_of_the_reason() {
    let refusal = json!({ "choices": [{ "message": { "refusal": "SECRET" }, "finish_reason": "stop" }] });
    let (result, usage, rooms) = asked(vec![refusal], &FakeGuard::default(), "u").await;
    assert_eq!(
        result.unwrap_err(),
        "openai: the model refused to write about the material"
    );
    assert_eq!((usage.calls, rooms.len()), (1, 1));
    let (result, _, _) = asked(vec![answer("", "content_filter")], &FakeGuard::default(), "u").await;
    assert_eq!(
        result.unwrap_err(),
        "openai: the content filter stopped the answer"
    );
}

/// A ledger that keys answers by the step alone answers a dependent question with the answer to an older one.
#[tokio::test]
async fn another_question_has_a_step_of_its_own() {
    let guard = FakeGuard::default();
    for (user, first) in [("a", 0), ("b", 1), ("a", 0)] {
        let good = answer(r#"{"headings":[]}"#, "stop");
        asked(vec![good], &guard, user).await.0.unwrap();
        let steps = guard.steps();
        assert_eq!(steps.last(), steps.get(first), "{steps:?}");
        assert!(steps[0].starts_with("outline:") && steps[0].len() == "outline:".len() + 16);
    }
    assert_ne!(guard.steps()[0], guard.steps()[1]);
}
