//! The clients on a real socket, and their reading of refusals: one table for each provider.

use std::{fmt::Write, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{Clients, error_body::ErrorBody, http::RefusalClassifier};
use crate::{
    ChatApi, FailureClass, MediaSettings, OpenAiSettings, Settings, SpeechSettings, VisionApi,
    VisionSettings,
    media::audio::{AudioFormat, PreparedAudio},
    providers::models::{ModelSuccessor, ModelTable, ReasoningEffort},
};

mod answer;
mod corpus;
mod dialect;
mod openai;
mod reach;
mod redact;
mod speech;
mod stream;
mod transport;
mod vision;

const OPENAI_KEY: &str = "sk-proj-0123456789abcdef";
const SPEECH_KEY: &str = "5peech0123456789abcdef0123456789";
const VISION_KEY: &str = "0v15i0n123456789abcdef0123456789";

/// Long enough to tell a slow machine from a time-out.
const PATIENT: Duration = Duration::from_secs(20);

/// Clients of all three providers, with one stand-in for all of them.
fn clients(base: &Url, timeout: Duration) -> Clients {
    // Ok the first time in this process, Err afterwards: both mean that a provider is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Clients::new(&settings(base, timeout), None).unwrap()
}

fn settings(base: &Url, timeout: Duration) -> Settings {
    Settings {
        fallbacks: Vec::new(),
        openai: Some(OpenAiSettings {
            name: String::new(),
            api: ChatApi::OpenAi,
            base_url: base.clone(),
            key: OPENAI_KEY.into(),
            model: "gpt-4o-mini".into(),
            reasoning: ReasoningEffort::Lowest,
            successor: ModelSuccessor::Recommended,
            models: ModelTable::built_in(),
            timeout,
            idle_timeout: timeout,
        }),
        speech: Some(SpeechSettings {
            endpoint: base.clone(),
            key: SPEECH_KEY.into(),
            timeout,
        }),
        vision: Some(VisionSettings {
            endpoint: base.clone(),
            key: VISION_KEY.into(),
            api: VisionApi::Read32,
            models: ModelTable::built_in(),
            timeout,
            poll_interval: Duration::from_millis(1_500),
        }),
        media: MediaSettings {
            uploads_dir: None,
            allowed_hosts: Vec::new(),
            max_bytes: 1,
            timeout: Duration::from_secs(1),
        },
    }
}

fn audio() -> PreparedAudio {
    PreparedAudio {
        bytes: Bytes::from_static(b"RIFF of sixteen kilohertz"),
        format: AudioFormat::Wav16kMono,
        duration: Duration::from_secs(1),
    }
}

/// Status, headers, body; then the class, the wait in milliseconds and a part of the message.
type Row = (
    u16,
    &'static [(&'static str, &'static str)],
    &'static [u8],
    FailureClass,
    Option<u64>,
    &'static str,
);

/// Holds each row against the verdict, and shows all that differ.
fn check_table(classify: RefusalClassifier, rows: &[Row]) {
    let mut wrong = String::new();
    for (status, headers, body, class, wait, words) in rows {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let verdict = classify(*status, &headers, &ErrorBody::parse(body));
        let as_told = verdict.class() == *class
            && verdict.status() == Some(*status)
            && verdict.retry_after() == wait.map(Duration::from_millis)
            && verdict.message().contains(words);
        if !as_told {
            let body = String::from_utf8_lossy(body);
            writeln!(
                wrong,
                "{status} {body}\n  wanted {class} {wait:?} {words:?}\n  got    {verdict:?}"
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever comes in, the verdict is one, in a bounded and printable line, with a wait that ends.
    #[test]
    fn classify_takes_anything(
        status: u16,
        wait in prop::collection::vec(any::<u8>(), 0..24),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            r#"\{"error":(\{"code":("[a-z_]{0,9}"|-?[0-9]{1,20}|null|\[\]),"message":"\PC{0,300}"\}|".*"|null)\}?"#
                .prop_map(String::into_bytes),
            r"(?s)(retry after|replenished in|try again in) .{0,30}".prop_map(String::into_bytes),
        ],
    ) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&wait) {
            headers.insert("retry-after", value.clone());
            headers.insert("retry-after-ms", value);
        }
        let all = [super::openai::classify, super::azure_speech::classify, super::azure_vision::classify];
        for classify in all {
            let verdict = classify(status, &headers, &ErrorBody::parse(&body));
            prop_assert!(verdict.message().chars().count() <= 500, "{}", verdict.message());
            prop_assert!(!verdict.message().contains(char::is_control), "{:?}", verdict.message());
            prop_assert!(verdict.retry_after() <= Some(Duration::from_hours(24)));
        }
    }
}
