use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::testing::{FakeGuard, Script};

mod corpus;
mod flow;
mod payloads;
mod requests;

fn payload(change: Value) -> Payload {
    let mut payload = json!({
        "content": "Cells are the smallest unit of life.", "subject": "Biology", "topic": "Cells", "userId": "u1",
    });
    payload
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    serde_json::from_value(payload).unwrap()
}

/// The request of a model that is not known.
fn model(name: &str) -> ModelRequest {
    ModelRequest {
        model: name.to_owned(),
        ..ModelRequest::default()
    }
}

/// The request, as the provider reads it.
fn parsed(request: &RawValue) -> Value {
    serde_json::from_str(request.get()).unwrap()
}

/// A finished answer with numbered cards.
fn deck(count: usize) -> Value {
    let cards: Vec<_> = (0..count)
        .map(|n| {
            json!({
                "front": format!("term {n}"), "back": "a meaning", "topic": "Cells", "difficulty": "beginner",
                "example": format!("Here is term {n} in use."), "pronunciation": null,
            })
        })
        .collect();
    answer(&json!({ "flashcards": cards }).to_string(), "stop")
}

fn answer(content: &str, finish_reason: &str) -> Value {
    json!({
        "choices": [{ "message": { "content": content, "refusal": null }, "finish_reason": finish_reason }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150 },
        "model": "gpt-4o-mini-2024-07-18",
    })
}

/// An answer that was cut off behind this many cards.
fn cut_behind(count: usize) -> Value {
    let whole = deck(count + 1);
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let last = format!("term {count}");
    answer(
        &content[..content.find(&last).unwrap_or(content.len()) + 3],
        "length",
    )
}

fn refusal() -> Value {
    let mut body = answer("", "stop");
    body["choices"][0]["message"] = json!({ "content": null, "refusal": "I cannot\nhelp with that." });
    body
}
