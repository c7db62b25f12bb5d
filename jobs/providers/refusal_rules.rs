//! Decides the class and the culprit of a refusal: one table for all providers, by meaning.
//!
//! A refusal is an answer other than 2xx, or an error inside a 2xx. The [`table`] is read from top to bottom, and the first
//! rule that fits decides. A rule looks at the status, at every code and type in the body, and at the words of its
//! messages. Where no rule fits, the status decides alone.
//!
//! The effect of each culprit is the business of retry, gate and queue; see [`Culprit`].

mod table;

use reqwest::header::HeaderMap;
use tracing::warn;

use self::table::{RULES, RefusalMeaning, RefusalRule, Statuses};
use super::{
    error_body::{ErrorBody, excerpt},
    retry_after,
};
use crate::{AccountFault, Culprit, Failure, FailureClass, Provider};

/// Request parameters of which the provider's refusal is the deployment's matter, whatever its words. Names that a
/// message can use in another sense are left out; `param` may still name them.
const PARAMETERS: [&str; 16] = [
    "response_format",
    "json_schema",
    "max_completion_tokens",
    "max_tokens",
    "reasoning_effort",
    "stream_options",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "prompt_cache_breakpoint",
    "safety_identifier",
    "verbosity",
    "temperature",
    "top_p",
    "seed",
];

/// The meaning of an answer other than 2xx, or of an error inside a 2xx.
pub(super) fn refusal(provider: Provider, status: u16, headers: &HeaderMap, body: &ErrorBody) -> Failure {
    let meant = effective_status(status, body);
    let meaning = meaning(provider, meant, body);
    let (class, culprit, fault) = match meaning {
        Some(meaning) => verdict(meaning),
        None => by_status(meant),
    };
    if let Some(shape) = &body.unknown_shape {
        warn!(%provider, status, shape, class = class.as_str(),
            "{provider} sent an error of a shape that is not known: it is judged by its status");
    }
    let wait = match class {
        FailureClass::Transient | FailureClass::RateLimited | FailureClass::OutOfQuota => {
            retry_after::asked(headers, body, class == FailureClass::RateLimited)
        }
        _ => None,
    };
    let parameter = match fault {
        Some(AccountFault::Parameter) => named_parameter(body),
        _ => None,
    };
    let failure = Failure::new(class, message(provider, status, fault, body))
        .by(provider)
        .with_status(status)
        .with_retry_after(wait)
        .with_parameter(parameter)
        .blaming(culprit);
    match fault {
        Some(fault) => failure.with_account_fault(fault),
        None => failure,
    }
}

fn meaning(provider: Provider, status: u16, body: &ErrorBody) -> Option<RefusalMeaning> {
    let is_model = provider == Provider::OpenAi;
    let named = body
        .parameter
        .as_deref()
        .is_some_and(|name| PARAMETERS.contains(&name) || name == "stream");
    let fits = |rule: &&RefusalRule| {
        (is_model || !rule.models_only)
            && rule.statuses.contain(status)
            && (rule
                .codes
                .iter()
                .any(|code| body.has_code(code) || is_limit_of(code, body))
                || rule.words.iter().any(|words| body.says(words)))
    };
    let found = RULES.iter().find(fits).map(|rule| rule.meaning);
    // Google counts a day's free requests under the same code as a minute's.
    if found == Some(RefusalMeaning::RateLimited) && body.codes.iter().any(|code| code.contains("perday")) {
        return Some(RefusalMeaning::Account(AccountFault::Credit));
    }
    let is_parameter = is_model && named && Statuses::BadRequests.contain(status);
    found.or(is_parameter.then_some(RefusalMeaning::Account(AccountFault::Parameter)))
}

/// Returns true if a code names a limit of the account in front of the known words: `project_spend_limit_exceeded`.
fn is_limit_of(code: &str, body: &ErrorBody) -> bool {
    code == "spend_limit_exceeded"
        && body
            .codes
            .iter()
            .any(|known| known.ends_with("_spend_limit_exceeded"))
}

const fn verdict(meaning: RefusalMeaning) -> (FailureClass, Culprit, Option<AccountFault>) {
    match meaning {
        RefusalMeaning::Flagged | RefusalMeaning::TooLarge => (FailureClass::Permanent, Culprit::Job, None),
        RefusalMeaning::BadSample => (FailureClass::Transient, Culprit::NoFault, None),
        RefusalMeaning::RateLimited => (FailureClass::RateLimited, Culprit::NoFault, None),
        RefusalMeaning::Stumbled => (FailureClass::Transient, Culprit::Provider, None),
        RefusalMeaning::Account(AccountFault::Credit) => (
            FailureClass::OutOfQuota,
            Culprit::Account,
            Some(AccountFault::Credit),
        ),
        RefusalMeaning::Account(fault) => (FailureClass::Deployment, Culprit::Account, Some(fault)),
    }
}

/// The verdict by the status alone.
const fn by_status(status: u16) -> (FailureClass, Culprit, Option<AccountFault>) {
    match status {
        400 | 413 | 415 | 422 => (FailureClass::Permanent, Culprit::Job, None),
        401 => verdict(RefusalMeaning::Account(AccountFault::Key)),
        402 => verdict(RefusalMeaning::Account(AccountFault::Credit)),
        408 | 409 | 424 | 425 | 500.. => verdict(RefusalMeaning::Stumbled),
        // 498 is Groq's "no capacity in this service tier".
        429 | 498 => verdict(RefusalMeaning::RateLimited),
        300..=399 | 404 | 405 | 410 => verdict(RefusalMeaning::Account(AccountFault::Endpoint)),
        _ => verdict(RefusalMeaning::Account(AccountFault::Access)),
    }
}

/// The status that an error means: for one inside a 2xx, what its own code says; else 500, which is tried again.
fn effective_status(status: u16, body: &ErrorBody) -> u16 {
    if !(200..300).contains(&status) {
        return status;
    }
    let code = |code: &String| match code.as_str() {
        "invalid_argument" | "failed_precondition" | "out_of_range" => Some(400),
        "unauthenticated" => Some(401),
        "permission_denied" => Some(403),
        "not_found" => Some(404),
        "resource_exhausted" => Some(429),
        "internal" | "unavailable" | "unknown" => Some(500),
        "deadline_exceeded" => Some(504),
        text => text.parse().ok().filter(|status| (400..600).contains(status)),
    };
    // The innermost error knows best.
    body.codes.iter().rev().find_map(code).unwrap_or(500)
}

/// The parameter that is not taken: the one that a field names, else the first that the words name.
fn named_parameter(body: &ErrorBody) -> Option<String> {
    if let Some(parameter) = &body.parameter {
        return Some(parameter.clone());
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = body
        .words
        .split(|c: char| !is_name(c))
        .find(|word| PARAMETERS.contains(word));
    let about_the_form = [
        "response format",
        "json schema",
        "json mode",
        "structured output",
        "grammar",
        "schema",
        "guided",
    ];
    named.map(str::to_owned).or_else(|| {
        let mut words = body.words.split(|c: char| !is_name(c));
        if words.any(|word| matches!(word, "stream" | "streaming")) {
            return Some("stream".to_owned());
        }
        let is_form = about_the_form.iter().any(|words| body.words.contains(words));
        is_form.then(|| "response_format".to_owned())
    })
}

/// Words the failure. It omits a provider's text about a key, because that text can repeat a part of the key.
fn message(provider: Provider, status: u16, fault: Option<AccountFault>, body: &ErrorBody) -> String {
    if (300..400).contains(&status) {
        return format!("{provider} answered {status}, a redirect, and none is followed: check its base URL");
    }
    match fault {
        Some(AccountFault::Key) => return format!("{provider} refused the API key ({status})"),
        Some(AccountFault::Scope) => {
            let scopes = scopes(&body.words);
            let colon = if scopes.is_empty() { "" } else { ": " };
            return format!("{provider}: the API key lacks a scope ({status}){colon}{scopes}");
        }
        _ => {}
    }
    let answered = match status {
        200..=299 => format!("{provider} answered {status} with an error"),
        _ => format!("{provider} answered {status}"),
    };
    let code = match body.code.as_str() {
        "" => String::new(),
        code => format!(" ({})", excerpt(code)),
    };
    let text = excerpt(&body.message);
    let colon = if text.is_empty() { "" } else { ": " };
    format!("{answered}{code}{colon}{text}")
}

/// The scopes that are missing: the dotted words behind "scopes".
fn scopes(words: &str) -> String {
    let Some((_, rest)) = words.split_once("scope") else {
        return String::new();
    };
    let names = rest
        .split(|c: char| c.is_whitespace() || c == ',')
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
        .filter(|word| {
            let plain = |c: char| c.is_ascii_alphabetic() || "._:-".contains(c);
            word.contains(['.', ':']) && word.len() <= 64 && word.chars().all(plain)
        });
    names.take(4).collect::<Vec<_>>().join(", ")
}
