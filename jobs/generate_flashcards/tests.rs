use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::*;
use crate::{
    Class,
    testing::{FakeGuard, Script},
};

mod answers;
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

/// What a request asks, as the provider reads it.
fn asked(request: &RawValue) -> Value {
    serde_json::from_str(request.get()).unwrap()
}

fn card(front: &str, topic: &str) -> Value {
    json!({
        "front": front, "back": "an answer", "topic": topic, "difficulty": "beginner", "example": "In use.",
        "pronunciation": null,
    })
}

/// A finished answer with these cards.
fn deck(cards: &[Value]) -> Value {
    let content = json!({ "flashcards": cards }).to_string();
    json!({
        "choices": [{ "message": { "content": content, "refusal": null }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150 },
    })
}

fn numbered(count: usize) -> Vec<Value> {
    (0..count).map(|n| card(&format!("front {n}"), "Cells")).collect()
}

fn cut_off() -> Value {
    json!({
        "choices": [{ "message": { "content": "{\"flashcards\":[{\"fro" }, "finish_reason": "length" }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 4000 },
    })
}

fn read(body: &Value, change: Value) -> Vec<Flashcard> {
    let body = to_raw_value(body).unwrap();
    match answer::read(&body, &payload(change)).unwrap().0 {
        Answer::Cards(cards) => cards,
        Answer::CutOff => panic!("cut off"),
    }
}

fn refused(body: &Value) -> Failure {
    answer::read(&to_raw_value(body).unwrap(), &payload(json!({}))).unwrap_err()
}
