//! Finds the wait that a provider asks for, in headers, fields of the body, or the text of the message.
//!
//! Everything in an answer can be wrong, missing or hostile. A wait that cannot be read is left out, and none is longer
//! than 24 hours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::error_body::ErrorBody;

/// Longest wait that is believed.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// Numbers from here on are a time since 1970 in milliseconds, not a span: they would be 30 years.
const EPOCH_MILLIS: f64 = 1e12;
/// Numbers from here on are a time since 1970 in seconds.
const EPOCH_SECONDS: f64 = 1e9;

/// Headers that say how long to wait: the most exact first.
const RETRY_HEADERS: [(&str, f64); 3] = [
    ("retry-after-ms", 1e-3),
    ("x-ms-retry-after-ms", 1e-3),
    ("retry-after", 1.0),
];

/// Names of the headers of each limit: the remaining room, and the time of the reset.
const LIMIT_HEADERS: [(&str, &str); 8] = [
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    (
        "x-ratelimit-remaining-input-tokens",
        "x-ratelimit-reset-input-tokens",
    ),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("x-ratelimit-remaining", "x-ratelimit-reset-after"),
    ("x-rate-limit-remaining", "x-rate-limit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
    (
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
];

/// Words in front of a span of time.
const SPAN_WORDS: [&str; 9] = [
    "retry after ",
    "try again after ",
    "try again in ",
    "retry in ",
    "replenished in ",
    "resets in ",
    "reset in ",
    "please wait ",
    "available again in ",
];

/// Words in front of a point in time.
const TIME_WORDS: [&str; 5] = [
    "retry after ",
    "try again at ",
    "resets at ",
    "reset at ",
    "until ",
];

/// How long the answer asks to wait. Resets of limits count for `limited` answers only: every answer carries them.
pub(super) fn asked(headers: &HeaderMap, body: &ErrorBody, limited: bool) -> Option<Duration> {
    let header = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let embedded = |name: &str| {
        let (_, value) = body.headers.iter().find(|(known, _)| known == name)?;
        Some(value.as_str())
    };
    retry_after(&header)
        .or(body.wait)
        .or_else(|| retry_after(&embedded))
        .or_else(|| wait_in(&body.message))
        .or_else(|| wait_in(&body.words))
        .or_else(|| limited.then(|| reset(&header).max(reset(&embedded))).flatten())
}

/// The wait in a header that names it outright.
fn retry_after<'a>(header: &dyn Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    RETRY_HEADERS
        .iter()
        .find_map(|(name, unit)| seconds(header(name)?, *unit))
        .or_else(|| {
            let text = header("retry-after")?;
            date(text).map(until_then).or_else(|| span(text))
        })
}

/// The longest wait until a limit that is used up is reset. Where no header says which is used up, each may be.
fn reset<'a>(header: &dyn Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    let used_up = |name: &str| {
        header(name)
            .and_then(|rest| rest.parse::<f64>().ok())
            .map(|rest| rest <= 0.0)
    };
    let any_is_used_up = LIMIT_HEADERS.iter().any(|(rest, _)| used_up(rest) == Some(true));
    LIMIT_HEADERS
        .iter()
        .filter(|(rest, _)| !any_is_used_up || used_up(rest) == Some(true))
        .filter_map(|(_, reset)| moment(header(reset)?))
        // A reset that is over says nothing about the limit that refuses now.
        .filter(|wait| !wait.is_zero())
        .max()
}

/// A reset in any notation: a span (`7m12s`, `20ms`, `33`), a time since 1970 in seconds or milliseconds, or a date.
fn moment(text: &str) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        let since_epoch = match number {
            n if n >= EPOCH_MILLIS => n / 1e3,
            n if n >= EPOCH_SECONDS => n,
            _ => return seconds(text, 1.0),
        };
        let then = UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(since_epoch).ok()?)?;
        return Some(until_then(then));
    }
    // A date begins with a number, too.
    date(text).map(until_then).or_else(|| span(text))
}

/// The wait in a field of an error body: `retry_after`, `retryDelay` of Google's `RetryInfo` and the like.
pub(super) fn field(name: &str, value: &Value) -> Option<Duration> {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let unit = match name.to_ascii_lowercase().as_str() {
        "retryafter" | "retryafterseconds" | "retryaftersecs" | "retrydelay" => 1.0,
        "retryafterms" | "retryaftermilliseconds" => 1e-3,
        _ => return None,
    };
    match value {
        Value::Number(number) => seconds(&number.to_string(), unit),
        Value::String(text) => seconds(text.trim(), unit).or_else(|| moment(text.trim())),
        Value::Object(parts) => {
            let part = |name: &str| parts.get(name).and_then(Value::as_f64).unwrap_or_default();
            seconds(&(part("seconds") + part("nanos") * 1e-9).to_string(), 1.0)
        }
        _ => None,
    }
}

/// The wait that a message asks for: "retry after 7 seconds", "try again in 7m12s", "replenished in 2.12 days", "… in
/// 04:05:06", "resets at 2026-11-30T01:00:00Z".
pub(super) fn wait_in(message: &str) -> Option<Duration> {
    let message = message.to_ascii_lowercase();
    let behind = |marker: &&str| message.split_once(*marker).map(|(_, rest)| rest.trim_start());
    SPAN_WORDS
        .iter()
        .filter_map(behind)
        .find_map(|rest| {
            let first = rest.split_whitespace().next()?;
            let first = first.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if first.contains(':') {
                timespan(first)
            } else {
                span(rest)
            }
        })
        .or_else(|| {
            TIME_WORDS.iter().filter_map(behind).find_map(|rest| {
                let time = rest.split(|c: char| c.is_whitespace() || c == ',').next()?;
                let time = time.trim_matches(|c: char| !c.is_ascii_alphanumeric());
                Some(until_then(rfc3339(time)?))
            })
        })
}

/// A span in words or letters at the beginning of a text: `7m12s`, `1h2m3.5s`, `20ms`, `26 seconds.`, `1 minute and 30
/// seconds`. A number without a unit is in seconds. `None` where the text has no number.
fn span(text: &str) -> Option<Duration> {
    let mut rest = text.trim_start();
    let mut sum = None;
    while let Some((number, behind)) = leading_number(rest) {
        let spaced = behind.trim_start();
        let unit_ends = spaced
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(spaced.len());
        let (unit, behind_unit) = spaced.split_at(unit_ends);
        let unit = match unit.to_ascii_lowercase().as_str() {
            "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1e-3,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            // The first number of a text may go without its unit; a later one belongs to the text behind the span.
            _ if sum.is_none() => return seconds(number, 1.0),
            _ => break,
        };
        sum = Some(believed(sum.unwrap_or_default() + seconds(number, unit)?));
        rest = behind_unit.trim_start_matches([' ', ',']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    sum
}

/// The digits, with at most one fraction, that a text begins with.
fn leading_number(text: &str) -> Option<(&str, &str)> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut end = digits(text);
    if end == 0 {
        return None;
    }
    if let Some(fraction) = text[end..].strip_prefix('.') {
        let length = digits(fraction);
        end += if length == 0 { 0 } else { 1 + length };
    }
    Some(text.split_at(end))
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

/// A date as HTTP or RFC 3339 writes it.
fn date(text: &str) -> Option<SystemTime> {
    rfc3339(text).or_else(|| httpdate::parse_http_date(text).ok())
}

/// A date such as `2026-11-30T01:02:03.5Z`; an offset is respected.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.to_ascii_uppercase();
    let (date, clock) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let offset_at = clock.find(['Z', '+', '-']).unwrap_or(clock.len());
    let (clock, offset) = clock.split_at(offset_at);
    let mut clock = clock.splitn(3, ':');
    let (hour, minute) = (
        clock.next()?.parse::<i64>().ok()?,
        clock.next()?.parse::<i64>().ok()?,
    );
    let second = clock.next().unwrap_or("0").parse::<f64>().ok()?;
    let offset = match offset.split_at_checked(1) {
        None | Some(("Z", _)) => 0,
        Some((sign, offset)) => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "-" { -offset } else { offset }
        }
    };
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second)
        && offset.abs() < 86_400;
    if !in_range {
        return None;
    }
    // Days from 1970 in the Gregorian calendar, with the year beginning in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let whole = days * 86_400 + hour * 3600 + minute * 60 - offset;
    let since_epoch = Duration::from_secs(u64::try_from(whole).ok()?);
    UNIX_EPOCH.checked_add(since_epoch + Duration::try_from_secs_f64(second).ok()?)
}

fn until_then(then: SystemTime) -> Duration {
    believed(then.duration_since(SystemTime::now()).unwrap_or_default())
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
