//! Reads a refusal: the words in an error body, and how long to wait. Everything in it can be wrong, missing or
//! hostile; what cannot be read is left out.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::{Class, Failure, Provider};

/// Longest excerpt of what a provider sent, characters.
const EXCERPT: usize = 200;

/// Longest wait that is believed.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// `innererror` nests; nobody nests deeper than this.
const MAX_NESTING: usize = 8;

/// What a status means where the provider's own table says nothing else.
pub(super) fn class_of(status: u16) -> Class {
    match status {
        400 | 413 | 415 | 422 => Class::Permanent,
        402 => Class::OutOfQuota,
        408 | 409 | 425 | 500.. => Class::Transient,
        429 => Class::RateLimited,
        // Redirects, 401, 403, 404, 405 and the like: the URL, the key or its rights are wrong.
        _ => Class::Deployment,
    }
}

/// The failure that a refusal amounts to, in words. `wait` is what the provider asks for, kept where waiting helps.
pub(super) fn refusal(
    provider: Provider,
    status: u16,
    class: Class,
    wait: Option<Duration>,
    body: &ErrorBody,
) -> Failure {
    let waiting_helps = matches!(class, Class::Transient | Class::RateLimited | Class::OutOfQuota);
    let message = match status {
        300..=399 => {
            format!("{provider} answered {status}, a redirect, and none is followed: check its base URL")
        }
        // What is said about a key can repeat a part of it.
        401 => format!("{provider} refused the API key (401)"),
        _ => {
            let code = if body.code.is_empty() {
                String::new()
            } else {
                format!(" ({})", excerpt(&body.code))
            };
            let text = excerpt(&body.message);
            let colon = if text.is_empty() { "" } else { ": " };
            format!("{provider} answered {status}{code}{colon}{text}")
        }
    };
    Failure::new(class, message)
        .by(provider)
        .with_status(status)
        .with_retry_after(wait.filter(|_| waiting_helps))
}

/// An error body, in any of the shapes that providers and the edges in front of them use. What is missing is empty.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    /// `code`, also one that came as a number; the innermost, when errors nest.
    pub(super) code: String,
    /// `type`.
    pub(super) kind: String,
    /// `message`; the whole text when it is not JSON.
    pub(super) message: String,
}

impl ErrorBody {
    /// Reads `{"error": {…}}`, `{"error": "…"}`, `{code, message}`, `{statusCode, message}` or plain text.
    pub(super) fn parse(body: &[u8]) -> Self {
        let plain = || Self {
            message: String::from_utf8_lossy(body).into_owned(),
            ..Self::default()
        };
        match serde_json::from_slice::<Value>(body) {
            Ok(value @ Value::Object(_)) => value
                .get("error")
                .and_then(Self::of)
                .or_else(|| Self::of(&value))
                .unwrap_or_else(plain),
            _ => plain(),
        }
    }

    /// The same of an error object that stands inside an answer; `None` when it says nothing.
    pub(super) fn of(error: &Value) -> Option<Self> {
        let mut read = Self {
            message: text(Some(error)),
            ..Self::default()
        };
        let mut level = Some(error);
        for _ in 0..MAX_NESTING {
            let Some(error) = level.filter(|e| e.is_object()) else {
                break;
            };
            for (name, field) in [
                ("code", &mut read.code),
                ("type", &mut read.kind),
                ("message", &mut read.message),
            ] {
                let text = text(error.get(name));
                if !text.is_empty() {
                    *field = text;
                }
            }
            level = error.get("innererror");
        }
        (!read.code.is_empty() || !read.message.is_empty() || !read.kind.is_empty()).then_some(read)
    }

    /// Whether the message contains the words, whatever their case.
    pub(super) fn says(&self, words: &str) -> bool {
        self.message.to_ascii_lowercase().contains(words)
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// The beginning of a text on one line, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().nth(EXCERPT).is_none() {
        return line;
    }
    line.chars().take(EXCERPT - 1).chain(['…']).collect()
}

/// How long the headers ask to wait: `retry-after-ms`, then `retry-after` in seconds or as a date. At most 24 h.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(wait) = header("retry-after-ms").and_then(|ms| seconds(ms, 1e-3)) {
        return Some(wait);
    }
    let value = header(RETRY_AFTER.as_str())?;
    seconds(value, 1.0).or_else(|| {
        let until = httpdate::parse_http_date(value).ok()?;
        Some(
            until
                .duration_since(SystemTime::now())
                .unwrap_or_default()
                .min(LONGEST_WAIT),
        )
    })
}

/// How long a message asks to wait: "retry after 7 seconds", "replenished in 2.12 days", "… in 04:05:06". At most
/// 24 h.
pub(super) fn wait_in(message: &str) -> Option<Duration> {
    let message = message.to_ascii_lowercase();
    ["retry after ", "try again in ", "replenished in "]
        .iter()
        .find_map(|marker| {
            let (_, rest) = message.split_once(marker)?;
            let mut words = rest.split_whitespace();
            let amount = words
                .next()?
                .trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if amount.contains(':') {
                return timespan(amount);
            }
            let unit = match words.next().unwrap_or_default() {
                unit if unit.starts_with("day") => 86_400.0,
                unit if unit.starts_with("hour") => 3_600.0,
                unit if unit.starts_with("minute") => 60.0,
                _ => 1.0,
            };
            seconds(amount.strip_suffix('s').unwrap_or(amount), unit)
        })
}

/// `[days.]hours:minutes:seconds`, as .NET writes a span of time.
fn timespan(text: &str) -> Option<Duration> {
    let (hours, rest) = text.split_once(':')?;
    let (minutes, secs) = rest.split_once(':')?;
    let (days, hours) = hours.split_once('.').unwrap_or(("0", hours));
    let parts = [(days, 86_400.0), (hours, 3_600.0), (minutes, 60.0), (secs, 1.0)];
    parts
        .into_iter()
        .try_fold(Duration::ZERO, |sum, (part, unit)| {
            Some(sum + seconds(part, unit)?)
        })
        .map(believed)
}

/// A number of units, each so many seconds long. `None` for what is negative or no number.
fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok()? * unit;
    // Compared so that NaN is refused, and a huge number or infinity still counts as "long".
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).map_or(LONGEST_WAIT, believed))
}

fn believed(wait: Duration) -> Duration {
    wait.min(LONGEST_WAIT)
}
