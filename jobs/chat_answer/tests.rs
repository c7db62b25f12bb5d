use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(body: &str) -> ChatAnswer {
    ChatAnswer::read(serde_json::from_str(body).unwrap())
}

fn text(body: &Value) -> String {
    read(&body.to_string()).text
}

fn with_message(message: &Value) -> Value {
    json!({ "choices": [{ "message": message, "finish_reason": "stop" }] })
}

#[test]
fn the_text_is_found_in_every_shape() {
    let call = json!({ "function": { "name": "deck", "arguments": "the text" } });
    for body in [
        with_message(&json!({ "content": "the text", "refusal": null })),
        with_message(
            &json!({ "content": [{ "type": "text", "text": "the " }, { "type": "text", "text": "text" }] }),
        ),
        with_message(&json!({ "content": [{ "type": "output_text", "text": { "value": "the text" } }] })),
        with_message(&json!({ "content": ["the ", "text"] })),
        with_message(&json!({ "content": [
            { "type": "thinking", "thinking": [{ "type": "text", "text": "hm" }] },
            { "type": "text", "text": "the text" },
        ] })),
        with_message(
            &json!({ "content": [{ "type": "reasoning", "text": "hm" }, { "type": "text", "text": "the text" }] }),
        ),
        with_message(&json!({ "content": null, "tool_calls": [call] })),
        with_message(&json!({ "content": "", "function_call": { "arguments": "the text" } })),
        with_message(
            &json!({ "content": [{ "type": "reasoning", "content": [{ "type": "text", "text": "hm" }] }, "the text"] }),
        ),
        json!({ "choices": [{ "text": "the text" }] }),
        json!({ "choices": [{ "delta": { "content": "the text" } }] }),
        json!({ "choices": [null, { "message": { "content": "the text" } }] }),
        json!({ "choices": [{ "message": { "content": "" } }, { "message": { "content": "the text" } }] }),
        json!({ "content": [{ "type": "text", "text": "the text" }] }),
        json!({ "output": [
            { "type": "reasoning", "summary": [] },
            { "type": "message", "content": [{ "type": "output_text", "text": "the text" }] },
        ] }),
        json!({ "choices": { "message": { "content": "the text" } } }),
        json!({ "message": { "content": "the text" } }),
        json!({ "output_text": "the text" }),
    ] {
        assert_eq!(text(&body), "the text", "{body}");
    }
    // A deck can be in a call although the model has said something, in any of the calls, or card by card.
    let calls = json!([{ "function": { "name": "a", "arguments": "one" } }, { "function": { "name": "b", "arguments": "two" } }]);
    for (content, right) in [
        (json!(null), "one\ntwo"),
        (json!("Here you go."), "Here you go.\none\ntwo"),
    ] {
        let mut body = with_message(&json!({ "content": content, "tool_calls": calls }));
        assert_eq!(text(&body), right);
        body["usage"] = json!({ "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2,
            "prompt_tokens_details": { "cached_tokens": 0 } });
        assert_eq!(text(&body), right);
    }
    // Parsed already, or cards in place of parts: the JSON itself is the text.
    assert_eq!(
        text(&with_message(&json!({ "content": { "a": 1 } }))),
        "{\"a\":1}"
    );
    assert_eq!(
        text(&with_message(&json!({ "content": [{ "front": "a" }] }))),
        "[{\"front\":\"a\"}]"
    );
    let arguments = json!({ "tool_calls": [{ "function": { "arguments": { "a": 1 } } }] });
    assert_eq!(text(&with_message(&arguments)), "{\"a\":1}");
}

#[test]
fn an_answer_without_text_is_empty() {
    for body in [
        json!({}),
        json!([]),
        json!(null),
        json!("text"),
        json!({ "choices": [] }),
        json!({ "choices": null }),
        json!({ "choices": "?" }),
        with_message(&json!({ "content": null })),
        with_message(&json!(7)),
    ] {
        assert_eq!(text(&body), "", "{body}");
    }
    assert!(!read("{\"choices\":[]}").has_choice);
    assert!(read("{\"choices\":[{\"message\":{\"content\":null}}]}").has_choice);
}

#[test]
fn a_refusal_is_read_beside_the_content_and_in_its_parts() {
    for message in [
        json!({ "content": null, "refusal": "no" }),
        json!({ "content": [{ "type": "refusal", "refusal": "no" }] }),
    ] {
        let answer = read(&with_message(&message).to_string());
        assert_eq!(
            (answer.text.as_str(), answer.refusal.as_str()),
            ("", "no"),
            "{message}"
        );
    }
    let output =
        json!({ "output": [{ "type": "message", "content": [{ "type": "refusal", "refusal": "no" }] }] });
    assert_eq!(read(&output.to_string()).refusal, "no");
}

#[test]
fn a_lone_surrogate_costs_no_more_than_its_character() {
    let answer = read(r#"{"model":"\ud83d","choices":[{"message":{"content":"a\ud83db"}}]}"#);
    assert_eq!(
        (answer.text.as_str(), answer.model.as_str()),
        ("a\u{fffd}b", "\u{fffd}")
    );
}

#[test]
fn the_reason_to_stop_is_read_in_any_spelling() {
    for (reason, finish) in [
        (json!("stop"), FinishReason::Other),
        (json!("end_turn"), FinishReason::Other),
        (json!(null), FinishReason::Other),
        (json!(3), FinishReason::Other),
        (json!("length"), FinishReason::Length),
        (json!("MAX_TOKENS"), FinishReason::Length),
        (json!("content_filter"), FinishReason::ContentFilter),
        (json!("SAFETY"), FinishReason::ContentFilter),
    ] {
        let body = json!({ "choices": [{ "message": {}, "finish_reason": reason }] });
        assert_eq!(read(&body.to_string()).finish, finish, "{body}");
    }
}

#[test]
fn tokens_are_counted_in_every_notation() {
    let counts = |usage: Value| {
        let TokenCounts {
            prompt,
            cached,
            completion,
            reasoning,
            total,
            is_estimated: _,
        } = read(&json!({ "usage": usage }).to_string()).tokens;
        [prompt, cached, completion, reasoning, total]
    };
    assert_eq!(
        counts(json!({
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": { "cached_tokens": 64 },
            "completion_tokens_details": { "reasoning_tokens": 20 },
        })),
        [100, 64, 50, 20, 150]
    );
    assert_eq!(
        counts(json!({ "prompt_tokens": "100", "completion_tokens": 50.0, "prompt_cache_hit_tokens": 7 })),
        [100, 7, 50, 0, 150]
    );
    assert_eq!(
        counts(json!({
            "input_tokens": 1, "output_tokens": 2, "input_tokens_details": { "cached_tokens": 1 },
            "output_tokens_details": { "reasoning_tokens": 2 },
        })),
        [1, 1, 2, 2, 3]
    );
    // A total of zero beside tokens is none, and no more tokens come from the cache than there are.
    for usage in [
        json!({ "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0,
            "prompt_tokens_details": { "cached_tokens": 99 } }),
        json!({ "input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 10 }),
    ] {
        assert_eq!(counts(usage), [10, 10, 5, 0, 15]);
    }
    for odd in [
        json!(null),
        json!([]),
        json!({ "prompt_tokens": -1, "completion_tokens": "many", "total_tokens": {} }),
    ] {
        assert_eq!(counts(odd), [0; 5]);
    }
    let most = u64::MAX;
    let mut sum =
        read(&json!({ "usage": { "prompt_tokens": most, "completion_tokens": 1 } }).to_string()).tokens;
    assert_eq!(sum.total, most);
    sum.add(sum);
    assert_eq!(sum.prompt, most);
}

proptest! {
    #[test]
    fn any_json_is_read(content in any::<String>(), reason in any::<Option<String>>(), key in "[a-z_]{0,12}") {
        // A blank content counts as none.
        prop_assume!(content.is_empty() || !content.trim().is_empty());
        let message = json!({ "content": content, (key): [reason] });
        let body = json!({ "choices": [{ "message": message, "finish_reason": reason }] });
        prop_assert_eq!(text(&body), content);
    }
}
