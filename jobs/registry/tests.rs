//! Errors for payloads that fit no type: the facts that they name, and the data that they must not quote.

use std::collections::HashSet;

use serde_json::json;

use super::*;
use crate::{FailureClass, assess_pronunciation, generate_flashcards, job::decode};

#[test]
fn no_value_of_a_payload_shows_in_its_refusal() {
    let url = "https://example.com/a.png?sig=SECRET";
    let data = format!("data:image/png;base64,{}", "SECRET".repeat(1_000));
    let quoted = format!("a \"SECRET\" {}", "\"SECRET\"".repeat(500));
    let image = json!({ "imageUrl": url });
    let twice = image.to_string();
    let payloads = [
        (JobType::ProcessImage, json!({ "images": url }), "images"),
        (JobType::ProcessImage, json!({ "images": [data] }), "images[0]"),
        (JobType::ProcessImage, json!({ "images": [twice] }), "images[0]"),
        (JobType::ProcessImage, json!(twice), "."),
        (JobType::AssessPronunciation, json!(quoted), "."),
        (JobType::GenerateFlashcards, json!({ "count": data }), "count"),
        (
            JobType::GenerateFlashcards,
            json!({ "content": "c", "count": quoted }),
            "count",
        ),
        (JobType::GenerateFlashcards, json!(data), "."),
    ];
    for (kind, payload, field) in payloads {
        let failure = Jobs::validate(kind, payload.to_string().as_bytes()).unwrap_err();
        let text = failure.to_string();
        assert_eq!(failure.class(), FailureClass::Permanent, "{text}");
        assert!(
            text.starts_with(&format!("payload field \"{field}\": ")),
            "{text}"
        );
        assert!(text.chars().count() < 300, "{text}");
        assert!(
            !format!("{failure:?} {text}").contains("SECRET"),
            "{failure:?} {text}"
        );
    }
    for cut in [
        &b"{\"imageUrl\":\"SECRET"[..],
        b"{\"imageUrl\":\"\x01SECRET\"}",
        b"{} \"SECRET\"",
    ] {
        let text = Jobs::validate(JobType::ProcessImage, cut)
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("payload is not JSON: "), "{text}");
        assert!(!text.contains("SECRET"), "{text}");
    }
}

#[test]
fn what_was_expected_and_where_is_still_told() {
    let failure = Jobs::validate(JobType::ProcessImage, br#"{"images":"SECRET"}"#).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "payload field \"images\": invalid type: string …, expected a sequence at line 1 column 18"
    );
}

#[test]
fn an_unknown_type_shows_the_beginning_of_its_name() {
    let error = "ä".repeat(5_000).parse::<JobType>().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Unknown job type: {}…", "ä".repeat(100))
    );
    for kind in JobType::ALL {
        assert_eq!(kind.as_str().parse::<JobType>().unwrap(), kind);
    }
}

/// As JavaScript writes a text that `slice` cut inside of an emoji.
#[test]
fn texts_of_javascript_are_read() {
    let decks = [
        br#"{"content":"a\ud83d","subject":"\ude00s","topic":"t\u0000","userId":"u\ud83d"}"#.as_slice(),
        b"\xef\xbb\xbf{\"content\":\"a\",\"subject\":\"s\",\"topic\":\"t\",\"userId\":7}",
        br#"{"content":"a","subject":"s","topic":"t","userId":"u","x\ud83d":"\udc00"}"#,
    ];
    for payload in decks {
        Jobs::validate(JobType::GenerateFlashcards, payload).unwrap();
    }
    let payload: generate_flashcards::Payload = decode(decks[0]).unwrap();
    assert_eq!(
        (&*payload.content, &*payload.subject, &*payload.topic),
        ("a\u{fffd}", "\u{fffd}s", "t")
    );
    let speech =
        br#"{"referenceText":"Good\u0000 morning\ud83d\r\n","audioBase64":"YWJj","language":"en-US\u0000"}"#;
    Jobs::validate(JobType::AssessPronunciation, speech).unwrap();
    let payload: assess_pronunciation::Payload = decode(speech).unwrap();
    assert_eq!(payload.reference_text, "Good morning\u{fffd}\n");
    assert_eq!(payload.language.unwrap(), "en-US");
}

#[test]
fn a_text_of_controls_alone_is_blank() {
    let payload = br#"{"content":"\u0000\u200b","subject":"s","topic":"\u0007","userId":"u"}"#;
    let failure = Jobs::validate(JobType::GenerateFlashcards, payload).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "payload field \"content, topic\": required, and must not be blank"
    );
}

#[test]
fn what_is_no_json_names_the_place() {
    for (payload, expected) in [
        (
            &b"{\"content\":\"a\nb\"}"[..],
            "payload is not JSON: it cannot be read at its field \"content\"",
        ),
        (
            b"{\"images\":[{\"imageUrl\":\"SECRET",
            "at its field \"images[0].imageUrl\"",
        ),
        (
            b"{\"content\":\"SECRET\xed\xa0\xbd\"}",
            "payload is not JSON: it is not UTF-8 (at its byte 18)",
        ),
        (b"", "payload is not JSON: EOF"),
    ] {
        let kind = match payload.starts_with(b"{\"images") {
            true => JobType::ProcessImage,
            false => JobType::GenerateFlashcards,
        };
        let text = Jobs::validate(kind, payload).unwrap_err().to_string();
        assert!(text.contains(expected) && !text.contains("SECRET"), "{text}");
    }
}

#[test]
fn every_type_is_registered_with_valid_names_sentences_and_samples() {
    let names: HashSet<&str> = JobType::ALL.map(JobType::as_str).into();
    assert_eq!(names.len(), JobType::ALL.len(), "two job types share a name");
    for kind in JobType::ALL {
        let is_plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        assert!(is_plain(kind.as_str()), "{kind}: the name is not kebab case");
        assert!(is_plain(kind.default_queue()), "{kind}: {}", kind.default_queue());
        assert!(kind.failure_sentence().ends_with('.'), "{kind}");
        assert!(!kind.samples().is_empty(), "{kind}: the demo has no payload");
        for sample in kind.samples() {
            Jobs::validate(kind, sample.to_string().as_bytes()).unwrap();
        }
        let json = serde_json::to_string(&kind).unwrap();
        assert_eq!(json, format!("\"{kind}\""));
        assert_eq!(serde_json::from_str::<JobType>(&json).unwrap(), kind);
    }
}
