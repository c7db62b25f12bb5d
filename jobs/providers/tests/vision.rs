//! Azure Vision: its refusals, and both of its services on the wire.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use url::Url;

use super::{Clients, PATIENT, VISION_KEY, check_table, clients, settings};
use crate::{
    FailureClass::{self, *},
    VisionApi,
    providers::{AzureVision, azure_vision::classify},
    testing::server::{Play, Server},
};

const ID: &str = "49a36324-fc4b-4387-aa06-090cfbf0064f";
const IMAGE: &[u8] = b"\x89PNG\r\n\r\n\x00image";

#[test]
fn refusals() {
    check_table(
        classify,
        &[
            (429, &[], br#"{"error":{"code":"429","message":"Requests to the Image Analysis operation under Computer Vision API have exceeded call rate limit of your current ComputerVision F0 pricing tier. Please retry after 17 seconds."}}"#, RateLimited, Some(17_000), "azure-vision answered 429 (429)"),
            (429, &[("retry-after", "3")], br#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 26 seconds."}"#, RateLimited, Some(3_000), "Rate limit is exceeded"),
            (429, &[], br#"{"code":429,"message":"numeric","requestId":"r"}"#, RateLimited, None, "(429): numeric"),
            (429, &[], b"", RateLimited, None, "azure-vision answered 429"),
            (429, &[], br#"{"error":{"code":"Timeout","message":"a stumble's code beside 429"}}"#, RateLimited, None, ""),
            (403, &[], br#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 2.12 days."}"#, OutOfQuota, Some(86_400_000), "replenished in 2.12 days"),
            (403, &[], br#"{"error":{"code":"403","message":"Out of call volume quota for ComputerVision F0 pricing tier. Please retry after 18 days."}}"#, OutOfQuota, Some(86_400_000), "18 days"),
            (403, &[], b"Out of call volume quota. Quota will be replenished in 1.04:05:06.", OutOfQuota, Some(86_400_000), ""),
            (403, &[], b"Out of call volume quota. Quota will be replenished in 00:01:30.5", OutOfQuota, Some(90_500), ""),
            (403, &[], br#"{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}"#, Deployment, None, "Firewall"),
            (403, &[], br#"{"error":{"code":"Timeout","message":"a stumble's code beside 403"}}"#, Deployment, None, ""),
            (401, &[], br#"{"error":{"code":"PermissionDenied","message":"Access denied due to invalid subscription key or wrong API endpoint."}}"#, Deployment, None, "azure-vision refused the API key (401)"),
            (404, &[], br#"{"error":{"code":"404","message":"Resource not found"}}"#, Deployment, None, "Resource not found"),
            (308, &[], b"", Deployment, None, "a redirect"),
            (400, &[], br#"{"error":{"code":"InvalidRequest","message":"The image is invalid.","innererror":{"code":"InvalidImageSize","message":"The image must be between 50x50 and 16000x16000."}}}"#, Permanent, None, "(InvalidImageSize): The image must be"),
            (400, &[], br#"{"code":"InvalidImageFormat","message":"Input data is not a valid image.","requestId":"r"}"#, Permanent, None, "(InvalidImageFormat)"),
            (400, &[], br#"{"error":{"code":"UnsupportedImageFormat","message":"m"}}"#, Permanent, None, ""),
            (400, &[], br#"{"error":{"code":"InvalidRequest","innererror":{"code":"FailedToProcess","message":"Could not extract image features."}}}"#, Transient, None, "(FailedToProcess)"),
            (400, &[], br#"{"error":{"code":400,"message":"numeric"}}"#, Permanent, None, "(400): numeric"),
            (400, &[], b"", Permanent, None, "azure-vision answered 400"),
            (413, &[], br#"{"error":{"code":"InvalidRequest","message":"too big","innererror":{"code":"InvalidImageSize"}}}"#, Permanent, None, "too big"),
            (415, &[], br#"{"error":{"code":"InvalidRequest","message":"Unsupported content type"}}"#, Permanent, None, "content type"),
            (408, &[], br#"{"error":{"code":"Timeout","message":"The operation timed out."}}"#, Transient, None, "(Timeout)"),
            (500, &[], br#"{"code":"InternalServerError","message":"m"}"#, Transient, None, "InternalServerError"),
            (500, &[], br#"{"code":"StorageException","message":"m"}"#, Transient, None, ""),
            (502, &[], b"<!DOCTYPE html><title>Bad Gateway</title>", Transient, None, "Bad Gateway"),
            (503, &[("retry-after", "30")], br#"{"error":{"code":"503","messa"#, Transient, Some(30_000), "503"),
            (504, &[], b"\xff\xff", Transient, None, ""),
        ],
    );
}

#[tokio::test]
async fn an_analysis() {
    let answer = json!({ "readResult": { "blocks": [{ "lines": [{ "text": "hello" }] }] }, "metadata": { "width": 9 } });
    let server = Server::start(Play::answer(200, "", answer.to_string())).await;
    for (path, prefix) in [("/", "/"), ("/proxy/", "/proxy/"), ("/proxy", "/proxy/")] {
        let vision = clients(&server.url.join(path).unwrap(), PATIENT).vision.unwrap();
        let reply = vision.analyze(Bytes::from_static(IMAGE)).await.unwrap();
        assert_eq!(
            (reply.body.get(), reply.tokens),
            (answer.to_string().as_str(), None)
        );
        let seen = server.requests().pop().unwrap();
        let target = "computervision/imageanalysis:analyze?api-version=2024-02-01&features=read";
        assert_eq!(seen.line, format!("POST {prefix}{target}"));
        assert_eq!(seen.header("ocp-apim-subscription-key"), Some(VISION_KEY));
        assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
        assert!(seen.header("user-agent").unwrap().starts_with("backend-worker/"));
        assert_eq!(seen.body, IMAGE);
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_submit_believes_the_id_and_not_the_host() {
    let elsewhere = Server::start(Play::answer(200, "", r#"{"status":"running"}"#)).await;
    for query in ["", "?api-version=3.2", "#top"] {
        let location = format!(
            "Operation-Location: {}vision/v3.2/read/analyzeResults/{ID}{query}\r\n",
            elsewhere.url
        );
        let server = Server::start(Play::answer(202, &location, "")).await;
        let vision = clients(&server.url.join("/proxy").unwrap(), PATIENT)
            .vision
            .unwrap();
        let reply = vision.submit(Bytes::from_static(IMAGE)).await.unwrap();
        let answer = json!({ "operationId": ID }).to_string();
        assert_eq!((reply.body.get(), reply.tokens), (answer.as_str(), None));
        let seen = server.only_request();
        assert_eq!(seen.line, "POST /proxy/vision/v3.2/read/analyze");
        assert_eq!(seen.header("ocp-apim-subscription-key"), Some(VISION_KEY));
        assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
        assert_eq!(seen.body, IMAGE);
    }
    assert!(elsewhere.requests().is_empty());
}

/// A client of Document Intelligence.
fn documents(base: &Url) -> AzureVision {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut settings = settings(base, PATIENT);
    let vision = settings.vision.as_mut().unwrap();
    vision.api = VisionApi::DocumentIntelligence;
    Clients::new(&settings, None).unwrap().vision.unwrap()
}

#[tokio::test]
async fn a_document_is_submitted_and_polled_at_the_endpoint_alone() {
    let elsewhere = Server::start(Play::answer(200, "", r#"{"status":"running"}"#)).await;
    let model = "documentintelligence/documentModels/prebuilt-read";
    let location = format!(
        "Operation-Location: {}{model}/analyzeResults/{ID}?api-version=2024-11-30\r\nRetry-After: 2\r\n",
        elsewhere.url
    );
    let server = Server::answering(move |request| match request.line.starts_with("POST") {
        true => Play::answer(202, &location, ""),
        false => Play::answer(
            200,
            "Retry-After: 1\r\n",
            r#"{"status":"running","createdDateTime":""}"#,
        ),
    })
    .await;
    let vision = documents(&server.url.join("/proxy").unwrap());
    let reply = vision.submit(Bytes::from_static(IMAGE)).await.unwrap();
    let answer = json!({ "operationId": ID, "retryAfterMs": 2_000 }).to_string();
    assert_eq!((reply.body.get(), reply.tokens), (answer.as_str(), None));
    let reply = vision.poll(ID).await.unwrap();
    assert_eq!(reply.body.get(), r#"{"status":"running","retryAfterMs":1000}"#);

    let seen = server.requests();
    assert_eq!(
        seen[0].line,
        format!("POST /proxy/{model}:analyze?_overload=analyzeDocument&api-version=2024-11-30")
    );
    assert_eq!(seen[0].header("content-type"), Some("application/octet-stream"));
    assert_eq!(seen[0].body, IMAGE);
    assert_eq!(
        seen[1].line,
        format!("GET /proxy/{model}/analyzeResults/{ID}?api-version=2024-11-30")
    );
    for request in &seen {
        assert_eq!(request.header("ocp-apim-subscription-key"), Some(VISION_KEY));
    }
    assert!(
        elsewhere.requests().is_empty(),
        "the key goes to no host that a header names"
    );
}

#[tokio::test]
async fn a_document_is_not_followed_to_where_a_redirect_leads() {
    let elsewhere = Server::start(Play::answer(200, "", r#"{"status":"running"}"#)).await;
    let away = format!("Location: {}\r\n", elsewhere.url);
    for status in [301, 307, 308] {
        let server = Server::start(Play::answer(status, &away, "")).await;
        let vision = documents(&server.url);
        let failure = vision.submit(Bytes::from_static(IMAGE)).await.unwrap_err();
        assert_eq!(failure.class(), Deployment, "{failure}");
        let failure = vision.poll(ID).await.unwrap_err();
        assert_eq!(failure.class(), Deployment, "{failure}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_document_ends_as_the_service_says() {
    let succeeded = r#"{"status":"succeeded","analyzeResult":{"pages":[]}}"#;
    let failed =
        r#"{"status":"failed","error":{"code":"InvalidRequest","innererror":{"code":"InvalidContent"}}}"#;
    for (status, body, reply) in [
        (200, succeeded, succeeded),
        (200, failed, failed),
        (200, r#"{"status":"canceled"}"#, r#"{"status":"canceled"}"#),
        (
            404,
            r#"{"error":{"code":"NotFound","message":"Resource not found."}}"#,
            r#"{"status":"expired"}"#,
        ),
    ] {
        let server = Server::start(Play::answer(status, "", body)).await;
        let found = documents(&server.url).poll(ID).await.unwrap();
        assert_eq!(found.body.get(), reply);
    }
}

#[tokio::test]
async fn a_submit_without_a_usable_id_is_transient() {
    let long = "a".repeat(129);
    for id in ["", "..", "%2e%2e", "a b", "a%2Fb", "a:b", "ü", &long] {
        let location =
            format!("Operation-Location: https://x.example/vision/v3.2/read/analyzeResults/{id}\r\n");
        let server = Server::start(Play::answer(202, &location, "")).await;
        let vision = clients(&server.url, PATIENT).vision.unwrap();
        let failure = vision.submit(Bytes::from_static(IMAGE)).await.unwrap_err();
        assert_eq!(failure.class(), Transient, "{id}: {failure}");
        server.only_request();
    }
    let server = Server::start(Play::answer(202, "", "")).await;
    let failure = clients(&server.url, PATIENT)
        .vision
        .unwrap()
        .submit(Bytes::new())
        .await
        .unwrap_err();
    assert_eq!(failure.class(), Transient, "{failure}");
}

#[tokio::test]
async fn a_poll() {
    let rows: [(&str, Option<(FailureClass, &str)>); 8] = [
        (r#"{"status":"notStarted"}"#, None),
        (r#"{"status":"running"}"#, None),
        (
            r#"{"status":"succeeded","analyzeResult":{"readResults":[]}}"#,
            None,
        ),
        // Its end is final, and no failure that a retry of the poll could mend.
        (r#"{"status":"failed"}"#, None),
        (
            r#"{"status":"failed","error":{"code":"Timeout","message":"m"}}"#,
            None,
        ),
        (
            r#"{"status":"fromTheFuture"}"#,
            Some((Transient, "fromTheFuture")),
        ),
        (r#"{"status":7}"#, Some((Transient, "missing"))),
        ("[]", Some((Transient, "missing"))),
    ];
    for (body, wanted) in rows {
        let server = Server::start(Play::answer(200, "", body)).await;
        let vision = clients(&server.url.join("/proxy/").unwrap(), PATIENT)
            .vision
            .unwrap();
        match (vision.poll(ID).await, wanted) {
            (Ok(reply), None) => assert_eq!(reply.body.get(), body),
            (Err(failure), Some((class, words))) => {
                assert_eq!(failure.class(), class, "{body}: {failure}");
                assert!(failure.message().contains(words), "{body}: {failure}");
            }
            (got, wanted) => panic!("{body}: got {got:?}, wanted {wanted:?}"),
        }
        let seen = server.only_request();
        assert_eq!(
            seen.line,
            format!("GET /proxy/vision/v3.2/read/analyzeResults/{ID}")
        );
        assert_eq!(seen.header("ocp-apim-subscription-key"), Some(VISION_KEY));
    }
}

#[tokio::test]
async fn an_operation_that_is_not_known_has_expired() {
    let body = r#"{"error":{"code":"OperationNotFound","message":"m"}}"#;
    let server = Server::start(Play::answer(404, "", body)).await;
    let vision = clients(&server.url, PATIENT).vision.unwrap();
    assert_eq!(
        vision.poll(ID).await.unwrap().body.get(),
        r#"{"status":"expired"}"#
    );
    // Elsewhere it is the endpoint that is not known.
    let failure = vision.submit(Bytes::from_static(IMAGE)).await.unwrap_err();
    assert_eq!(failure.class(), Deployment, "{failure}");
}

#[tokio::test]
async fn a_poll_sends_nothing_for_what_is_no_id() {
    let server = Server::start(Play::answer(200, "", r#"{"status":"running"}"#)).await;
    let vision = clients(&server.url, PATIENT).vision.unwrap();
    for id in ["", "..", "a/b", "a?b", "a%2fb"] {
        assert_eq!(vision.poll(id).await.unwrap_err().class(), Permanent, "{id}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn settings_are_passed_on() {
    let vision = clients(&"http://127.0.0.1:1".parse().unwrap(), PATIENT)
        .vision
        .unwrap();
    assert_eq!(
        (vision.api(), vision.poll_interval()),
        (VisionApi::Read32, Duration::from_millis(1_500))
    );
}
