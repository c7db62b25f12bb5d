//! OpenAI: its refusals, and its request on the wire.

use serde_json::{Value, json};

use super::{OPENAI_KEY, PATIENT, check_table, clients};
use crate::{
    FailureClass::*,
    providers::{error_body::ErrorBody, openai::classify},
    testing::server::{Play, Server},
};

#[test]
fn refusals() {
    check_table(
        classify,
        &[
            (429, &[("retry-after", "20")], br#"{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#, RateLimited, Some(20_000), "openai answered 429 (rate_limit_exceeded): Rate limit reached"),
            (429, &[("retry-after", "1"), ("retry-after-ms", "250")], br#"{"error":{"message":"Slow down","type":"slow_down","code":"slow_down"}}"#, RateLimited, Some(250), "slow_down"),
            (429, &[("retry-after", "3")], b"", RateLimited, Some(3_000), "openai answered 429"),
            (429, &[], b"<html><body>Too many requests</body></html>", RateLimited, None, "Too many requests"),
            (429, &[], br#"{"error":{"message":"who knows","type":"brand_new","param":null,"code":"brand_new"}}"#, RateLimited, None, "brand_new"),
            (429, &[], br#"{"error":{"message":"numeric","code":429}}"#, RateLimited, None, "(429): numeric"),
            (429, &[], br#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#, OutOfQuota, None, "You exceeded your current quota"),
            (429, &[], br#"{"error":{"message":"no code","type":"insufficient_quota","param":null,"code":null}}"#, OutOfQuota, None, "no code"),
            (429, &[("retry-after", "60")], br#"{"error":{"message":"numeric code","type":"insufficient_quota","code":429}}"#, OutOfQuota, Some(60_000), "numeric code"),
            (429, &[], br#"{"error":{"message":"m","type":"t","code":"credit_balance_exhausted"}}"#, OutOfQuota, None, ""),
            (429, &[], br#"{"error":{"message":"m","type":"t","code":"project_spend_limit_exceeded"}}"#, OutOfQuota, None, ""),
            (429, &[], br#"{"error":{"message":"m","type":"organization_spend_limit_exceeded","code":null}}"#, OutOfQuota, None, ""),
            (429, &[], br#"{"error":{"message":"m","code":"organization_usage_limit_exceeded"}}"#, OutOfQuota, None, ""),
            (429, &[("retry-after", "9")], br#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 41000.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#, Permanent, None, "Request too large"),
            (400, &[], br#"{"error":{"message":"This model's maximum context length is 128000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#, Permanent, None, "(context_length_exceeded)"),
            (400, &[], br#"{"error":{"message":"Your request was rejected as a result of our safety system.","type":"image_generation_user_error","param":null,"code":"content_policy_violation"}}"#, Permanent, None, "safety system"),
            (400, &[], br#"{"error":{"message":"Invalid 'messages[0].content'","type":"invalid_request_error","param":"messages","code":null}}"#, Permanent, None, "Invalid 'messages"),
            (400, &[], b"", Permanent, None, "openai answered 400"),
            (400, &[], br#"{"error":{"message":"Invalid schema for response_format 'flashcards': In context=(), 'additionalProperties' is required to be supplied and to be false.","type":"invalid_request_error","param":"response_format","code":null}}"#, Deployment, None, "Invalid schema"),
            (400, &[], br#"{"error":{"message":"m","type":"invalid_request_error","param":"text.format.schema","code":"invalid_json_schema"}}"#, Deployment, None, ""),
            (400, &[], br#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#, Deployment, None, "max_tokens"),
            (400, &[], br#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}"#, Deployment, None, "temperature"),
            (400, &[], br#"{"error":{"message":"Unrecognized request argument supplied: foo","type":"invalid_request_error","param":null,"code":null}}"#, Deployment, None, "foo"),
            (400, &[], br#"{"error":{"message":"Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.","type":"invalid_request_error","param":null,"code":null}}"#, Deployment, None, "json_schema"),
            (401, &[], br#"{"error":{"message":"Incorrect API key provided: sk-ab***7f.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#, Deployment, None, "openai refused the API key (401)"),
            (403, &[], br#"{"error":{"message":"Country, region, or territory not supported","type":"request_forbidden","param":null,"code":"unsupported_country_region_territory"}}"#, Deployment, None, "Country"),
            (404, &[("retry-after", "5")], br#"{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#, Deployment, None, "gpt-9"),
            (301, &[("location", "https://elsewhere.example")], b"", Deployment, None, "a redirect"),
            (402, &[], b"Payment Required", OutOfQuota, None, "Payment Required"),
            (425, &[], b"Too Early", Transient, None, "Too Early"),
            (405, &[], b"Method Not Allowed", Deployment, None, "Method Not Allowed"),
            (408, &[], b"", Transient, None, "openai answered 408"),
            (409, &[], br#"{"error":{"message":"conflict"}}"#, Transient, None, "conflict"),
            (413, &[], b"<html>413 Request Entity Too Large</html>", Permanent, None, "Entity Too Large"),
            (415, &[], b"", Permanent, None, ""),
            (422, &[], br#"{"detail":[{"msg":"field required"}]}"#, Permanent, None, "field required"),
            (500, &[], br#"{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}"#, Transient, None, "Sorry"),
            (502, &[], b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>", Transient, None, "502 Bad Gateway<"),
            (503, &[("retry-after", "1.5")], br#"{"error":{"message":"That model is currently overloaded","type":"overloaded"#, Transient, Some(1_500), "overloaded"),
            (503, &[], b"\xff\xfe\x00\x01overloaded\xf0", Transient, None, "overloaded"),
            (504, &[], b"", Transient, None, "openai answered 504"),
            (529, &[], br#"{"error":"overloaded"}"#, Transient, None, "529: overloaded"),
        ],
    );
}

#[test]
fn what_is_said_about_a_key_is_not_passed_on() {
    let body = br#"{"error":{"message":"Incorrect API key provided: sk-ab***7f.","code":"invalid_api_key"}}"#;
    assert_eq!(
        classify(401, &Default::default(), &ErrorBody::parse(body)).to_string(),
        "openai refused the API key (401)"
    );
}

#[tokio::test]
async fn a_completion() {
    // An enum value of tomorrow, and a field that no type knows: the paid answer comes back whole.
    let answer = json!({
        "id": "chatcmpl-1",
        "service_tier": "from-the-future",
        "choices": [{ "index": 0, "message": { "content": "{}" }, "finish_reason": "a_new_reason" }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 23, "total_tokens": 123 },
        "brand_new": { "z": 1, "a": 2 },
    })
    .to_string();
    let server = Server::start(Play::answer(200, "x-request-id: r1\r\n", &answer)).await;
    for (path, target) in [
        ("/v1", "/v1/chat/completions"),
        ("/", "/chat/completions"),
        ("/a/b/", "/a/b/chat/completions"),
    ] {
        let openai = clients(&server.url.join(path).unwrap(), PATIENT).openai.unwrap();
        assert_eq!(openai.model().model, "gpt-4o-mini");
        let request =
            json!({ "model": openai.model(), "messages": [{ "role": "user", "content": "häää?" }] });
        let reply = openai.chat(&request).await.unwrap();
        assert_eq!((reply.body.get(), reply.tokens), (answer.as_str(), Some(123)));
        let seen = server.requests().pop().unwrap();
        assert_eq!(seen.line, format!("POST {target}"));
        assert_eq!(
            seen.header("authorization"),
            Some(format!("Bearer {OPENAI_KEY}").as_str())
        );
        assert_eq!(seen.header("content-type"), Some("application/json"));
        let agent = seen.header("user-agent").unwrap();
        assert!(
            agent
                .strip_prefix("backend-worker/")
                .is_some_and(|version| !version.is_empty()),
            "{agent}"
        );
        let mut with_stream = request.clone();
        (with_stream["stream"], with_stream["stream_options"]) =
            (json!(true), json!({ "include_usage": true }));
        assert_eq!(serde_json::from_slice::<Value>(&seen.body).unwrap(), with_stream);
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn an_answer_need_not_count_its_tokens() {
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000));
    for answer in [
        r#"{"choices":[]}"#,
        r#"{"usage":7}"#,
        r#"{"usage":{"total_tokens":"7"}}"#,
        r#"{"usage":{"total_tokens":7.5}}"#,
        "[\n  1e999\n]",
        &deep,
    ] {
        let server = Server::start(Play::answer(200, "", answer)).await;
        let openai = clients(&server.url, PATIENT).openai.unwrap();
        let reply = openai.chat(&json!({})).await.unwrap();
        assert_eq!((reply.body.get(), reply.tokens), (answer, None));
    }
}
