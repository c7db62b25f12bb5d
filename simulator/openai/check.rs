//! The checks of a chat completion request, in OpenAI's order and words.

use serde_json::{Map, Value};

use super::{
    super::{
        Fault,
        exchange::{SimulatedAnswer, SimulatedRequest},
        schema,
    },
    MAX_COMPLETION, MAX_COMPLETION_OF_REASONING, MODELS, error, invalid, prompt_tokens,
};

/// Top-level fields that the API knows; any other is refused.
const FIELDS: [&str; 32] = [
    "audio",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
];

/// Tokens that prompt and answer may have together.
const CONTEXT: u64 = 128_000;

/// The key is the right one.
pub(super) fn key(ask: &SimulatedRequest<'_>) -> Result<(), SimulatedAnswer> {
    // Azure's classic interface has a header of its own, and wants to know which version is meant.
    let is_classic = ask.parts.uri.path().starts_with("/openai/deployments/");
    let has_version = ask
        .parts
        .uri
        .query()
        .is_some_and(|query| query.contains("api-version="));
    if is_classic && !has_version {
        return Err(error(
            404,
            "invalid_request_error",
            None,
            None,
            "Resource not found",
        ));
    }
    let given = match is_classic {
        true => Some(ask.header("api-key")).filter(|key| !key.is_empty()),
        false => ask.header("authorization").strip_prefix("Bearer "),
    };
    match given {
        Some(key) if key == ask.shared.keys.openai => Ok(()),
        Some(key) => {
            // OpenAI echoes both ends of the key: clients must not pass this text on.
            let shown: String = key.chars().take(5).collect();
            let message = format!(
                "Incorrect API key provided: {shown}***. You can find your API key in the dashboard."
            );
            Err(error(
                401,
                "invalid_request_error",
                Some("invalid_api_key"),
                None,
                &message,
            ))
        }
        None => {
            let message = "You didn't provide an API key. Use the Authorization header with Bearer auth.";
            Err(error(401, "invalid_request_error", None, None, message))
        }
    }
}

/// Everything that is checked before an answer costs anything.
pub(super) fn request(ask: &SimulatedRequest<'_>) -> Result<Map<String, Value>, SimulatedAnswer> {
    key(ask)?;
    if let Some(Fault::RefuseParameter { name }) = ask.fault
        && serde_json::from_slice::<Map<String, Value>>(ask.body).is_ok_and(|body| body.contains_key(name))
    {
        let message = format!("Unrecognized request argument supplied: {name}");
        return Err(error(400, "invalid_request_error", None, None, &message));
    }
    if !ask.is_type("application/json") {
        let message = "Unsupported media type: the body must be application/json.";
        return Err(error(415, "invalid_request_error", None, None, message));
    }
    let Ok(Value::Object(request)) = serde_json::from_slice(ask.body) else {
        let message = "We could not parse the JSON body of your request. It must be one JSON object.";
        return Err(error(400, "invalid_request_error", None, None, message));
    };
    if let Some(unknown) = request.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let message = format!("Unrecognized request argument supplied: {unknown}");
        return Err(error(400, "invalid_request_error", None, None, &message));
    }
    let model = model(&request)?;
    check_messages(&request)?;
    check_effort(&request, model)?;
    check_numbers(&request, model)?;
    check_format(&request)?;
    let prompt = prompt_tokens(&request);
    if prompt > CONTEXT {
        let message = format!(
            "This model's maximum context length is {CONTEXT} tokens. However, your messages resulted in {prompt} \
             tokens. Please reduce the length of the messages."
        );
        return Err(invalid("messages", Some("context_length_exceeded"), &message));
    }
    Ok(request)
}

fn missing(param: &str) -> SimulatedAnswer {
    let message = format!("Missing required parameter: '{param}'.");
    invalid(param, Some("missing_required_parameter"), &message)
}

fn model(request: &Map<String, Value>) -> Result<&str, SimulatedAnswer> {
    let model = request
        .get("model")
        .and_then(Value::as_str)
        .ok_or_else(|| missing("model"))?;
    if ["gpt-", "chatgpt-", "o1", "o3", "o4", "ft:"]
        .iter()
        .any(|known| model.starts_with(known))
    {
        return Ok(model);
    }
    let message = format!("The model `{model}` does not exist or you do not have access to it.");
    Err(error(
        404,
        "invalid_request_error",
        Some("model_not_found"),
        None,
        &message,
    ))
}

fn check_messages(request: &Map<String, Value>) -> Result<(), SimulatedAnswer> {
    let messages = request
        .get("messages")
        .and_then(Value::as_array)
        .ok_or_else(|| missing("messages"))?;
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(invalid("messages", Some("empty_array"), message));
    }
    for (i, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if !["developer", "system", "user", "assistant", "tool"].contains(&role) {
            let text = format!("Invalid value for 'messages[{i}].role': {}.", message["role"]);
            return Err(invalid(
                &format!("messages[{i}].role"),
                Some("invalid_value"),
                &text,
            ));
        }
        if !(message["content"].is_string() || message["content"].is_array() || role == "assistant") {
            let text = format!(
                "Invalid value for 'content': expected a string, got {}.",
                message["content"]
            );
            return Err(invalid(&format!("messages[{i}].content"), None, &text));
        }
    }
    Ok(())
}

fn check_effort(request: &Map<String, Value>, model: &str) -> Result<(), SimulatedAnswer> {
    let efforts = MODELS.reasoning_efforts(model);
    match request.get("reasoning_effort") {
        None | Some(Value::Null) => Ok(()),
        Some(_) if efforts.is_empty() => {
            let message = "Unrecognized request argument supplied: reasoning_effort";
            Err(error(400, "invalid_request_error", None, None, message))
        }
        Some(effort) if efforts.iter().any(|known| effort == known) => Ok(()),
        Some(effort) => {
            let message = format!(
                "Unsupported value: 'reasoning_effort' does not support {effort} with this model. Supported values \
                 are: {}.",
                efforts.join(", ")
            );
            Err(invalid("reasoning_effort", Some("unsupported_value"), &message))
        }
    }
}

fn check_numbers(request: &Map<String, Value>, model: &str) -> Result<(), SimulatedAnswer> {
    let reasoning = !MODELS.reasoning_efforts(model).is_empty();
    let most = if reasoning {
        MAX_COMPLETION_OF_REASONING
    } else {
        MAX_COMPLETION
    };
    if reasoning && request.contains_key("max_tokens") {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                       'max_completion_tokens' instead.";
        return Err(invalid("max_tokens", Some("unsupported_parameter"), message));
    }
    for param in ["max_completion_tokens", "max_tokens"] {
        match request.get(param) {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_u64() {
                Some(n) if (1..=most).contains(&n) => {}
                Some(n @ 1..) => {
                    let message = format!(
                        "{param} is too large: {n}. This model supports at most {most} completion tokens, whereas you \
                         provided {n}."
                    );
                    return Err(invalid(param, Some("invalid_value"), &message));
                }
                _ => {
                    let message =
                        format!("Invalid '{param}': expected a whole number of at least 1, got {value}.");
                    return Err(invalid(param, Some("integer_below_min_value"), &message));
                }
            },
        }
    }
    match request.get("temperature") {
        None | Some(Value::Null) => {}
        Some(value) if reasoning && value.as_f64() != Some(1.0) => {
            let message =
                "Unsupported value: 'temperature' does not support values other than 1 with this model.";
            return Err(invalid("temperature", Some("unsupported_value"), message));
        }
        Some(value) if value.as_f64().is_some_and(|t| (0.0..=2.0).contains(&t)) => {}
        Some(value) => {
            let message = format!("Invalid 'temperature': expected a number from 0 to 2, got {value}.");
            return Err(invalid("temperature", Some("decimal_above_max_value"), &message));
        }
    }
    let streams = request.get("stream").is_some_and(|stream| *stream == true);
    if !streams
        && request
            .get("stream_options")
            .is_some_and(|options| !options.is_null())
    {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(invalid("stream_options", None, message));
    }
    // The simulator lacks this option. An error is better than an answer in a shape that the client did not request.
    if request.get("n").is_some_and(|n| !n.is_null() && *n != 1) {
        return Err(invalid("n", None, "The simulator makes one choice."));
    }
    Ok(())
}

fn check_format(request: &Map<String, Value>) -> Result<(), SimulatedAnswer> {
    let Some(format) = request.get("response_format") else {
        return Ok(());
    };
    match format["type"].as_str() {
        Some("text" | "json_object") => return Ok(()),
        Some("json_schema") => {}
        _ => {
            let message = format!("Invalid value for 'response_format.type': {}.", format["type"]);
            return Err(invalid("response_format.type", Some("invalid_value"), &message));
        }
    }
    let described = &format["json_schema"];
    let name = described["name"]
        .as_str()
        .ok_or_else(|| missing("response_format.json_schema.name"))?;
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(named) {
        let message = "Invalid 'response_format.json_schema.name': expected ^[a-zA-Z0-9_-]{1,64}$.";
        return Err(invalid(
            "response_format.json_schema.name",
            Some("invalid_value"),
            message,
        ));
    }
    if !described["schema"].is_object() {
        return Err(missing("response_format.json_schema.schema"));
    }
    if described["strict"] == true {
        schema::check_strict(&described["schema"]).map_err(|why| {
            let message = format!("Invalid schema for response_format '{name}': {why}");
            invalid("response_format", None, &message)
        })?;
    }
    Ok(())
}
