//! Reads error bodies: the codes, the words, the named parameter and the wait, in any of the shapes that providers and
//! the proxies in front of them use. Everything can be wrong, missing or hostile; what cannot be read is left out.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::retry_after;

/// Longest excerpt of what a provider sent, characters.
const EXCERPT: usize = 200;
/// Error objects nest, also as JSON in a string of JSON. What nests deeper is not read.
const MAX_NESTING: usize = 10;
/// Of a list of errors, so many are read.
const MAX_ITEMS: usize = 16;
/// Of all texts together, so much is searched for words, bytes.
const MAX_WORDS: usize = 16 * 1024;
/// Characters in a row, digits among them, that are taken for a key or a token.
const KEY_LENGTH: usize = 20;

/// The contents of an error body. Missing fields are empty.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    /// The code to show: the innermost, and rather a word than a number.
    pub(super) code: String,
    /// The message to show: the innermost. The whole text of a body that is not JSON.
    pub(super) message: String,
    /// Every `code`, `type`, `status` and `reason`, in lower case.
    pub(super) codes: Vec<String>,
    /// All messages in lower case. Empty for a page of HTML: its words are an edge's, not the provider's.
    pub(super) words: String,
    /// The request parameter that is named as the cause.
    pub(super) parameter: Option<String>,
    /// How long a field asks to wait.
    pub(super) wait: Option<Duration>,
    /// Headers of an upstream provider that a proxy passes on in the body, names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// The names and types of a JSON body in which no error was recognised: for the log.
    pub(super) unknown_shape: Option<String>,
}

impl ErrorBody {
    /// Reads a whole body: JSON of any shape, or plain text.
    pub(super) fn parse(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let json = text.trim_start_matches('\u{feff}').trim();
        let json = json.strip_prefix("data:").unwrap_or(json).trim();
        match serde_json::from_str::<Value>(json) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => Self::of(&value).unwrap_or_else(|| Self {
                message: text.clone().into_owned(),
                unknown_shape: Some(shape(&value)),
                ..Self::default()
            }),
            Ok(Value::String(text)) => Self::plain(&text),
            _ => Self::plain(&text),
        }
    }

    fn plain(text: &str) -> Self {
        let is_page = text.trim_start().starts_with('<');
        let words = if is_page { "" } else { text };
        Self {
            message: text.to_owned(),
            words: words
                .chars()
                .take(MAX_WORDS / 4)
                .collect::<String>()
                .to_lowercase(),
            ..Self::default()
        }
    }

    /// Reads an error value inside an answer; `None` when it says nothing.
    pub(super) fn of(error: &Value) -> Option<Self> {
        let mut read = Self::default();
        let mut shown = ShownCodes::default();
        let message = read.collect(error, 0, &mut shown);
        read.message = message.unwrap_or_default();
        read.code = shown.word.or(shown.kind).or(shown.number).unwrap_or_default();
        let says_something = !read.message.is_empty() || !read.codes.is_empty();
        says_something.then_some(read)
    }

    /// Adds what a value says, and returns the message to show of it.
    fn collect(&mut self, value: &Value, depth: usize, shown: &mut ShownCodes) -> Option<String> {
        if depth > MAX_NESTING {
            return None;
        }
        match value {
            Value::String(text) => self.text(text, depth, shown),
            Value::Array(items) => {
                let messages = items
                    .iter()
                    .take(MAX_ITEMS)
                    .filter_map(|item| self.collect(item, depth + 1, shown));
                let messages: Vec<String> = messages.collect();
                (!messages.is_empty()).then(|| messages.join("; "))
            }
            Value::Object(members) => {
                let (mut own, mut nested) = (Vec::new(), None);
                for (name, value) in members {
                    match ErrorMember::named(name) {
                        ErrorMember::Message(rank) => match value {
                            Value::String(text) => match json_in(text) {
                                Some(inner) => {
                                    nested = self.collect(&inner, depth + 1, shown).or(nested);
                                }
                                None => own.extend(self.text(text, depth, shown).map(|text| (rank, text))),
                            },
                            value => nested = self.collect(value, depth + 1, shown).or(nested),
                        },
                        ErrorMember::Code => self.code(name, value, shown),
                        ErrorMember::Parameter => self.parameter(value),
                        ErrorMember::Location => self.parameter(value.get(1).unwrap_or(value)),
                        ErrorMember::Headers => self.embedded_headers(value),
                        // The name says that a text was flagged. The flagged text itself is a student's.
                        ErrorMember::Flagged => self.codes.push("flagged".to_owned()),
                        ErrorMember::Other => {
                            self.wait = self.wait.or_else(|| retry_after::field(name, value))
                        }
                    }
                }
                let own = own
                    .into_iter()
                    .min_by_key(|(rank, _)| *rank)
                    .map(|(_, text)| text);
                let message = nested.or(own)?;
                Some(match located(members) {
                    Some(place) => format!("{place}: {message}"),
                    None => message,
                })
            }
            _ => None,
        }
    }

    fn text(&mut self, text: &str, depth: usize, shown: &mut ShownCodes) -> Option<String> {
        if let Some(inner) = json_in(text) {
            return self.collect(&inner, depth + 1, shown);
        }
        if text.trim().is_empty() {
            return None;
        }
        let room = MAX_WORDS.saturating_sub(self.words.len());
        self.words
            .extend(text.chars().take(room / 4).flat_map(char::to_lowercase));
        self.words.push('\n');
        Some(text.to_owned())
    }

    fn code(&mut self, name: &str, value: &Value, shown: &mut ShownCodes) {
        let text = match value {
            Value::String(text) => Cow::from(text),
            Value::Number(number) => number.to_string().into(),
            _ => return,
        };
        if text.is_empty() || self.codes.len() >= 4 * MAX_ITEMS {
            return;
        }
        self.codes.push(text.to_lowercase());
        if text.parse::<f64>().is_ok() {
            shown.number = Some(text.into_owned());
        } else if name.to_ascii_lowercase().ends_with("code") {
            shown.word = Some(text.into_owned());
        } else if name != "object" {
            shown.kind.get_or_insert_with(|| text.into_owned());
        }
    }

    fn parameter(&mut self, value: &Value) {
        let Value::String(path) = value else { return };
        let first = path.split(['.', '[', '/']).find(|part| !part.is_empty());
        if let Some(first) = first.filter(|_| self.parameter.is_none()) {
            self.parameter = Some(first.chars().take(64).collect::<String>().to_lowercase());
        }
    }

    fn embedded_headers(&mut self, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten().take(64) {
            let value = match value {
                Value::String(text) => text.trim().to_owned(),
                Value::Number(number) => number.to_string(),
                _ => continue,
            };
            self.headers.push((name.to_lowercase(), value));
        }
    }

    /// Returns true if a code is this one, whatever its case and separators.
    pub(super) fn has_code(&self, wanted: &str) -> bool {
        let plain = |c: &char| !matches!(c, '_' | '-' | ' ' | '.');
        self.codes
            .iter()
            .any(|code| code.chars().filter(plain).eq(wanted.chars().filter(plain)))
    }

    /// Returns true if the messages contain all the words, which `&` separates.
    pub(super) fn says(&self, words: &str) -> bool {
        words.split('&').all(|word| self.words.contains(word))
    }
}

/// The codes that are found on the way, outermost first: the last of each kind is shown.
#[derive(Debug, Default)]
struct ShownCodes {
    word: Option<String>,
    /// A `type`, `status` or `reason`.
    kind: Option<String>,
    number: Option<String>,
}

/// The role of a member of an error object, by its name.
enum ErrorMember {
    /// A message, or a further error. The lower the number, the better the text says what happened.
    Message(u8),
    Code,
    Parameter,
    /// Where in the request the fault lies, as FastAPI writes it: `["body", "max_tokens"]`.
    Location,
    Headers,
    Flagged,
    /// Among them what quotes the request or the model's answer (`input`, `failed_generation`): never read.
    Other,
}

impl ErrorMember {
    fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "message" | "msg" => Self::Message(0),
            "error_description" | "errormessage" | "error_message" => Self::Message(1),
            "detail" | "details" | "error_msg" => Self::Message(2),
            "error" | "errors" | "innererror" | "inner_error" | "metadata" | "raw" | "violations"
            | "cause" | "err" | "fault" | "title" => Self::Message(3),
            "code" | "type" | "status" | "reason" | "statuscode" | "status_code" | "error_code"
            | "errorcode" | "error_type" | "raw_status_code" | "quotaid" | "object" => Self::Code,
            "param" | "parameter" => Self::Parameter,
            "loc" => Self::Location,
            "headers" => Self::Headers,
            "flagged_input" => Self::Flagged,
            _ => Self::Other,
        }
    }
}

/// JSON that a proxy has put into a string.
fn json_in(text: &str) -> Option<Value> {
    let text = text.trim();
    if !text.starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text)
        .ok()
        .filter(|value| matches!(value, Value::Object(_) | Value::Array(_)))
}

/// The place in the request that an item of a FastAPI list is about.
fn located(members: &serde_json::Map<String, Value>) -> Option<String> {
    let place = members.get("loc")?.as_array()?.iter().skip(1).take(4);
    let names: Vec<&str> = place.filter_map(Value::as_str).collect();
    (!names.is_empty()).then(|| names.join("."))
}

/// The names and types of a value, without anything that it says: `{data:[{id:text}],ok:bool}`.
pub(super) fn shape(value: &Value) -> String {
    let mut text = String::new();
    write_shape(value, 0, &mut text);
    text.chars().take(EXCERPT).collect()
}

fn write_shape(value: &Value, depth: usize, text: &mut String) {
    if text.len() > EXCERPT {
        return;
    }
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(_) => text.push_str("bool"),
        Value::Number(_) => text.push_str("number"),
        Value::String(_) => text.push_str("text"),
        Value::Array(_) | Value::Object(_) if depth >= 4 => text.push('…'),
        Value::Array(items) => {
            text.push('[');
            if let Some(first) = items.first() {
                write_shape(first, depth + 1, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push('{');
            for (i, (name, value)) in members.iter().take(MAX_ITEMS).enumerate() {
                let is_plain = name.len() <= 32
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"_-.@".contains(&b));
                let name = if is_plain { name.as_str() } else { "…" };
                let comma = if i == 0 { "" } else { "," };
                // Writing into a text cannot fail.
                let _ = write!(text, "{comma}{name}:");
                write_shape(value, depth + 1, text);
            }
            text.push('}');
        }
    }
}

/// The beginning of a text on one line, without control characters, and without what looks like a part of a key.
pub(super) fn excerpt(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let mut line = String::new();
    let mut before = ["", ""];
    for word in words {
        if line.len() > 4 * EXCERPT {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        let is_key = is_key_like(word) || is_named_as_key(before);
        line.push_str(if is_key { "[key]" } else { word });
        before = [before[1], word];
    }
    if line.chars().nth(EXCERPT).is_none() {
        return line;
    }
    line.chars().take(EXCERPT - 1).chain(['…']).collect()
}

/// Returns true if a word looks like a key, or like one that a provider has masked in part: `sk-…`, `ab***yz`.
fn is_key_like(word: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "sk-", "sk_", "rk-", "pk-", "xai-", "gsk_", "AIza", "Bearer:", "eyJ",
    ];
    let bare = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_prefixed = PREFIXES
        .iter()
        .any(|prefix| bare.strip_prefix(prefix).is_some_and(|rest| rest.len() >= 4));
    let is_random = word
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|run| run.len() >= KEY_LENGTH)
        .any(|run| run.bytes().any(|b| b.is_ascii_digit()) && run.bytes().any(|b| b.is_ascii_alphabetic()));
    is_prefixed || is_random || word.contains("**") || word.contains("••")
}

/// Returns true if the words say that a key or a part of one follows: `ending in 7f3a`, `Bearer abc`.
fn is_named_as_key(before: [&str; 2]) -> bool {
    matches!(
        before,
        [_, "Bearer" | "bearer"] | ["ending" | "ends" | "starting" | "starts", "in" | "with"]
    )
}

/// The error that a 2xx carries instead of an answer, if it does.
pub(super) fn error_inside(body: &[u8]) -> Option<ErrorBody> {
    let text = std::str::from_utf8(body)
        .ok()?
        .trim_start_matches('\u{feff}')
        .trim_start();
    if text.starts_with('[') {
        // Google's compatible interface wraps an error into a list.
        let first: Vec<Value> = serde_json::from_str(text)
            .ok()
            .filter(|_| text.len() <= MAX_WORDS)?;
        let error = first
            .first()?
            .get("error")
            .filter(|error| says_something(error))?;
        return ErrorBody::of(error);
    }
    let envelope: AnswerEnvelope<'_> = serde_json::from_str(text).ok()?;
    let choice = envelope.choices.as_deref().and_then(<[AnswerChoice<'_>]>::first);
    if let Some(error) = choice.and_then(|choice| value_of(choice.error?)) {
        return ErrorBody::of(&error);
    }
    let has_content =
        choice.is_some_and(|choice| choice.message.as_ref().is_some_and(AnswerMessage::has_content));
    if has_content {
        return None;
    }
    if envelope.error.and_then(value_of).is_some() || envelope.object.as_deref() == Some("error") {
        return ErrorBody::of(&serde_json::from_str(text).ok()?);
    }
    None
}

fn value_of(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok().filter(says_something)
}

/// Returns true if the value of a member called `error` is one: many answers carry an empty one.
fn says_something(error: &Value) -> bool {
    match error {
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => false,
    }
}

#[derive(Deserialize)]
struct AnswerEnvelope<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    choices: Option<Vec<AnswerChoice<'a>>>,
}

#[derive(Deserialize)]
struct AnswerChoice<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<AnswerMessage<'a>>,
}

#[derive(Deserialize)]
struct AnswerMessage<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

impl AnswerMessage<'_> {
    fn has_content(&self) -> bool {
        self.content
            .is_some_and(|content| !matches!(content.get(), "null" | "\"\"" | "[]"))
    }
}
