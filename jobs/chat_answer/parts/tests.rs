use serde_json::{json, value::RawValue};

use super::{super::ChatAnswer, *};

/// The answer that these events make.
fn answer(events: &[serde_json::Value]) -> ChatAnswer {
    let mut parts = AnswerParts::default();
    for event in events {
        parts.push(&event.to_string());
    }
    let body: Box<RawValue> = serde_json::from_str(&parts.into_body()).unwrap();
    ChatAnswer::read(&body)
}

fn delta(delta: serde_json::Value) -> serde_json::Value {
    json!({ "id": "c", "model": "m-1", "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
}

fn text(text: &str) -> serde_json::Value {
    delta(json!({ "content": text }))
}

#[test]
fn parts_of_every_form_make_one_text() {
    let forms = [
        vec![
            delta(json!({ "role": "assistant", "content": "" })),
            text("[1"),
            text(",2"),
            text("]"),
        ],
        // The text of a tool's call.
        vec![
            delta(json!({ "tool_calls": [{ "index": 0, "function": { "name": "deck", "arguments": "" } }] })),
            delta(json!({ "tool_calls": [{ "index": 0, "function": { "arguments": "[1," } }] })),
            delta(json!({ "tool_calls": [{ "index": 0, "function": { "arguments": "2]" } }] })),
        ],
        vec![
            delta(json!({ "function_call": { "name": "deck", "arguments": "[1,2" } })),
            delta(json!({ "function_call": { "arguments": "]" } })),
        ],
        // Parts of a content, reasoning among them.
        vec![
            delta(json!({ "content": [] })),
            delta(
                json!({ "content": [{ "type": "thinking", "thinking": [{ "type": "text", "text": "hm" }] }] }),
            ),
            delta(json!({ "content": [{ "type": "text", "text": "[1,2" }] })),
            text("]"),
        ],
        vec![
            delta(json!({ "reasoning_content": "hm, [3]" })),
            delta(json!({ "reasoning": "[4]", "content": "[1," })),
            text("2]"),
        ],
        // The old form of completions, and a whole message at the end.
        vec![
            json!({ "choices": [{ "index": 0, "text": "[1,2" }] }),
            json!({ "choices": [{ "text": "]" }] }),
        ],
        vec![json!({ "choices": [{ "index": 0, "message": { "content": "[1,2]" } }] })],
        vec![
            text("[1,2]"),
            json!({ "choices": [{ "index": 0, "message": { "content": "[1,2]" } }] }),
        ],
        vec![json!([text("[1,2")]), json!([text("]")])],
        // Both places hold the same part.
        vec![
            json!({ "choices": [{ "index": 0, "text": "[1,", "delta": { "content": "[1," } }] }),
            json!({ "choices": [{ "index": 0, "text": "2]", "delta": { "content": "2]" } }] }),
            json!({ "choices": [{ "index": 0, "text": "", "delta": { "content": "" }, "finish_reason": "eos" }] }),
        ],
    ];
    for events in forms {
        assert_eq!(answer(&events).text.trim(), "[1,2]", "{events:?}");
    }
}

#[test]
fn the_end_says_why_and_how_many_tokens() {
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 });
    for counted in [
        json!({ "choices": [], "usage": usage }),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": null }], "usage": usage }),
        json!({ "choices": [], "x_groq": { "id": "r", "usage": usage } }),
    ] {
        let events = [
            text("[1"),
            json!({ "usage": null, "choices": [{ "index": 0, "delta": {}, "finish_reason": "length" }] }),
            counted.clone(),
        ];
        let answer = answer(&events);
        assert_eq!(
            (answer.finish, answer.model.as_str()),
            (super::super::FinishReason::Length, "m-1")
        );
        assert_eq!(
            (answer.tokens.prompt, answer.tokens.completion),
            (7, 3),
            "{counted}"
        );
    }
    let refused = answer(&[
        delta(json!({ "refusal": "I " })),
        delta(json!({ "refusal": "cannot" })),
    ]);
    assert_eq!(
        (refused.refusal.as_str(), refused.text.as_str()),
        ("I cannot", "")
    );
}

#[test]
fn an_answer_is_finished_when_the_provider_says_so() {
    let finished = |event: serde_json::Value| {
        let mut parts = AnswerParts::default();
        parts.push(&text("[1").to_string());
        parts.push(&event.to_string());
        parts.is_finished()
    };
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 1 });
    assert!(finished(json!({ "choices": [], "usage": usage })));
    assert!(finished(
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] })
    ));
    let counted = json!({ "choices": [{ "index": 0, "delta": { "content": ",2" } }], "usage": usage });
    assert!(!finished(counted), "it counts in each part");
}

#[test]
fn details_are_not_replaced_by_empty_ones() {
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 });
    let answer = answer(&[
        json!({ "model": "", "choices": [], "prompt_filter_results": [] }),
        text("[1]"),
        json!({ "choices": [], "usage": usage }),
        json!({ "model": "", "choices": [{ "index": 0, "finish_reason": null, "content_filter_offsets": {} }], "usage": {} }),
    ]);
    assert_eq!((answer.model.as_str(), answer.tokens.prompt), ("m-1", 7));
}

#[test]
fn reasoning_under_two_names_counts_once() {
    let mut parts = AnswerParts::default();
    parts.push(&delta(json!({ "reasoning": "hmm", "reasoning_content": "hmm" })).to_string());
    assert_eq!((parts.reasoning(), parts.size()), (3, 0));
}

#[test]
fn framed_events_are_taken_together() {
    let event = |text: &str, padding: &str| {
        format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}],"obfuscation":"{padding}"}}"#)
    };
    let mut parts = AnswerParts::default();
    parts.push(&event("[", "abc"));
    let known = format!("data: {}\n\ndata: {}\n\n", event("1,\\n", "a"), event("é", ""));
    let others = [
        "data: [DONE]\n\n".to_owned(),
        format!("data: {}\n", event("no blank line", "a")),
        format!("data: {}\r\n\r\n", event("other ends of lines", "a")),
        format!("data: {}\n\n", event("no string\",\"x\":\"", "a")),
        format!("data: {}\n\n", event("padding", "a\\")),
        ": comment\n\n".to_owned(),
    ];
    for other in &others {
        let stream = format!("{known}{other}");
        assert_eq!(parts.take_framed(stream.as_bytes()), known.len(), "{other}");
    }
    assert_eq!(
        parts.take_framed(&known.as_bytes()[..known.len() - 1]),
        known.len() - event("é", "").len() - 8
    );
    assert_eq!(
        decoded(parts.text()).unwrap(),
        format!("[{}1,\n", "1,\né".repeat(others.len()))
    );
}

#[test]
fn halves_of_a_character_meet() {
    let mut parts = AnswerParts::default();
    for half in [r"\ud83d", r"\ude00", r"\ud83d"] {
        let event = format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{half}"}}}}]}}"#);
        assert_eq!(parts.push(&event), EventMeaning::Part);
    }
    assert_eq!(decoded(parts.text()).unwrap(), "😀\u{fffd}");
}

#[test]
fn a_frame_is_trusted_with_strings_only() {
    let event = |content: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{"content":{content}}}}}]}}"#);
    let mut parts = AnswerParts::default();
    for content in [
        r#""a""#,
        r#""\"b\u0041\n""#,
        // Not the string that it looks like: another member follows.
        r#""c","refusal":"no""#,
        r#""d\"#,
        r#""\x""#,
        r#""\u12""#,
        "\"\u{1}\"",
        r#""e""#,
    ] {
        parts.push(&event(content));
    }
    let body: Box<RawValue> = serde_json::from_str(&parts.into_body()).unwrap();
    let answer = ChatAnswer::read(&body);
    assert_eq!(
        (answer.text.as_str(), answer.refusal.as_str()),
        ("a\"bA\nce", "no")
    );
}

#[test]
fn what_may_be_an_error_is_said() {
    let meaning = |event: &str| AnswerParts::default().push(event);
    assert_eq!(meaning("[DONE]"), EventMeaning::Done);
    assert_eq!(meaning(" [DONE] "), EventMeaning::Done);
    for event in [
        r#"{"error":{"message":"m"}}"#,
        r#"{"object":"error","message":"m","code":400}"#,
        r#"{"choices":[{"error":{"code":502},"delta":{}}]}"#,
        "not json",
    ] {
        assert_eq!(meaning(event), EventMeaning::Error, "{event}");
    }
}
