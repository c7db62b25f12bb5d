//! The streams as each endpoint writes them.

use serde_json::{Map, Value, json};

fn usage() -> Value {
    json!({ "prompt_tokens": 700, "completion_tokens": 900, "total_tokens": 1600 })
}

fn event(event: &Value) -> String {
    format!("data: {event}\n\n")
}

/// An object with these members, later ones replacing earlier ones.
fn with(object: &Value, members: &Value) -> Value {
    let mut all: Map<String, Value> = object.as_object().unwrap().clone();
    all.extend(members.as_object().unwrap().clone());
    Value::Object(all)
}

/// A stream whose events are `frame` with one choice each: the parts, and then `end`.
fn stream(frame: &Value, parts: &[Value], end: &[Value]) -> String {
    let choice = |delta: &Value| {
        with(
            frame,
            &json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] }),
        )
    };
    let parts = parts.iter().map(|delta| event(&choice(delta)));
    let end = end.iter().map(|members| event(&with(frame, members)));
    parts.chain(end).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

fn contents(parts: &[&str]) -> Vec<Value> {
    parts.iter().map(|part| json!({ "content": part })).collect()
}

fn stop(reason: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] })
}

pub(super) fn openai(parts: &[&str]) -> String {
    let mut stream = String::new();
    let chunk = |choices: Value, usage: Value, n: usize| {
        event(&json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "gpt-4o-mini",
            "service_tier": "default", "system_fingerprint": "fp_1", "choices": choices, "usage": usage,
            "obfuscation": "x".repeat(n % 13),
        }))
    };
    let choice = |delta: Value, finish: Value| json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
    let role = json!({ "role": "assistant", "content": "", "refusal": null });
    stream += &chunk(choice(role, Value::Null), Value::Null, 5);
    for (n, part) in parts.iter().enumerate() {
        stream += &chunk(choice(json!({ "content": part }), Value::Null), Value::Null, n);
    }
    stream += &chunk(choice(json!({}), json!("stop")), Value::Null, 3);
    stream += &chunk(json!([]), usage(), 9);
    stream + "data: [DONE]\n\n"
}

/// Remarks of the content filter come in front, without a choice, and at the end, without a delta; they name no model.
pub(super) fn azure(parts: &[&str]) -> String {
    let safe = json!({ "hate": { "filtered": false, "severity": "safe" } });
    let prelude = json!({
        "choices": [], "created": 0, "id": "", "model": "", "object": "",
        "prompt_filter_results": [{ "prompt_index": 0, "content_filter_results": safe }], "usage": null,
    });
    let remark = json!({
        "id": "", "object": "", "created": 0, "model": "", "usage": null,
        "choices": [{ "index": 0, "finish_reason": null, "content_filter_results": safe,
                      "content_filter_offsets": { "check_offset": 44, "start_offset": 44, "end_offset": 198 } }],
    });
    let frame = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000,
                        "model": "gpt-4o-mini-2024-07-18", "system_fingerprint": "fp_1", "usage": null });
    let mut deltas = vec![json!({ "content": "", "refusal": null, "role": "assistant" })];
    deltas.extend(contents(parts));
    let end = [stop("stop"), remark, json!({ "choices": [], "usage": usage() })];
    event(&prelude) + &stream(&frame, &deltas, &end)
}

pub(super) fn openrouter(parts: &[&str]) -> String {
    let frame = json!({ "id": "gen-1", "provider": "Fireworks", "model": "openai/gpt-4o-mini",
                        "object": "chat.completion.chunk", "created": 1_796_000_000 });
    let thinking = json!({ "role": "assistant", "content": "", "reasoning": "hm, {\"front\":\"no\"}",
                           "reasoning_details": [{ "type": "reasoning.text", "text": "hm", "format": null }] });
    let part = |part: &&str| json!({ "role": "assistant", "content": part, "reasoning": null, "reasoning_details": [] });
    let mut deltas = vec![thinking];
    deltas.extend(parts.iter().map(part));
    let choice = |finish: Value| {
        json!([{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": finish,
                 "native_finish_reason": finish, "logprobs": null }])
    };
    let end = [
        json!({ "choices": choice(json!("stop")), "system_fingerprint": null }),
        json!({ "choices": choice(Value::Null), "usage": usage() }),
    ];
    let processing = ": OPENROUTER PROCESSING\n\n".repeat(3);
    let stream = stream(&frame, &deltas, &end);
    let (begin, rest) = stream.split_at(stream.find("\n\n").unwrap() + 2);
    format!("{processing}{begin}{processing}{rest}")
}

pub(super) fn vllm(parts: &[&str]) -> String {
    let frame = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m" });
    let mut deltas = vec![
        json!({ "role": "assistant", "content": "" }),
        json!({ "reasoning": "hm", "reasoning_content": "hm" }),
    ];
    deltas.extend(contents(parts));
    let end = [
        json!({ "choices": [{ "index": 0, "delta": { "content": "" }, "logprobs": null, "finish_reason": "stop",
                              "stop_reason": 128_009, "token_ids": null }] }),
        json!({ "choices": [], "usage": usage() }),
    ];
    stream(&frame, &deltas, &end)
}

pub(super) fn vllm_old(parts: &[&str]) -> String {
    let frame =
        json!({ "id": "cmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m" });
    let mut deltas = vec![json!({ "role": "assistant" })];
    deltas.extend(contents(parts));
    stream(&frame, &deltas, &[stop("stop")])
}

/// The content of a reasoning model is a list of parts, and events are padded.
pub(super) fn mistral(parts: &[&str]) -> String {
    let frame = json!({ "id": "1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m", "p": "abcdefg" });
    let mut deltas = vec![
        json!({ "role": "assistant", "content": "" }),
        json!({ "content": [{ "type": "thinking", "thinking": [{ "type": "text", "text": "hm, [" }] }] }),
    ];
    let (listed, plain) = parts.split_at(parts.len() / 2);
    deltas.extend(
        listed
            .iter()
            .map(|part| json!({ "content": [{ "type": "text", "text": part }] })),
    );
    deltas.extend(contents(plain));
    let end = json!({ "choices": [{ "index": 0, "delta": { "content": "" }, "finish_reason": "stop" }], "usage": usage() });
    stream(&frame, &deltas, &[end])
}

pub(super) fn groq(parts: &[&str]) -> String {
    let frame = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m",
                        "system_fingerprint": "fp_1" });
    let role = json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" }, "logprobs": null,
                                     "finish_reason": null }], "x_groq": { "id": "req_1" } });
    let end = with(
        &stop("stop"),
        &json!({ "x_groq": { "id": "req_1", "usage": with(&usage(), &json!({ "queue_time": 0.02, "total_time": 0.4 })) } }),
    );
    event(&with(&frame, &role)) + &stream(&frame, &contents(parts), &[end])
}

/// Each part stands in two places.
pub(super) fn together(parts: &[&str]) -> String {
    let chunk = |part: &str, finish: Value, usage: Value, token: usize| {
        event(&json!({
            "id": "1-EWR", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m", "usage": usage,
            "choices": [{ "index": 0, "text": part, "logprobs": null, "finish_reason": finish, "seed": null,
                          "delta": { "token_id": token, "role": "assistant", "content": part, "tool_calls": null } }],
        }))
    };
    let mut stream: String = parts
        .iter()
        .enumerate()
        .map(|(n, part)| chunk(part, Value::Null, Value::Null, n))
        .collect();
    stream += &chunk("", json!("eos"), usage(), 0);
    stream + "data: [DONE]\n\n"
}

pub(super) fn deepseek(parts: &[&str]) -> String {
    let frame = json!({ "id": "1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m",
                        "system_fingerprint": "fp_1" });
    let mut deltas = vec![
        json!({ "role": "assistant", "content": null, "reasoning_content": "" }),
        json!({ "content": null, "reasoning_content": "hm, {\"front\":\"no\"}" }),
    ];
    deltas.extend(
        parts
            .iter()
            .map(|part| json!({ "content": part, "reasoning_content": null })),
    );
    let counts = with(
        &usage(),
        &json!({ "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 700 }),
    );
    let end = json!({ "choices": [{ "index": 0, "delta": { "content": "", "reasoning_content": null }, "logprobs": null,
                                    "finish_reason": "stop" }], "usage": counts });
    ": keep-alive\n\n\n\n: keep-alive\n\n".to_owned() + &stream(&frame, &deltas, &[end])
}

/// The clock goes on from event to event.
pub(super) fn ollama(parts: &[&str]) -> String {
    let frame = |n: usize| {
        json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000 + n, "model": "m",
                "system_fingerprint": "fp_ollama" })
    };
    let part = |(n, part): (usize, &&str)| {
        let delta = json!({ "role": "assistant", "content": part });
        event(&with(
            &frame(n),
            &json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] }),
        ))
    };
    let written: String = parts.iter().enumerate().map(part).collect();
    let last = json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": "stop" }] });
    let counts = json!({ "choices": [], "usage": usage() });
    written + &event(&with(&frame(99), &last)) + &event(&with(&frame(99), &counts)) + "data: [DONE]\n\n"
}

/// It counts nothing, and the stream ends without a word.
pub(super) fn lm_studio(parts: &[&str]) -> String {
    let frame = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m",
                        "system_fingerprint": "m" });
    let written = stream(&frame, &contents(parts), &[stop("stop")]);
    written.strip_suffix("data: [DONE]\n\n").unwrap().to_owned()
}

pub(super) fn llama_cpp(parts: &[&str]) -> String {
    let frame = json!({ "created": 1_796_000_000, "id": "chatcmpl-1", "model": "m", "system_fingerprint": "b6000",
                        "object": "chat.completion.chunk" });
    let mut deltas = vec![json!({ "role": "assistant", "content": null })];
    deltas.extend(contents(parts));
    let timings = json!({ "prompt_n": 700, "predicted_n": 900, "predicted_per_second": 40.0 });
    let end = [
        stop("stop"),
        json!({ "choices": [], "usage": usage(), "timings": timings }),
    ];
    stream(&frame, &deltas, &end)
}

/// The message so far is beside each part, and so are the counts so far.
pub(super) fn perplexity(parts: &[&str]) -> String {
    let (mut written, mut stream) = (String::new(), String::new());
    for (n, part) in parts.iter().enumerate() {
        written += part;
        let finish = if n + 1 == parts.len() {
            json!("stop")
        } else {
            Value::Null
        };
        let counts = with(
            &usage(),
            &json!({ "completion_tokens": 900 - (parts.len() - 1 - n) }),
        );
        stream += &event(&json!({
            "id": "1", "model": "m", "created": 1_796_000_000, "usage": counts, "object": "chat.completion.chunk",
            "choices": [{ "index": 0, "finish_reason": finish, "message": { "role": "assistant", "content": written },
                          "delta": { "role": "assistant", "content": part } }],
        }));
    }
    stream
}

/// Few and long parts; the last one ends the answer.
pub(super) fn gemini(parts: &[&str]) -> String {
    let long: Vec<String> = parts.chunks(40).map(<[&str]>::concat).collect();
    let mut stream = String::new();
    for (n, part) in long.iter().enumerate() {
        let is_last = n + 1 == long.len();
        let finish = if is_last { json!("stop") } else { Value::Null };
        let counts = with(
            &usage(),
            &json!({ "completion_tokens": if is_last { 900 } else { n } }),
        );
        stream += &event(&json!({
            "choices": [{ "delta": { "content": part, "role": "assistant" }, "finish_reason": finish, "index": 0 }],
            "created": 1_796_000_000, "id": "1", "model": "m", "object": "chat.completion.chunk", "usage": counts,
        }));
    }
    stream + "data: [DONE]\n\n"
}

pub(super) fn text_generation_inference(parts: &[&str]) -> String {
    let frame = json!({ "object": "chat.completion.chunk", "id": "", "created": 1_796_000_000, "model": "m",
                        "system_fingerprint": "3.0.0-native", "usage": null });
    let written = stream(&frame, &contents(parts), &[stop("eos_token")]);
    written.replace("data: ", "data:").replace("data:[DONE]\n\n", "")
}

pub(super) fn tool(parts: &[&str]) -> String {
    let frame =
        json!({ "id": "1", "object": "chat.completion.chunk", "created": 1_796_000_000, "model": "m" });
    let call = |function: Value| json!({ "tool_calls": [{ "index": 0, "id": "call_1", "type": "function", "function": function }] });
    let mut deltas = vec![
        json!({ "role": "assistant", "content": null }),
        call(json!({ "name": "json_schema", "arguments": "" })),
    ];
    deltas.extend(parts.iter().map(|part| call(json!({ "arguments": part }))));
    stream(
        &frame,
        &deltas,
        &[stop("tool_calls"), json!({ "choices": [], "usage": usage() })],
    )
}

pub(super) fn crlf(parts: &[&str]) -> String {
    let named = |event: &str| format!("event: message\nid: 7\nretry: 1000\n{event}\n\n");
    let events = openai(parts);
    let events: String = events.split_terminator("\n\n").map(named).collect();
    format!("\u{feff}{}", events.replace('\n', "\r\n"))
}

pub(super) fn json_lines(parts: &[&str]) -> String {
    let stream = openai(parts).replace("data: [DONE]\n\n", "");
    stream.replace("data: ", "").replace("\n\n", "\n")
}

pub(super) fn whole(parts: &[&str]) -> String {
    let message = json!({ "role": "assistant", "content": parts.concat() });
    let answer = json!({ "id": "1", "object": "chat.completion", "created": 1_796_000_000, "model": "m",
                         "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }], "usage": usage() });
    // DeepSeek keeps the connection alive with empty lines.
    format!("\n\n\n{answer}\n")
}
