//! Fuzz targets of the providers' refusals.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use std::time::Duration;

use hostile::Target;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{azure_speech, azure_vision, error_body::ErrorBody, openai};
use crate::{FailureClass, fuzzing::expect_modest};

/// A refusal, as it comes over the wire: the status, headers, an empty line, the body. Its class is one that a refusal
/// can have, its wait is at most a day, its words stay on one line.
pub(crate) static REFUSAL: Target = Target::new("refusal", |input| {
    let mut lines = input.split_inclusive(|byte| *byte == b'\n');
    let status = lines.next().unwrap_or_default().trim_ascii();
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.parse().ok());
    let mut headers = HeaderMap::new();
    for line in lines
        .by_ref()
        .map(<[u8]>::trim_ascii)
        .take_while(|line| !line.is_empty())
    {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    let body = lines.collect::<Vec<_>>().concat();
    for classify in [openai::classify, azure_speech::classify, azure_vision::classify] {
        let failure = classify(status.unwrap_or(500), &headers, &ErrorBody::parse(&body));
        expect_modest(&failure);
        assert!(
            !matches!(failure.class(), FailureClass::Blocked | FailureClass::Cancelled),
            "{failure}"
        );
        assert!(failure.retry_after().unwrap_or_default() <= Duration::from_hours(24));
        assert!(!failure.to_string().contains(char::is_control), "{failure}");
    }
    if let Some(id) = headers
        .get("operation-location")
        .and_then(azure_vision::operation_id)
    {
        // It becomes a part of a URL.
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
            "{id}"
        );
    }
});

#[test]
fn refusals() {
    REFUSAL.run();
}
