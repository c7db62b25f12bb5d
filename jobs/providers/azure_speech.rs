//! Azure Speech: pronunciation assessment through the REST interface for short audio.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use serde_json::{json, value::RawValue};
use url::Url;

use super::{
    AZURE_KEY,
    error_body::{ErrorBody, excerpt},
    http::{ProviderPeer, Transport, join, key_header},
    refusal_rules,
};
use crate::{
    Failure, Provider, ProviderReply, SpeechSettings,
    media::{DisplayUrl, audio::PreparedAudio},
    raw::{PickedValue, pick},
};

/// Speech to text for short audio.
pub(super) const PATH: &str = "/speech/recognition/conversation/cognitiveservices/v1";

/// Azure Speech, pronunciation assessment.
#[derive(Clone)]
pub struct AzureSpeech {
    peer: Arc<ProviderPeer>,
    url: Url,
    key: HeaderMap,
    timeout: Duration,
}

impl fmt::Debug for AzureSpeech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureSpeech")
            .field("url", &format_args!("{}", DisplayUrl(&self.url)))
            .finish_non_exhaustive()
    }
}

impl AzureSpeech {
    pub(super) fn new(http: Transport, settings: &SpeechSettings) -> Result<Self, reqwest::Error> {
        let key = key_header(&http.requests, AZURE_KEY, &settings.key)?;
        Ok(Self {
            peer: Arc::new(ProviderPeer {
                provider: Provider::AzureSpeech,
                http,
                key: settings.key.clone(),
                classify,
            }),
            url: join(&settings.endpoint, PATH),
            key,
            timeout: settings.timeout,
        })
    }

    /// Makes one attempt at scoring how `audio` speaks `reference_text`. `language` is a tag like `en-US`.
    ///
    /// A recording without speech (`NoMatch`, `InitialSilenceTimeout`, `BabbleTimeout`) is a reply: the call was
    /// made and paid, and the user can act on it.
    ///
    /// # Errors
    /// Fails by the status; transient when no whole answer came back, or the service says `Error`.
    pub async fn assess(
        &self,
        reference_text: &str,
        language: &str,
        audio: &PreparedAudio,
    ) -> Result<ProviderReply, Failure> {
        let request = self
            .peer
            .http
            .requests
            .post(self.url.clone())
            .query(&[("language", language), ("format", "detailed")])
            .headers(self.key.clone())
            .header(CONTENT_TYPE, audio.format.content_type())
            .header(ACCEPT, "application/json")
            .header("Pronunciation-Assessment", assessment(reference_text))
            .timeout(self.timeout)
            .body(audio.bytes.clone())
            .build()
            .map_err(|e| self.peer.unbuildable(e))?;
        let answer = self.peer.exchange(request).await?;
        self.peer.refuse_error_inside(&answer)?;
        let body: Box<RawValue> = self.peer.json(&answer.body)?;
        let [status] = pick(body.get(), ["/RecognitionStatus"]);
        match status.as_ref().and_then(PickedValue::text) {
            Some("Success" | "NoMatch" | "InitialSilenceTimeout" | "BabbleTimeout") => {
                Ok(ProviderReply::new(body, None))
            }
            status => {
                let status = excerpt(status.unwrap_or("missing"));
                Err(Failure::transient(format!(
                    "azure-speech recognized nothing: RecognitionStatus is {status}"
                ))
                .by(Provider::AzureSpeech)
                .with_status(200))
            }
        }
    }
}

/// The parameters of an assessment, as the header wants them. Without `Comprehensive` only accuracy comes back.
fn assessment(reference_text: &str) -> String {
    let parameters = json!({
        "ReferenceText": reference_text,
        "GradingSystem": "HundredMark",
        "Granularity": "Phoneme",
        "Dimension": "Comprehensive",
        "EnableMiscue": "True",
    });
    BASE64_STANDARD.encode(parameters.to_string())
}

/// The meaning of an answer other than 2xx, and of an error inside of one.
pub(super) fn classify(status: u16, headers: &HeaderMap, body: &ErrorBody) -> Failure {
    refusal_rules::refusal(Provider::AzureSpeech, status, headers, body)
}
