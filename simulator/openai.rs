//! OpenAI chat completions: an answer that satisfies the schema of its request, and the errors. The checks are in
//! `check`, the flashcards in `deck`, answers in parts in `stream`.

mod check;
mod deck;
mod stream;

use std::{
    sync::{Arc, LazyLock, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::Uri;
use jobs::providers::models::ModelTable;
use serde_json::{Map, Value, json};

use super::{
    Bill, Fault, digest,
    exchange::{SimulatedAnswer, SimulatedRequest},
    schema,
};

pub use deck::DeckFlaw;
use deck::DeckSource;

/// Largest `max_completion_tokens` of a model that does not reason.
const MAX_COMPLETION: u64 = 16_384;
/// Largest `max_completion_tokens` of a model that reasons.
const MAX_COMPLETION_OF_REASONING: u64 = 128_000;

/// How models reason is no secret of the providers.
static MODELS: LazyLock<Arc<ModelTable>> = LazyLock::new(ModelTable::built_in);

/// Requests and tokens a minute that the headers speak of. Not enforced: limits are a matter of faults.
const LIMITS: (u64, u64) = (10_000, 2_000_000);

/// POST /v1/chat/completions.
pub(super) fn chat(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    let answer = check::request(ask)
        .map(|request| complete(ask, &request))
        .unwrap_or_else(|refusal| refusal);
    let spent = answer.body.len() as u64 / 4;
    answer
        .with("x-request-id", request_id(ask))
        .with("openai-processing-ms", 1)
        .with("openai-version", "2020-10-01")
        .with("x-ratelimit-limit-requests", LIMITS.0)
        .with("x-ratelimit-remaining-requests", LIMITS.0 - 1)
        .with("x-ratelimit-reset-requests", "6ms")
        .with("x-ratelimit-limit-tokens", LIMITS.1)
        .with("x-ratelimit-remaining-tokens", LIMITS.1.saturating_sub(spent))
        .with(
            "x-ratelimit-reset-tokens",
            format!("{}ms", spent * 60_000 / LIMITS.1),
        )
}

/// GET /v1/models: free of charge, so clients use it to see whether the key is good.
pub(super) fn models(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    if let Err(refusal) = check::key(ask) {
        return refusal;
    }
    let model = |(id, shutdown_date): (&str, Option<&str>)| {
        json!({
            "id": id, "object": "model", "created": 1_721_172_741, "owned_by": "system",
            "shutdown_date": shutdown_date,
        })
    };
    let ends = Some("2027-01-14");
    let data = [
        ("gpt-6-luna", None),
        ("gpt-4o-mini", ends),
        ("gpt-4o", ends),
        ("gpt-4.1-mini", ends),
    ]
    .map(model);
    SimulatedAnswer::json(200, &json!({"object": "list", "data": data})).with("x-request-id", request_id(ask))
}

/// The error that OpenAI sends with a status.
pub(super) fn refuse(status: u16) -> SimulatedAnswer {
    let (kind, code, message) = match status {
        401 => (
            "invalid_request_error",
            Some("invalid_api_key"),
            "Incorrect API key provided.",
        ),
        403 => (
            "invalid_request_error",
            Some("unsupported_country_region_territory"),
            "Not supported.",
        ),
        404 => (
            "invalid_request_error",
            Some("model_not_found"),
            "The model does not exist or you have no access.",
        ),
        429 => (
            "requests",
            Some("rate_limit_exceeded"),
            "Rate limit reached for requests per min (RPM).",
        ),
        503 => (
            "service_unavailable",
            None,
            "The engine is currently overloaded, please try again later.",
        ),
        500.. => (
            "server_error",
            None,
            "The server had an error while processing your request. Sorry about that!",
        ),
        _ => ("invalid_request_error", None, "The request is not valid."),
    };
    error(status, kind, code, None, message)
}

/// 404 for a path that is not there.
pub(super) fn unknown_url(uri: &Uri) -> SimulatedAnswer {
    error(
        404,
        "invalid_request_error",
        None,
        None,
        &format!("Invalid URL ({})", uri.path()),
    )
}

/// 429, too fast.
pub(super) fn rate_limited(retry_after: f64) -> SimulatedAnswer {
    let message = format!(
        "Rate limit reached for gpt-4o-mini in organization org-sim on requests per min (RPM): Limit {0}, Used \
         {0}, Requested 1. Please try again in {retry_after}s.",
        LIMITS.0
    );
    error(429, "requests", Some("rate_limit_exceeded"), None, &message)
        .with("retry-after", retry_after)
        .with("retry-after-ms", (retry_after * 1000.0).ceil())
        .with("x-ratelimit-limit-requests", LIMITS.0)
        .with("x-ratelimit-remaining-requests", 0)
        .with("x-ratelimit-reset-requests", format!("{retry_after}s"))
}

/// 429, not paid.
pub(super) fn out_of_quota() -> SimulatedAnswer {
    let message = "You exceeded your current quota, please check your plan and billing details.";
    error(
        429,
        "insufficient_quota",
        Some("insufficient_quota"),
        None,
        message,
    )
}

fn error(status: u16, kind: &str, code: Option<&str>, param: Option<&str>, message: &str) -> SimulatedAnswer {
    let error = json!({"message": message, "type": kind, "param": param, "code": code});
    SimulatedAnswer::json(status, &json!({"error": error}))
}

fn invalid(param: &str, code: Option<&str>, message: &str) -> SimulatedAnswer {
    error(400, "invalid_request_error", code, Some(param), message)
}

fn request_id(ask: &SimulatedRequest<'_>) -> String {
    format!("req_{}", digest::hex(digest::mix(ask.shared.seed ^ ask.seq)))
}

fn complete(ask: &SimulatedRequest<'_>, request: &Map<String, Value>) -> SimulatedAnswer {
    let user = last_user_message(request);
    let count = wanted_count(request);
    let seed = schema::SchemaSeed::new(&user, count);
    let format = request.get("response_format").unwrap_or(&Value::Null);
    let flaw = match ask.fault {
        Some(Fault::Deck { flaw }) => Some(*flaw),
        _ => None,
    };
    let deck = DeckSource { prompt: &user, count };
    let follow = |schema: &Value| {
        deck.content(schema, flaw)
            .unwrap_or_else(|| schema::fill(schema, &seed).to_string())
    };
    let mut content = match (format["type"].as_str(), instructed_schema(request)) {
        (Some("json_schema"), _) => follow(&format["json_schema"]["schema"]),
        (_, Some(schema)) => follow(&schema),
        (Some("json_object"), None) => json!({"text": seed.sentence()}).to_string(),
        _ => seed.sentence(),
    };
    let mut finish = "stop";
    let reasoning = reasoning_tokens(request, ask.shared.seed ^ ask.seq);
    let cap = ["max_completion_tokens", "max_tokens"]
        .into_iter()
        .find_map(|name| request.get(name)?.as_u64());
    let mut room = cap.unwrap_or(MAX_COMPLETION);
    let reasoning = reasoning.min(room);
    room -= reasoning;
    if let Some(Fault::Length) = ask.fault {
        room = room.min(tokens(&content) / 2);
    }
    if tokens(&content) > room {
        finish = "length";
        content = content
            .chars()
            .take(usize::try_from(room * 4).unwrap_or(usize::MAX))
            .collect();
    }
    let (mut content, mut refusal) = (Value::String(content), Value::Null);
    match ask.fault {
        Some(Fault::Refusal) => {
            (content, refusal) = (Value::Null, json!("I'm sorry, I can't assist with that request."));
        }
        Some(Fault::ContentFilter) => (content, finish) = (Value::Null, "content_filter"),
        _ => {}
    }
    let prompt = prompt_tokens(request);
    let (mut tier, cached, cache_written) = variety(ask, prompt);
    if request.get("service_tier").is_some_and(|tier| tier == "flex") {
        tier = "flex";
    }
    let completion = reasoning + tokens(content.as_str().or(refusal.as_str()).unwrap_or_default());
    let mut answer = json!({
        "id": format!("chatcmpl-{}", digest::hex(digest::mix(ask.shared.seed ^ ask.seq))),
        "object": "chat.completion",
        "created": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs(),
        "model": request.get("model"),
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": content, "refusal": refusal, "annotations": []},
            "logprobs": null,
            "finish_reason": finish,
        }],
        "service_tier": tier,
        "system_fingerprint": "fp_simulator",
    });
    if !matches!(ask.fault, Some(Fault::NoUsage)) {
        answer["usage"] = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_written},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        });
    }
    let written = match stream::is_wanted(request) {
        true => stream::of(&answer, request),
        false => SimulatedAnswer::json(200, &answer),
    };
    written.billed(Bill {
        model: request["model"].as_str().unwrap_or_default().to_owned(),
        tier: tier.to_owned(),
        prompt_tokens: prompt,
        cached_tokens: cached,
        written_tokens: cache_written,
        completion_tokens: completion,
        ..Bill::default()
    })
}

/// Tier of an answer, and tokens of its request from the cache and to it: the usual ones unless bills are to vary.
fn variety(ask: &SimulatedRequest<'_>, prompt: u64) -> (&'static str, u64, u64) {
    if !ask.shared.varies.load(Ordering::Relaxed) {
        return ("default", 0, 0);
    }
    let draw = digest::mix(ask.shared.seed ^ digest::mix(ask.seq));
    let tier = match draw % 8 {
        0 => "flex",
        1 => "priority",
        _ => "default",
    };
    match draw / 8 % 3 {
        0 => (tier, prompt / 2, 0),
        1 => (tier, prompt / 3, prompt / 4),
        _ => (tier, 0, 0),
    }
}

/// Tokens that the model reasons for before it writes: more with more effort, and never twice the same.
fn reasoning_tokens(request: &Map<String, Value>, seed: u64) -> u64 {
    let model = request["model"].as_str().unwrap_or_default();
    let effort = request.get("reasoning_effort").and_then(Value::as_str);
    let usual = match effort.or_else(|| MODELS.default_effort(model)) {
        None | Some("none") => return 0,
        Some("minimal") => 128,
        Some("low") => 640,
        Some("medium") => 2_000,
        Some("high") => 6_000,
        _ => 12_000,
    };
    usual / 2 + digest::mix(seed) % usual
}

/// Four characters make a token, by and large.
fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4)
}

fn prompt_tokens(request: &Map<String, Value>) -> u64 {
    let schema = request
        .get("response_format")
        .map_or(0, |format| tokens(&format.to_string()));
    messages(request)
        .map(|message| tokens(&text_of(message)) + 4)
        .sum::<u64>()
        + schema
}

fn messages(request: &Map<String, Value>) -> impl DoubleEndedIterator<Item = &Value> {
    request
        .get("messages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// The text of a message, whether plain or in parts.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

fn last_user_message(request: &Map<String, Value>) -> String {
    messages(request)
        .rev()
        .find(|message| message["role"] == "user")
        .map(text_of)
        .unwrap_or_default()
}

/// The JSON schema in the instructions, which models follow as well.
fn instructed_schema(request: &Map<String, Value>) -> Option<Value> {
    messages(request)
        .filter(|message| message["role"] == "system" || message["role"] == "developer")
        .find_map(|message| {
            let text = text_of(message);
            let schema = &text[text.find("{\"")?..];
            // What follows the schema is not looked at.
            let first = serde_json::Deserializer::from_str(schema)
                .into_iter::<Value>()
                .next();
            first?.ok().filter(|schema| schema["properties"].is_object())
        })
}

/// How many flashcards the prompt asks for, by its first "N flashcards": 20 unless it says so, at most 100.
fn wanted_count(request: &Map<String, Value>) -> usize {
    let asked = messages(request).find_map(|message| {
        let text = text_of(message).to_lowercase();
        text.match_indices("flashcard").find_map(|(at, _)| {
            // The number may be followed by an adjective or two: "12 new flashcards".
            let before = text[..at].split_whitespace().rev().take(3);
            before
                .map_while(|word| word.chars().all(|c| c.is_alphanumeric()).then_some(word))
                .find_map(|w| w.parse().ok())
        })
    });
    asked.unwrap_or(20).clamp(1, 100)
}
