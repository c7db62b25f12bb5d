//! Decides the class and the culprit of a refusal: one table for all providers, by meaning.
//!
//! A refusal is an answer other than 2xx, or an error inside a 2xx. The table is read from top to bottom, and the first
//! rule that fits decides. A rule looks at the status, at every code and type in the body, and at the words of its
//! messages. Where no rule fits, the status decides alone.
//!
//! The effect of each culprit is the business of retry, gate and queue; see [`Culprit`].

use reqwest::header::HeaderMap;
use tracing::warn;

use super::{
    error_body::{ErrorBody, excerpt},
    retry_after,
};
use crate::{AccountFault, Culprit, Failure, FailureClass, Provider};

/// The meaning of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefusalMeaning {
    /// The input was flagged or violates a policy.
    Flagged,
    /// The input does not fit the model, or the request is larger than any limit allows.
    TooLarge,
    /// The model wrote something that the provider itself could not use: another sample can be good.
    BadSample,
    /// Too many calls at a time.
    RateLimited,
    /// The provider stumbled.
    Stumbled,
    /// The account or the deployment is at fault.
    Account(AccountFault),
}

/// Which statuses a rule looks at.
#[derive(Debug, Clone, Copy)]
enum Statuses {
    /// All but the provider's own errors (5xx): their words are about the provider.
    Refusals,
    /// A 400, 404, 405, 415, 422 or 501: the request as such is not taken.
    BadRequests,
    /// All but a 429 and the provider's own errors.
    NotLimits,
    /// A 400 or 5xx: what 401, 403, 404 and 429 say is more than any code beside them.
    Stumbles,
    /// All.
    All,
}

impl Statuses {
    const fn contain(self, status: u16) -> bool {
        match self {
            Self::Refusals => status < 500,
            Self::BadRequests => matches!(status, 400 | 404 | 405 | 415 | 422 | 501),
            Self::NotLimits => status < 500 && status != 429,
            Self::Stumbles => !matches!(status, 401 | 403 | 404 | 429),
            Self::All => true,
        }
    }
}

/// One row of the table.
struct RefusalRule {
    meaning: RefusalMeaning,
    statuses: Statuses,
    /// Codes and types, in lower case. Separators do not matter.
    codes: &'static [&'static str],
    /// Parts of messages, in lower case; `&` joins parts that must all be there.
    words: &'static [&'static str],
    /// True if it is about language models: for Azure Speech and Vision the same words mean the recording or image.
    models_only: bool,
}

const fn rule(
    meaning: RefusalMeaning,
    statuses: Statuses,
    codes: &'static [&'static str],
    words: &'static [&'static str],
) -> RefusalRule {
    RefusalRule {
        meaning,
        statuses,
        codes,
        words,
        models_only: false,
    }
}

const fn models(rule: RefusalRule) -> RefusalRule {
    RefusalRule {
        models_only: true,
        ..rule
    }
}

/// The table. The order matters: a key's budget is no matter of the key, and a flagged text can come as a 403.
const RULES: &[RefusalRule] = &[
    models(rule(
        RefusalMeaning::Flagged,
        Statuses::Refusals,
        &[
            "content_filter",
            "content_policy_violation",
            "content_moderation",
            "content_blocked",
            "responsible_ai_policy_violation",
            "moderation_blocked",
            "data_inspection_failed",
            "invalid_prompt",
            "prohibited_content",
            "sensitive_content",
            "flagged",
        ],
        &[
            "content management policy",
            "content policy",
            "content filter",
            "content was blocked",
            "safety system",
            "safety_check",
            "safety check",
            "safety reasons",
            "was flagged",
            "been flagged",
            "were flagged",
            "violates usage guidelines",
            "violating our usage polic",
            "violate our usage polic",
            "violates our usage polic",
            "inappropriate content",
        ],
    )),
    models(rule(
        RefusalMeaning::BadSample,
        Statuses::All,
        &["json_validate_failed", "tool_use_failed", "output_parse_failed"],
        &[
            "failed to generate json",
            "failed to validate json",
            "failed_generation",
        ],
    )),
    rule(
        RefusalMeaning::Account(AccountFault::Credit),
        Statuses::All,
        &[
            "insufficient_quota",
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_funds",
            "credit_balance_exhausted",
            "credits_exhausted",
            "spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "exceeded_current_quota_error",
            "billing_not_active",
            "billing_hard_limit_reached",
            "billing_error",
            "budget_exceeded",
            "payment_required",
            "quota_exceeded_for_account",
            "arrearage",
        ],
        &["out of call volume quota"],
    ),
    models(rule(
        RefusalMeaning::Account(AccountFault::Parameter),
        Statuses::BadRequests,
        &[],
        &[
            "supports at most&completion tokens",
            "can handle the requested parameters",
        ],
    )),
    models(rule(
        RefusalMeaning::TooLarge,
        Statuses::Refusals,
        &[
            "context_length_exceeded",
            "request_too_large",
            "string_above_max_length",
            "token_limit_exceeded",
            "payload_too_large",
            "input_too_long",
        ],
        &[
            "maximum context length",
            "context length exceeded",
            "context window",
            "request too large",
            "too large for model",
            "request entity too large",
            "prompt is too long",
            "prompt too long",
            "input is too long",
            "input token count",
            "input tokens exceed",
            "reduce the length",
            "reduce your message size",
            "maximum number of tokens allowed",
            "maximum prompt length",
        ],
    )),
    rule(
        RefusalMeaning::Account(AccountFault::Credit),
        Statuses::Refusals,
        &[],
        &[
            "insufficient credits",
            "insufficient balance",
            "insufficient quota",
            "insufficient funds",
            "insufficient account balance",
            "never purchased credits",
            "requires more credits",
            "used all available credits",
            "credits are depleted",
            "credit balance is too low",
            "out of credits",
            "no credits",
            "run out of credits",
            "check your billing details",
            "account is not active",
            "billing hard limit",
            "payment required",
            "monthly spending limit",
            "spending limit",
            "spend limit",
            "spending cap",
            "budget has been exceeded",
            "budget exceeded",
            "exceededbudget",
            "exceeded budget",
            "over budget",
            "key limit exceeded",
            "account balance",
            "suspended due to&balance",
        ],
    ),
    rule(
        RefusalMeaning::RateLimited,
        Statuses::Refusals,
        &[
            "rate_limit_exceeded",
            "rate_limit_error",
            "rate_limited",
            "rate_limit_reached",
            "rate_limit",
            "throttled",
            "throttling_error",
            "throttling",
            "too_many_requests",
            "resource_exhausted",
            "slow_down",
            "capacity_exceeded",
        ],
        &[],
    ),
    rule(
        RefusalMeaning::Account(AccountFault::Credit),
        Statuses::Refusals,
        &[],
        &[
            "exceeded your current quota",
            "quota has been exhausted",
            "exceeded your monthly quota",
        ],
    ),
    rule(
        RefusalMeaning::Account(AccountFault::Scope),
        Statuses::NotLimits,
        &[
            "insufficient_scope",
            "missing_scope",
            "insufficient_permissions",
            "missing_permissions",
        ],
        &[
            "missing scope",
            "insufficient permissions",
            "missing permission",
            "lacks the required scope",
        ],
    ),
    models(rule(
        RefusalMeaning::Account(AccountFault::Model),
        Statuses::NotLimits,
        &[
            "model_not_found",
            "deployment_not_found",
            "model_not_available",
            "model_decommissioned",
            "model_deprecated",
            "model_not_active",
            "model_terminated",
            "model_permission_blocked",
            "invalid_model",
            "unknown_model",
            "unsupported_model",
            "key_model_access_denied",
            "team_model_access_denied",
            "user_model_access_denied",
        ],
        &[
            "model&does not exist",
            "deployment&does not exist",
            "model&not found",
            "models/&is not found",
            "model&decommissioned",
            "model&has been deprecated",
            "model&no longer available",
            "model&has been retired",
            "model&has been shut down",
            "model not exist",
            "not a valid model",
            "invalid model",
            "unknown model",
            "no endpoints found",
            "not have access to model",
            "not have access to the model",
            "not allowed to access model",
        ],
    )),
    rule(
        RefusalMeaning::Account(AccountFault::Key),
        Statuses::NotLimits,
        &[
            "invalid_api_key",
            "incorrect_api_key",
            "api_key_invalid",
            "invalid_api_token",
            "invalid_authentication",
            "invalid_authentication_error",
            "authentication_error",
            "unauthenticated",
            "expired_api_key",
            "token_expired",
            "token_not_found_in_db",
            "expired_key",
        ],
        &[
            "incorrect api key",
            "invalid api key",
            "api key&invalid",
            "api key not valid",
            "api key not found",
            "api key expired",
            "api key has expired",
            "api key was reported as leaked",
            "api key has been&disabled",
            "api key has been&revoked",
            "invalid x-api-key",
            "invalid subscription key",
            "no auth credentials",
            "authentication fails",
            "invalid bearer token",
            "invalid authentication",
            "invalid proxy server token",
        ],
    ),
    rule(
        RefusalMeaning::RateLimited,
        Statuses::Refusals,
        &[],
        &[
            "rate limit",
            "rate-limit",
            "too many requests",
            "requests per minute",
            "quota exceeded for quota metric",
            "capacity exceeded",
        ],
    ),
    // Azure: the service calls its own trouble so, whatever the status.
    rule(
        RefusalMeaning::Stumbled,
        Statuses::Stumbles,
        &[
            "timeout",
            "internal_server_error",
            "storage_exception",
            "failed_to_process",
        ],
        &[],
    ),
    models(rule(
        RefusalMeaning::Account(AccountFault::Parameter),
        Statuses::BadRequests,
        &[
            "unsupported_parameter",
            "unsupported_value",
            "unknown_parameter",
            "invalid_json_schema",
            "invalid_parameter_error",
            "extra_forbidden",
        ],
        &[
            "unsupported parameter",
            "unsupported value",
            "unknown parameter",
            "unrecognized parameter",
            "unrecognized request argument",
            "unrecognized key",
            "unexpected keyword argument",
            "unknown field",
            "unknown name",
            "extra inputs are not permitted",
            "extra fields not permitted",
            "additional properties are not allowed",
            "is not supported with this model",
            "not supported for this model",
            "not supported by this model",
            "does not support the parameter",
            "does not support parameters",
            "is unavailable now",
            "invalid schema",
            "response_format",
            "response format",
            "json_schema",
            "json schema",
            "json mode",
            "structured output",
            "xgrammar",
            "grammar error",
            "compile grammar",
            "guided decoding",
            "guided_json",
            "reasoning_effort",
            "reasoning effort",
            "max_completion_tokens",
            "max_tokens&too large",
            "max_tokens&not supported",
            "streaming&not supported",
            "does not support streaming",
            "streaming&not available",
            "verified to stream",
        ],
    )),
];

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
