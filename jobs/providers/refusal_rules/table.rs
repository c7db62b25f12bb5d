//! The table of refusals, over all providers.

use crate::AccountFault;

/// The meaning of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalMeaning {
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
pub(super) enum Statuses {
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
    pub(super) const fn contain(self, status: u16) -> bool {
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
pub(super) struct RefusalRule {
    pub(super) meaning: RefusalMeaning,
    pub(super) statuses: Statuses,
    /// Codes and types, in lower case. Separators do not matter.
    pub(super) codes: &'static [&'static str],
    /// Parts of messages, in lower case; `&` joins parts that must all be there.
    pub(super) words: &'static [&'static str],
    /// True if it is about language models: for Azure Speech and Vision the same words mean the recording or image.
    pub(super) models_only: bool,
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
pub(super) const RULES: &[RefusalRule] = &[
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
