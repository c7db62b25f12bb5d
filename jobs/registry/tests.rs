//! Errors for payloads that fit no type: the facts that they name, and the data that they must not quote.

use serde_json::json;

use super::*;
use crate::Class;

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
        assert_eq!(failure.class(), Class::Permanent, "{text}");
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
        format!("Unknown job type: {}", "ä".repeat(100))
    );
    for kind in JobType::ALL {
        assert_eq!(kind.as_str().parse::<JobType>().unwrap(), kind);
    }
}
