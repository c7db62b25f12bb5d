//! Answers as providers really send them, each with what it means. The shapes come from public documentation and bug
//! reports; the texts are written for this file.
//!
//! `NOW+90s`, `NOW+90s:ms` and `NOW+90s:date` stand for a time in the future, in seconds, milliseconds and RFC 3339.

use std::{
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    AccountFault::{self, *},
    Culprit, Failure, FailureClass,
    providers::{
        azure_speech, azure_vision,
        error_body::{ErrorBody, error_inside},
        http::RefusalClassifier,
        openai,
    },
};

/// What an answer means: its class, its culprit, the fault of the account and the wait in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Means(FailureClass, Culprit, Option<AccountFault>, Option<u64>);

const fn provider(wait: Option<u64>) -> Means {
    Means(FailureClass::Transient, Culprit::Provider, None, wait)
}
const fn sample() -> Means {
    Means(FailureClass::Transient, Culprit::NoFault, None, None)
}
const fn limited(wait: Option<u64>) -> Means {
    Means(FailureClass::RateLimited, Culprit::NoFault, None, wait)
}
const fn job() -> Means {
    Means(FailureClass::Permanent, Culprit::Job, None, None)
}
const fn credit(wait: Option<u64>) -> Means {
    Means(FailureClass::OutOfQuota, Culprit::Account, Some(Credit), wait)
}
const fn account(fault: AccountFault) -> Means {
    Means(FailureClass::Deployment, Culprit::Account, Some(fault), None)
}

/// One answer: who sends it, its status, headers and body, what it means, and a part of the message.
struct Row {
    from: &'static str,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    means: Means,
    says: &'static str,
}

const fn row(from: &'static str, status: u16, body: &'static str, means: Means, says: &'static str) -> Row {
    with(from, status, &[], body, means, says)
}

const fn with(
    from: &'static str,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    means: Means,
    says: &'static str,
) -> Row {
    Row {
        from,
        status,
        headers,
        body,
        means,
        says,
    }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Inputs of users, as reported.
    row("openrouter", 200, r#"{"error":{"message":"Rate limit exceeded: free-models-per-min","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"20","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"NOW+90s:ms"}}}}"#, limited(Some(90_000)), "Rate limit exceeded: free-models-per-min"),
    row("openrouter", 200, r#"{"error":{"message":"Rate limit exceeded: free-models-per-min","code":429,"metadata":{"headers":{"X-RateLimit-Reset":"1760000000000"}}}}"#, limited(None), "free-models-per-min"),
    row("openrouter", 200, r#"{"error":{"message":"Insufficient credits","code":402},"user_id":"user_x"}"#, credit(None), "Insufficient credits"),
    row("xai", 400, r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: ab***yz. You can obtain an API key from https://console.x.ai."}"#, account(Key), "openai refused the API key (400)"),
    row("openai", 429, r#"{"error":{"message":"Your account is not active, please check your billing details on our website.","type":"billing_not_active","param":null,"code":"billing_not_active"}}"#, credit(None), "billing_not_active"),
    row("litellm", 400, r#"{"error":{"message":"Budget has been exceeded! Current cost: 26.075, Max budget: 0.25","type":"budget_exceeded","param":null,"code":"400"}}"#, credit(None), "Max budget: 0.25"),
    with("openai", 429, &[("x-ratelimit-reset-requests", "7m12s")], r#"{"error":{"message":"Rate limit reached for requests","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#, limited(Some(432_000)), "rate_limit_exceeded"),
    row("azure-openai", 429, r#"{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 33 seconds."}}"#, limited(Some(33_000)), "33 seconds"),
    row("mistral", 422, r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted","input":4370}]},"type":"invalid_request_error","param":null,"code":null}"#, account(Parameter), "max_completion_tokens: Extra inputs are not permitted"),
    row("deepseek", 400, r#"{"error":{"message":"This response_format type is unavailable now","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#, account(Parameter), "response_format type is unavailable"),
    row("groq", 400, r#"{"error":{"message":"Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.","type":"invalid_request_error","code":"json_validate_failed","failed_generation":"{\"flashcards\": [{\"front\": \"What the pupil wrote"}}"#, sample(), "json_validate_failed"),
    row("openai", 403, r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.model.read. Check that you have the correct role in your organization.","type":"invalid_request_error","param":null,"code":null}}"#, account(Scope), "lacks a scope (403): api.model.read"),
    row("openai", 401, r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: model.request. Check that you have the correct role in your organization.","type":"invalid_request_error","param":null,"code":null}}"#, account(Scope), "lacks a scope (401): model.request"),
    row("openai", 429, r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#, credit(None), "insufficient_quota"),

    // OpenAI.
    row("openai", 429, r#"{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s. You can increase your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#, limited(Some(20_000)), "Rate limit reached"),
    row("openai", 429, r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 1500. Please try again in 986ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#, limited(Some(986)), "tokens per min"),
    row("openai", 429, r#"{"error":{"message":"Rate limit reached for gpt-4o-mini on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#, limited(Some(432_000)), "requests per day"),
    with("openai", 429, &[("x-ratelimit-remaining-requests", "49"), ("x-ratelimit-reset-requests", "8.64s"), ("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1m4s")], r#"{"error":{"message":"Rate limit reached","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#, limited(Some(64_000)), "Rate limit"),
    with("openai", 429, &[("retry-after-ms", "1250"), ("retry-after", "2"), ("x-ratelimit-reset-requests", "1h0m0s")], r#"{"error":{"message":"Slow down","type":"slow_down","param":null,"code":"slow_down"}}"#, limited(Some(1_250)), "slow_down"),
    row("openai", 429, r#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 41000.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#, job(), "Request too large"),
    row("openai", 400, r#"{"error":{"message":"This model's maximum context length is 128000 tokens. However, your messages resulted in 140000 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#, job(), "context_length_exceeded"),
    row("openai", 400, r#"{"error":{"message":"Invalid prompt: your prompt was flagged as potentially violating our usage policy. Please try again with a different prompt.","type":"invalid_request_error","param":null,"code":"invalid_prompt"}}"#, job(), "invalid_prompt"),
    row("openai", 400, r#"{"error":{"message":"Invalid schema for response_format 'flashcards': In context=(), 'additionalProperties' is required to be supplied and to be false.","type":"invalid_request_error","param":"response_format","code":null}}"#, account(Parameter), "Invalid schema"),
    row("openai", 400, r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#, account(Parameter), "max_tokens"),
    row("openai", 400, r#"{"error":{"message":"max_tokens is too large: 8740. This model supports at most 4096 completion tokens, whereas you provided 8740.","type":"invalid_request_error","param":"max_tokens","code":"invalid_value"}}"#, account(Parameter), "at most 4096"),
    row("openai", 400, r#"{"error":{"message":"'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.","type":"invalid_request_error","param":"messages","code":null}}"#, account(Parameter), "json_object"),
    row("openai", 401, r#"{"error":{"message":"Incorrect API key provided: sk-proj-****************7f3a. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#, account(Key), "openai refused the API key (401)"),
    row("openai", 403, r#"{"error":{"message":"Project `proj_x` does not have access to model `gpt-6-luna`","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#, account(Model), "gpt-6-luna"),
    row("openai", 404, r#"{"error":{"message":"The model `gpt-4o-mini` has been deprecated, learn more here: https://platform.openai.com/docs/deprecations","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#, account(Model), "gpt-4o-mini"),
    row("openai", 403, r#"{"error":{"message":"Country, region, or territory not supported","type":"request_forbidden","param":null,"code":"unsupported_country_region_territory"}}"#, account(Access), "Country"),
    row("openai", 503, r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"server_error","param":null,"code":null}}"#, provider(None), "overloaded"),
    with("openai", 500, &[("x-ratelimit-reset-tokens", "6m0s"), ("x-ratelimit-remaining-tokens", "0")], r#"{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}"#, provider(None), "Sorry"),
    row("cloudflare", 502, "<html>\r\n<head><title>502 Bad Gateway</title></head><body>rate limit, invalid api key</body></html>", provider(None), "502 Bad Gateway"),
    row("cloudflare", 520, "error code: 520", provider(None), "error code: 520"),
    row("openai", 429, r#"{"error":{"message":"You have reached your project's monthly spend limit.","type":"project_spend_limit_exceeded","param":null,"code":null}}"#, credit(None), "project_spend_limit_exceeded"),

    // Azure OpenAI.
    with("azure-openai", 429, &[("x-ms-retry-after-ms", "2500")], r#"{"error":{"code":"429","message":"Rate limit is exceeded."}}"#, limited(Some(2_500)), "Rate limit"),
    row("azure-openai", 429, r#"{"error":{"code":"RateLimitReached","message":"Your requests to gpt-4o for gpt-4o in East US have exceeded the token rate limit. Please retry after 1 second."}}"#, limited(Some(1_000)), "RateLimitReached"),
    row("azure-openai", 400, r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":true,"severity":"medium"}}}}}"#, job(), "content management policy"),
    row("azure-openai", 404, r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}"#, account(Model), "DeploymentNotFound"),
    row("azure-openai", 401, r#"{"statusCode":401,"message":"Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."}"#, account(Key), "openai refused the API key (401)"),
    row("azure-openai", 401, r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription."}}"#, account(Key), "refused the API key"),
    row("azure-openai", 400, r#"{"error":{"code":"BadRequest","message":"response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later"}}"#, account(Parameter), "json_schema"),
    row("azure-openai", 400, r#"{"error":{"message":"Unrecognized request argument supplied: max_completion_tokens","type":"invalid_request_error","param":null,"code":null}}"#, account(Parameter), "max_completion_tokens"),
    row("azure-openai", 403, r#"{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}"#, account(Access), "Firewall"),
    row("azure-openai", 408, r#"{"error":{"code":"Timeout","message":"The operation was timeout."}}"#, provider(None), "Timeout"),
    row("azure-openai", 200, r#"{"error":{"code":"429","message":"Too many requests. Please retry after 12 seconds."}}"#, limited(Some(12_000)), "200 with an error (429)"),
    row("azure-openai", 404, r#"{"error":{"code":"404","message":"Resource not found"}}"#, account(Endpoint), "Resource not found"),

    // OpenRouter.
    row("openrouter", 403, r#"{"error":{"message":"openai/gpt-4o-mini requires moderation on OpenInference. Your input was flagged for \"violence\". No credits were charged.","code":403,"metadata":{"reasons":["violence"],"flagged_input":"The text of a pupil","provider_name":"OpenInference","model_slug":"openai/gpt-4o-mini"}}}"#, job(), "was flagged"),
    row("openrouter", 429, r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\"error\":{\"message\":\"Rate limit reached. Please try again in 4.5s\",\"code\":\"rate_limit_exceeded\"}}","provider_name":"Fireworks","is_byok":false}},"user_id":"user_x"}"#, limited(Some(4_500)), "Rate limit reached"),
    row("openrouter", 429, r#"{"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"NOW+3600s:ms"},"provider_name":null}}}"#, limited(Some(3_600_000)), "free-models-per-day"),
    row("openrouter", 402, r#"{"error":{"message":"This request requires more credits, or fewer max_tokens. You requested up to 4370 tokens, but can only afford 1200.","code":402,"metadata":{"provider_name":null}}}"#, credit(None), "more credits"),
    row("openrouter", 403, r#"{"error":{"message":"Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys","code":403}}"#, credit(None), "Key limit exceeded"),
    row("openrouter", 401, r#"{"error":{"message":"No auth credentials found","code":401}}"#, account(Key), "refused the API key"),
    row("openrouter", 401, r#"{"error":{"message":"User not found.","code":401}}"#, account(Key), "refused the API key"),
    row("openrouter", 404, r#"{"error":{"message":"No endpoints found that can handle the requested parameters. To learn more about provider routing, visit: https://openrouter.ai/docs/provider-routing","code":404}}"#, account(Parameter), "requested parameters"),
    row("openrouter", 404, r#"{"error":{"message":"No endpoints found for acme/none-1.","code":404}}"#, account(Model), "acme/none-1"),
    row("openrouter", 400, r#"{"error":{"message":"acme/none-1 is not a valid model ID","code":400}}"#, account(Model), "not a valid model"),
    row("openrouter", 502, r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"upstream connect error or disconnect/reset before headers","provider_name":"DeepInfra"}}}"#, provider(None), "upstream connect error"),
    row("openrouter", 200, r#"{"id":"gen-1","provider":"Novita","object":"chat.completion","choices":[{"index":0,"finish_reason":"error","native_finish_reason":"error","error":{"code":502,"message":"Upstream error from Novita: Bad gateway"},"message":{"role":"assistant","content":""}}]}"#, provider(None), "200 with an error (502): Upstream error"),
    row("openrouter", 200, r#"{"choices":[{"index":0,"finish_reason":"error","error":{"code":429,"message":"Upstream is rate-limited. Please retry after 6 seconds."},"message":{"role":"assistant","content":"{\"flashcards\":[{\"front\":\"Half"}}]}"#, limited(Some(6_000)), "rate-limited"),
    row("openrouter", 400, r#"{"error":{"message":"{\"error\":{\"message\":\"Invalid input\",\"type\":\"invalid_request_error\",\"param\":\"response_format\",\"code\":\"invalid_request_error\"}}","type":"invalid_request_error"}}"#, account(Parameter), "Invalid input"),
    with("openrouter", 503, &[("retry-after", "5")], r#"{"error":{"message":"No available model provider meets your routing requirements","code":503}}"#, provider(Some(5_000)), "No available"),

    // LiteLLM.
    row("litellm", 401, r#"{"error":{"message":"Authentication Error, Invalid proxy server token passed. Received API Key = sk-...cdef, Key Hash (Token) =4e3c1f0d9b8a7e6f5d4c3b2a1f0e9d8c. Unable to find token in cache or `LiteLLM_VerificationTokenTable`","type":"token_not_found_in_db","param":"key","code":"401"}}"#, account(Key), "refused the API key (401)"),
    row("litellm", 401, r#"{"error":{"message":"key not allowed to access model. This key can only access models=['gpt-4o']. Tried to access gpt-6","type":"key_model_access_denied","param":"model","code":"401"}}"#, account(Model), "gpt-6"),
    row("litellm", 400, r#"{"error":{"message":"/chat/completions: Invalid model name passed in model=gpt-6. Call `/v1/models` to view available models for your key.","type":"None","param":"None","code":"400"}}"#, account(Model), "Invalid model name"),
    row("litellm", 429, r#"{"error":{"message":"litellm.RateLimitError: AzureException RateLimitError - Requests have exceeded call rate limit. Please retry after 59 seconds. Received Model Group=gpt-4o\nAvailable Model Group Fallbacks=None","type":"throttling_error","param":null,"code":"429"}}"#, limited(Some(59_000)), "throttling_error"),
    row("litellm", 401, r#"{"error":{"message":"Authentication Error, ExceededBudget: End User=class-7 over budget. Spend=0.0008, Budget=0.0001","type":"auth_error","param":"None","code":"401"}}"#, credit(None), "over budget"),
    row("litellm", 400, r#"{"error":{"message":"litellm.ContextWindowExceededError: OpenAIException - This model's maximum context length is 8192 tokens.","type":null,"param":null,"code":"400"}}"#, job(), "maximum context length"),
    row("litellm", 400, r#"{"error":{"message":"litellm.UnsupportedParamsError: groq does not support parameters: ['reasoning_effort'], for model=llama-3.1-8b.","type":"None","param":null,"code":"400"}}"#, account(Parameter), "reasoning_effort"),
    row("litellm", 500, r#"{"error":{"message":"litellm.InternalServerError: Connection error.","type":null,"param":null,"code":"500"}}"#, provider(None), "Connection error"),
    row("litellm", 400, r#"{"error":{"message":"litellm.ContentPolicyViolationError: AzureException - The response was filtered due to the prompt triggering a content filter","type":null,"param":null,"code":"400"}}"#, job(), "content filter"),

    // Gemini's compatible interface.
    row("gemini", 429, r#"[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaValue":"15"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}]"#, limited(Some(34_500)), "RESOURCE_EXHAUSTED"),
    row("gemini", 429, r#"[{"error":{"code":429,"message":"You exceeded your current quota.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"26s"}]}}]"#, credit(Some(26_000)), "exceeded your current quota"),
    row("gemini", 429, r#"{"error":{"message":"{\n  \"error\": {\n    \"code\": 429,\n    \"message\": \"Resource has been exhausted (e.g. check quota).\",\n    \"status\": \"RESOURCE_EXHAUSTED\"\n  }\n}\n","code":429,"status":"Too Many Requests"}}"#, limited(None), "Resource has been exhausted"),
    row("gemini", 400, r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com","metadata":{"service":"generativelanguage.googleapis.com"}}]}}]"#, account(Key), "refused the API key (400)"),
    row("gemini", 400, r#"[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"strict\" at 'response_format': Cannot find field.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"response_format"}]}]}}]"#, account(Parameter), "Unknown name"),
    row("gemini", 404, r#"[{"error":{"code":404,"message":"models/gemini-0 is not found for API version v1main, or is not supported for generateContent.","status":"NOT_FOUND"}}]"#, account(Model), "gemini-0"),
    row("gemini", 503, r#"[{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}]"#, provider(None), "overloaded"),
    row("gemini", 403, r#"[{"error":{"code":403,"message":"Your API key was reported as leaked. Please use another API key.","status":"PERMISSION_DENIED"}}]"#, account(Key), "refused the API key (403)"),
    row("gemini", 200, r#"[{"error":{"code":503,"message":"The service is currently unavailable.","status":"UNAVAILABLE"}}]"#, provider(None), "200 with an error"),
    row("gemini", 400, r#"[{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]"#, job(), "input token count"),

    // xAI.
    row("xai", 429, r#"{"code":"Some resource has been exhausted","error":"Your team 16f2151a has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."}"#, credit(None), "used all available credits"),
    row("xai", 403, r#"{"code":"The caller does not have permission to execute the specified operation","error":"Content violates usage guidelines. Team: t1, API key ID: k1, Model: grok-4, Failed check: SAFETY_CHECK_TYPE_BIO"}"#, job(), "violates usage guidelines"),
    row("xai", 404, r#"{"code":"Some requested entity was not found","error":"The model grok-0 does not exist or your team t1 does not have access to it."}"#, account(Model), "grok-0"),
    row("xai", 429, r#"{"code":"Some resource has been exhausted","error":"Too many requests for team t1 and model grok-4. Your team's rate limit is 60 requests per minute."}"#, limited(None), "60 requests per minute"),
    row("xai", 400, r#"{"code":"Client specified an invalid argument","error":"Model grok-4 does not support parameter reasoning_effort."}"#, account(Parameter), "reasoning_effort"),

    // Groq.
    row("groq", 429, r#"{"error":{"message":"Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing","type":"tokens","code":"rate_limit_exceeded"}}"#, limited(Some(4_770)), "rate_limit_exceeded"),
    row("groq", 429, r#"{"error":{"message":"Rate limit reached on tokens per day (TPD): Limit 500000, Used 500370, Requested 252. Please try again in 1m47.5s.","type":"tokens","code":"rate_limit_exceeded"}}"#, limited(Some(107_500)), "tokens per day"),
    row("groq", 413, r#"{"error":{"message":"Request too large for model `llama-3.1-8b-instant` on tokens per minute (TPM): Limit 6000, Requested 6294, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#, job(), "Request too large"),
    row("groq", 498, r#"{"error":{"message":"Flex tier capacity exceeded, please try again later","type":"flex","code":"capacity_exceeded"}}"#, limited(None), "capacity"),
    row("groq", 400, r#"{"error":{"message":"This model does not support response format `json_schema`. See supported models at https://console.groq.com/docs/structured-outputs","type":"invalid_request_error","param":"response_format"}}"#, account(Parameter), "json_schema"),
    row("groq", 400, r#"{"error":{"message":"The model `llama3-70b-8192` has been decommissioned and is no longer supported.","type":"invalid_request_error","code":"model_decommissioned"}}"#, account(Model), "decommissioned"),
    row("groq", 401, r#"{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}"#, account(Key), "refused the API key"),
    with("groq", 503, &[("retry-after", "2.5")], r#"{"error":{"message":"Service unavailable","type":"internal_server_error"}}"#, provider(Some(2_500)), "Service unavailable"),

    // Mistral.
    row("mistral", 401, r#"{"detail":"Unauthorized"}"#, account(Key), "refused the API key"),
    row("mistral", 429, r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300","raw_status_code":429}"#, limited(None), "Rate limit exceeded"),
    row("mistral", 429, r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"invalid_request_error","param":null,"code":"3505"}"#, limited(None), "capacity exceeded"),
    row("mistral", 400, r#"{"object":"error","message":"Invalid model: mistral-none","type":"invalid_model","param":null,"code":"1500"}"#, account(Model), "mistral-none"),
    row("mistral", 400, r#"{"object":"error","message":"Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length","type":"invalid_request_prompt","param":null,"code":"3051"}"#, job(), "too large for model"),
    row("mistral", 422, r#"{"object":"error","message":"{\"detail\":[{\"type\":\"extra_forbidden\",\"loc\":[\"body\",\"reasoning_effort\"],\"msg\":\"Extra inputs are not permitted\",\"input\":\"low\"}]}","type":"internal_error_proxy","param":null,"code":"1000"}"#, account(Parameter), "reasoning_effort: Extra"),
    row("mistral", 422, r#"{"detail":[{"type":"string_type","loc":["body","messages",1,"content"],"msg":"Input should be a valid string","input":7}]}"#, job(), "messages.content: Input should be"),
    row("mistral", 402, r#"{"object":"error","message":"You do not have an active subscription","type":"payment_required","param":null,"code":null}"#, credit(None), "subscription"),

    // DeepSeek.
    row("deepseek", 402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#, credit(None), "Insufficient Balance"),
    row("deepseek", 401, r#"{"error":{"message":"Authentication Fails, Your api key: ****abcd is invalid","type":"authentication_error","param":null,"code":"invalid_request_error"}}"#, account(Key), "refused the API key"),
    row("deepseek", 422, "Failed to deserialize the JSON body into the target type: response_format: response_format.type `json_schema` is unavailable now at line 1 column 900", account(Parameter), "json_schema"),
    row("deepseek", 400, r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#, account(Model), "Model Not Exist"),
    row("deepseek", 400, r#"{"error":{"message":"Content Exists Risk: inappropriate content","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#, job(), "Content Exists Risk"),
    row("deepseek", 503, r#"{"error":{"message":"Service is too busy. We advise users to temporarily switch to alternative LLM API service providers.","type":"service_unavailable_error","param":null,"code":"service_unavailable_error"}}"#, provider(None), "too busy"),

    // vLLM.
    row("vllm", 404, r#"{"object":"error","message":"The model `acme/none` does not exist.","type":"NotFoundError","param":null,"code":404}"#, account(Model), "acme/none"),
    row("vllm", 400, r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted', 'input': 800}]","type":"BadRequestError","param":null,"code":400}"#, account(Parameter), "max_completion_tokens"),
    row("vllm", 400, r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (630 in the messages, 4370 in the completion).","type":"BadRequestError","param":null,"code":400}}"#, job(), "maximum context length"),
    row("vllm", 401, r#"{"error":"Unauthorized"}"#, account(Key), "refused the API key"),
    row("vllm", 500, "Internal Server Error", provider(None), "Internal Server Error"),
    row("vllm", 400, r#"{"object":"error","message":"The provided JSON schema contains features not supported by xgrammar.","type":"BadRequestError","param":null,"code":400}"#, account(Parameter), "xgrammar"),
    row("vllm", 405, r#"{"detail":"Method Not Allowed"}"#, account(Endpoint), "Method Not Allowed"),

    // Azure Speech.
    row("azure-speech", 429, r#"{"error":{"code":"429","message":"Requests to the recognition operation have exceeded the call rate limit of your current S0 tier. Please retry after 26 seconds."}}"#, limited(Some(26_000)), "azure-speech answered 429"),
    row("azure-speech", 403, r#"{"error":{"code":"403","message":"Out of call volume quota for SpeechServices.F0 pricing tier. Please retry after 18 hours."}}"#, credit(Some(64_800_000)), "Out of call volume quota"),
    row("azure-speech", 401, r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}"#, account(Key), "azure-speech refused the API key (401)"),
    row("azure-speech", 400, r#"{"code":400,"message":"Unsupported value for language 'xx-XX': it is not supported"}"#, job(), "xx-XX"),
    row("azure-speech", 200, r#"{"error":{"code":"429","message":"Too many requests. Try again in 3 seconds."}}"#, limited(Some(3_000)), "200 with an error"),
    row("azure-speech", 200, r#"{"error":{"code":"InternalServerError","message":"An error occurred."}}"#, provider(None), "InternalServerError"),
    row("azure-speech", 408, "", provider(None), "408"),
    row("azure-speech", 404, r#"{"error":{"code":"404","message":"Resource not found"}}"#, account(Endpoint), "Resource not found"),

    // Azure Vision.
    row("azure-vision", 429, r#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 26 seconds."}"#, limited(Some(26_000)), "Rate limit is exceeded"),
    row("azure-vision", 403, r#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 2.12 days."}"#, credit(Some(86_400_000)), "2.12 days"),
    row("azure-vision", 400, r#"{"error":{"code":"InvalidRequest","message":"The image is invalid.","innererror":{"code":"InvalidImageSize","message":"The image must be between 50x50 and 16000x16000."}}}"#, job(), "(InvalidImageSize): The image must be"),
    row("azure-vision", 400, r#"{"error":{"code":"InvalidRequest","innererror":{"code":"FailedToProcess","message":"Could not extract image features."}}}"#, provider(None), "FailedToProcess"),
    row("azure-vision", 415, r#"{"error":{"code":"UnsupportedMediaType","message":"The content type is not supported. Model version unknown field."}}"#, job(), "content type"),
    row("azure-vision", 200, r#"{"error":{"code":"503","message":"The service is busy."}}"#, provider(None), "200 with an error (503)"),
    row("azure-vision", 200, r#"{"error":{"code":"InvalidImageFormat","message":"Input data is not a valid image."}}"#, provider(None), "InvalidImageFormat"),
    row("azure-vision", 401, r#"{"error":{"code":"PermissionDenied","message":"Access denied due to invalid subscription key or wrong API endpoint."}}"#, account(Key), "azure-vision refused the API key"),

    // Waits in other notations.
    with("any", 429, &[("retry-after", "Tue, 01 Jan 2999 00:00:00 GMT")], "", limited(Some(86_400_000)), "429"),
    with("any", 429, &[("x-ratelimit-reset", "NOW+45s")], "", limited(Some(45_000)), "429"),
    with("any", 429, &[("ratelimit-reset", "30")], "", limited(Some(30_000)), "429"),
    with("any", 429, &[("x-ratelimit-reset-tokens", "NOW+120s:date")], "", limited(Some(120_000)), "429"),
    with("any", 429, &[("x-ratelimit-reset-requests", "20ms"), ("x-ratelimit-reset-tokens", "1h2m3s")], "", limited(Some(3_723_000)), "429"),
    row("any", 429, r#"{"error":{"message":"Too many requests","retry_after_ms":1500}}"#, limited(Some(1_500)), "Too many"),
    row("any", 429, r#"{"error":"Too many requests","retry_after":12.5}"#, limited(Some(12_500)), "Too many"),
    row("any", 503, r#"{"detail":"Model is loading, retry in 1 minute and 30 seconds"}"#, provider(Some(90_000)), "loading"),
    row("any", 429, "Limit resets at NOW+60s:date, please wait", limited(Some(60_000)), "Limit resets"),
    row("any", 429, "retry after 3000 days", limited(Some(86_400_000)), "3000 days"),

    // Undocumented shapes: a safe default by status, and no panic.
    row("any", 400, r#"{"ok":false,"info":{"a":[1,{"b":"c"}]}}"#, job(), "openai answered 400"),
    row("any", 418, r#"{"ok":false}"#, account(Access), "openai answered 418"),
    row("any", 500, "[]", provider(None), "openai answered 500"),
    row("any", 200, r#"{"error":"something broke"}"#, provider(None), "something broke"),
    row("any", 400, r#"{"errors":["bad content","worse content"]}"#, job(), "bad content; worse content"),
    row("any", 429, r#"{"fault":{"faultstring":"x","detail":{"errorcode":"policies.ratelimit.QuotaViolation"}}}"#, limited(None), "QuotaViolation"),
    row("any", 302, "", account(Endpoint), "a redirect"),
];

fn classify_of(from: &str) -> RefusalClassifier {
    match from {
        "azure-speech" => azure_speech::classify,
        "azure-vision" => azure_vision::classify,
        _ => openai::classify,
    }
}

/// Puts times in the future in the place of their names.
fn at_this_time(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(at) = text.find("NOW+") {
        let seconds_end = at + text[at..].find('s').unwrap();
        let seconds: u64 = text[at + 4..seconds_end].parse().unwrap();
        let then = SystemTime::now() + Duration::from_secs(seconds);
        let since_epoch = then.duration_since(UNIX_EPOCH).unwrap();
        let rest = &text[seconds_end + 1..];
        let (value, length) = if rest.starts_with(":ms") {
            (since_epoch.as_millis().to_string(), 3)
        } else if rest.starts_with(":date") {
            (humantime_of(since_epoch.as_secs()), 5)
        } else {
            (since_epoch.as_secs().to_string(), 0)
        };
        text.replace_range(at..seconds_end + 1 + length, &value);
    }
    text
}

/// RFC 3339, made from an HTTP date.
fn humantime_of(seconds: u64) -> String {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    let parts: Vec<&str> = date.split(' ').collect();
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = months.find(parts[2]).unwrap() / 3 + 1;
    format!("{}-{month:02}-{}T{}Z", parts[3], parts[1], parts[4])
}

fn judged(row: &Row) -> Failure {
    let headers: HeaderMap = row
        .headers
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(&at_this_time(value)).unwrap(),
            )
        })
        .collect();
    let body = at_this_time(row.body);
    let body = if row.status == 200 {
        error_inside(body.as_bytes()).expect("an error inside a 200")
    } else {
        ErrorBody::parse(body.as_bytes())
    };
    classify_of(row.from)(row.status, &headers, &body)
}

#[test]
fn every_answer_is_understood() {
    assert!(ROWS.len() >= 80, "{}", ROWS.len());
    let mut wrong = String::new();
    for row in ROWS {
        let failure = judged(row);
        let wait = failure
            .retry_after()
            .map(|wait| u64::try_from(wait.as_millis()).unwrap());
        let Means(class, culprit, fault, wanted_wait) = row.means;
        let as_wanted =
            (failure.class(), failure.culprit(), failure.account_fault()) == (class, culprit, fault);
        // A time in the future comes nearer while the test runs, and a date has no fractions.
        let slack = if row.body.contains("NOW+") || row.headers.iter().any(|(_, v)| v.contains("NOW+")) {
            20_000
        } else {
            0
        };
        let waits = match (wait, wanted_wait) {
            (Some(got), Some(wanted)) => got <= wanted && got + slack >= wanted,
            (got, wanted) => got == wanted,
        };
        let says = failure.to_string().contains(row.says);
        if !(as_wanted && waits && says) {
            writeln!(
                wrong,
                "{} {} {}\n  wanted {:?} {:?}\n  got    {failure:?}",
                row.from, row.status, row.body, row.means, row.says
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Neither a key's fragments, nor what a pupil or a model wrote, nor an endless text.
#[test]
fn no_answer_gives_away_what_it_quotes() {
    for row in ROWS {
        let said = format!("{0} {0:?}", judged(row));
        for quoted in [
            "ab***yz", "7f3a", "****", "abcd", "sk-", "cdef", "4e3c1f0d", "pupil", "Half", "4370}",
        ] {
            assert!(!said.contains(quoted), "{quoted}: {said}");
        }
        assert!(said.len() < 3_000 && !said.contains(char::is_control), "{said}");
    }
}

/// A wrong key quoted in any other refusal shows as little.
#[test]
fn fragments_of_keys_are_masked_in_every_message() {
    for text in [
        "Bad request with sk-proj-abcdefgh1234",
        "token ab***yz is odd",
        "the key ending in 7f3a was used",
        "hash 4e3c1f0d9b8a7e6f5d4c3b2a1f0e9d8c",
        "header Bearer abcdef0123",
        "use gsk_0123456789abcdefgh or AIzaSyA0123456789",
    ] {
        let body = serde_json::json!({ "error": { "message": text } }).to_string();
        let said = openai::classify(400, &HeaderMap::new(), &ErrorBody::parse(body.as_bytes())).to_string();
        assert!(said.contains("[key]"), "{said}");
        for part in ["abcdefgh", "ab***", "7f3a", "4e3c", "0123456789", "abcdef0123"] {
            assert!(!said.contains(part), "{said}");
        }
    }
    // What only looks long is kept: it names the model.
    let body = br#"{"error":{"message":"the model meta-llama/Llama-3.1-8B-Instruct-Turbo in 01234567-89ab-cdef-0123-456789abcdef"}}"#;
    let said = openai::classify(400, &HeaderMap::new(), &ErrorBody::parse(body)).to_string();
    assert!(
        said.contains("Llama-3.1-8B-Instruct-Turbo") && said.contains("456789abcdef"),
        "{said}"
    );
}

/// Answers that are none of the provider's errors.
#[test]
fn a_usable_answer_is_no_error() {
    for body in [
        r#"{"choices":[{"message":{"content":"{}"},"finish_reason":"stop"}],"error":null}"#,
        r#"{"choices":[{"message":{"content":"{}"},"error":null}],"error":{}}"#,
        r#"{"choices":[{"message":{"content":"{}"}}],"error":{"message":"late","code":500}}"#,
        r#"{"choices":[]}"#,
        r#"{"RecognitionStatus":"Success","NBest":[{"PronScore":90}]}"#,
        r#"{"readResult":{"blocks":[]}}"#,
        r#"{"error":""}"#,
        "[]",
        "[1,2]",
        "7",
        "",
    ] {
        assert!(error_inside(body.as_bytes()).is_none(), "{body}");
    }
}

/// The log says how an unknown answer is built, and nothing that it contains.
#[test]
fn an_unknown_shape_is_told_without_its_content() {
    let body = ErrorBody::parse(
        br#"{"ok":false,"data":[{"answer":"secret words","n":7}],"a name with blanks":null}"#,
    );
    assert_eq!(
        body.unknown_shape.as_deref(),
        Some("{ok:bool,data:[{answer:text,n:number}],…:null}")
    );
}

#[test]
fn the_parameter_that_is_not_taken_is_named() {
    for (body, parameter) in [
        (
            r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."}}"#,
            Some("max_tokens"),
        ),
        (
            r#"{"error":{"message":"m","param":"response_format.json_schema","code":"unsupported_value"}}"#,
            Some("response_format"),
        ),
        (
            r#"{"message":{"detail":[{"type":"extra_forbidden","loc":["body","reasoning_effort"],"msg":"Extra inputs are not permitted"}]}}"#,
            Some("reasoning_effort"),
        ),
        (
            r#"{"error":{"message":"structured output is not possible, compile grammar"}}"#,
            Some("response_format"),
        ),
        (
            r#"{"error":{"message":"Unknown parameter","code":"unknown_parameter"}}"#,
            None,
        ),
    ] {
        let failure = openai::classify(400, &HeaderMap::new(), &ErrorBody::parse(body.as_bytes()));
        assert_eq!(failure.account_fault(), Some(Parameter), "{body}: {failure:?}");
        assert_eq!(failure.parameter(), parameter, "{body}");
    }
}
