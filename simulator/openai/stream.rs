//! Splits a chat completion into the chunks of a stream: its text, its finish reason, and the token counts if the request
//! asks for them.

use serde_json::{Map, Value, json};

use super::super::exchange::SimulatedAnswer;

/// Characters of a chunk: a few tokens. Providers send one or two.
const PIECE: usize = 24;

/// Returns true if the request asks for a stream.
pub(super) fn is_wanted(request: &Map<String, Value>) -> bool {
    request.get("stream").is_some_and(|stream| *stream == true)
}

/// The stream of an answer.
pub(super) fn of(answer: &Value, request: &Map<String, Value>) -> SimulatedAnswer {
    let counts = request
        .get("stream_options")
        .is_some_and(|options| options["include_usage"] == true);
    let choice = &answer["choices"][0];
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": answer["id"], "object": "chat.completion.chunk", "created": answer["created"],
            "model": answer["model"], "service_tier": answer["service_tier"],
            "system_fingerprint": answer["system_fingerprint"], "choices": choices,
        });
        if counts {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let part = |delta: Value, finish: &Value| {
        chunk(
            json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]),
            Value::Null,
        )
    };
    let mut events = vec![part(
        json!({ "role": "assistant", "content": "", "refusal": null }),
        &Value::Null,
    )];
    for member in ["refusal", "content"] {
        let text: Vec<char> = choice["message"][member]
            .as_str()
            .unwrap_or_default()
            .chars()
            .collect();
        for piece in text.chunks(PIECE) {
            let piece: String = piece.iter().collect();
            events.push(part(json!({ member: piece }), &Value::Null));
        }
    }
    events.push(part(json!({}), &choice["finish_reason"]));
    if counts && answer["usage"].is_object() {
        events.push(chunk(json!([]), answer["usage"].clone()));
    }
    events.push("data: [DONE]\n\n".to_owned());
    SimulatedAnswer::streamed(events)
}
