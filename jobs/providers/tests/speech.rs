//! Azure Speech: its refusals, its recognition status, and its request on the wire.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{PATIENT, SPEECH_KEY, audio, check_table, clients};
use crate::{
    FailureClass::{self, *},
    media::audio::AudioFormat,
    providers::azure_speech::classify,
    testing::server::{Play, Server},
};

#[test]
fn refusals() {
    check_table(
        classify,
        &[
            (429, &[], br#"{"error":{"code":"429","message":"Requests to the recognition operation have exceeded the call rate limit of your current S0 tier. Please retry after 26 seconds."}}"#, RateLimited, Some(26_000), "azure-speech answered 429 (429): Requests"),
            (429, &[], br#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 5 seconds."}"#, RateLimited, Some(5_000), "Rate limit"),
            (429, &[("retry-after", "2")], b"retry after 9 seconds", RateLimited, Some(2_000), ""),
            (429, &[], b"", RateLimited, None, "azure-speech answered 429"),
            (429, &[], b"Too Many Requests", RateLimited, None, "Too Many Requests"),
            (403, &[], br#"{"error":{"code":"403","message":"Out of call volume quota for SpeechServices.F0 pricing tier. Please retry after 18 hours. To increase your call volume switch to a paid tier."}}"#, OutOfQuota, Some(64_800_000), "Out of call volume quota"),
            (403, &[], br#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 2.12 days."}"#, OutOfQuota, Some(86_400_000), "Out of call volume"),
            (403, &[], br#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 04:05:06."}"#, OutOfQuota, Some(14_706_000), ""),
            (403, &[("retry-after", "60")], b"out of CALL volume quota", OutOfQuota, Some(60_000), ""),
            (403, &[], br#"{"error":{"code":"AuthorizationFailed","message":"Public access is disabled."}}"#, Deployment, None, "Public access is disabled"),
            (401, &[], br#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}"#, Deployment, None, "azure-speech refused the API key (401)"),
            (404, &[], br#"{"error":{"code":"404","message":"Resource not found"}}"#, Deployment, None, "Resource not found"),
            (302, &[("location", "/login")], b"", Deployment, None, "a redirect"),
            (400, &[], br#"{"code":400,"message":"Invalid language 'xx-XX'"}"#, Permanent, None, "(400): Invalid language"),
            (400, &[], b"", Permanent, None, "azure-speech answered 400"),
            (413, &[], b"<html>too long</html>", Permanent, None, "too long"),
            (415, &[], b"Unsupported Media Type", Permanent, None, ""),
            (422, &[], br#"{"error":"unprocessable"}"#, Permanent, None, "unprocessable"),
            (408, &[], b"", Transient, None, ""),
            (500, &[], br#"{"error":{"code":500,"message":"Internal"}}"#, Transient, None, "(500): Internal"),
            (502, &[], b"<html><h1>Our services aren't available right now</h1></html>", Transient, None, "right now"),
            (503, &[("retry-after", "Fri, 01 Jan 1999 00:00:00 GMT")], br#"{"error":{"code":"ServiceUn"#, Transient, Some(0), "ServiceUn"),
            (504, &[], b"\xc3\x28 gone \xff", Transient, None, "gone"),
        ],
    );
}

#[tokio::test]
async fn an_assessment() {
    let answer = json!({
        "RecognitionStatus": "Success",
        "NBest": [{ "PronScore": 93.4, "Words": [] }],
        "Duration": "12300000",
    });
    let server = Server::start(Play::answer(200, "", answer.to_string())).await;
    let target = "speech/recognition/conversation/cognitiveservices/v1?language=en-US&format=detailed";
    let text = "“Naïve” \\ 早上好\nGood morning?>>";
    for (path, prefix) in [("/", "/"), ("/stt", "/stt/"), ("/stt/?a=b#c", "/stt/")] {
        let speech = clients(&server.url.join(path).unwrap(), PATIENT).speech.unwrap();
        let mut audio = audio();
        audio.format = if path == "/" {
            AudioFormat::Wav16kMono
        } else {
            AudioFormat::OggOpus
        };
        let reply = speech.assess(text, "en-US", &audio).await.unwrap();
        assert_eq!(
            (reply.body.get(), reply.tokens),
            (answer.to_string().as_str(), None)
        );
        let seen = server.requests().pop().unwrap();
        assert_eq!(seen.line, format!("POST {prefix}{target}"));
        assert_eq!(seen.header("ocp-apim-subscription-key"), Some(SPEECH_KEY));
        assert_eq!(seen.header("content-type"), Some(audio.format.content_type()));
        assert_eq!(seen.header("accept"), Some("application/json"));
        assert!(seen.header("user-agent").unwrap().starts_with("backend-worker/"));
        assert_eq!(seen.body, audio.bytes);
        // As documented: one line of JSON in this order, standard base64 with padding.
        let assessment = BASE64_STANDARD
            .decode(seen.header("pronunciation-assessment").unwrap())
            .unwrap();
        let quoted = serde_json::to_string(text).unwrap();
        assert_eq!(
            String::from_utf8(assessment).unwrap(),
            format!(
                r#"{{"ReferenceText":{quoted},"GradingSystem":"HundredMark","Granularity":"Phoneme","Dimension":"Comprehensive","EnableMiscue":"True"}}"#
            )
        );
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn the_language_cannot_leave_its_place() {
    let server = Server::start(Play::answer(200, "", r#"{"RecognitionStatus":"Success"}"#)).await;
    let speech = clients(&server.url, PATIENT).speech.unwrap();
    speech
        .assess("hi", "en&format=simple#\r\nX: y", &audio())
        .await
        .unwrap();
    assert!(
        server
            .only_request()
            .line
            .ends_with("?language=en%26format%3Dsimple%23%0D%0AX%3A+y&format=detailed")
    );
}

#[tokio::test]
async fn recognition_status() {
    let rows: [(&str, Option<FailureClass>); 8] = [
        (r#"{"RecognitionStatus":"Success"}"#, None),
        (
            r#"{"RecognitionStatus":"NoMatch","Offset":0,"Duration":"5"}"#,
            None,
        ),
        (r#"{"RecognitionStatus":"InitialSilenceTimeout"}"#, None),
        (r#"{"RecognitionStatus":"BabbleTimeout"}"#, None),
        (r#"{"RecognitionStatus":"Error"}"#, Some(Transient)),
        (r#"{"RecognitionStatus":7}"#, Some(Transient)),
        (r#"{"RecognitionStatus":"FromTheFuture"}"#, Some(Transient)),
        ("[]", Some(Transient)),
    ];
    for (body, class) in rows {
        let server = Server::start(Play::answer(200, "", body)).await;
        let verdict = clients(&server.url, PATIENT)
            .speech
            .unwrap()
            .assess("hi", "en-US", &audio())
            .await;
        assert_eq!(
            verdict.as_ref().err().map(crate::Failure::class),
            class,
            "{body}: {verdict:?}"
        );
        server.only_request();
    }
}
