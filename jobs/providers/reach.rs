//! Whether a provider can be reached and takes its key, without a call that is paid for: OpenAI lists its models;
//! the Azure services are sent an empty recording or image, which they refuse as such once they have taken the key.

use std::time::Duration;

use reqwest::{
    Request,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    AZURE_KEY, azure_speech, azure_vision,
    http::{Peer, join, key_header},
    http_client, openai,
};
use crate::{Class, Failure, Provider, Settings, VisionApi};

/// Longest wait for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reaches for a provider; `None` where it is not configured.
///
/// # Errors
/// What stands in the way of every job, by its class.
pub async fn reach(settings: &Settings, provider: Provider) -> Option<Result<(), Failure>> {
    let http = match http_client().build() {
        Ok(http) => http,
        Err(error) => {
            return Some(Err(
                Failure::deployment("no HTTP client can be built").caused_by(error)
            ));
        }
    };
    let (request, key, classify): (_, _, super::http::Classify) = match provider {
        Provider::OpenAi => {
            let s = settings.openai.as_ref()?;
            let bearer = SecretString::from(format!("Bearer {}", s.key.expose_secret()));
            let request = key_header(&http, AUTHORIZATION, &bearer)
                .map(|key| http.get(join(&s.base_url, "/models")).headers(key));
            (request, &s.key, openai::classify)
        }
        Provider::AzureSpeech => {
            let s = settings.speech.as_ref()?;
            let request = key_header(&http, AZURE_KEY, &s.key).map(|key| {
                http.post(join(&s.endpoint, azure_speech::PATH))
                    .query(&[("language", "en-US"), ("format", "detailed")])
                    .header(CONTENT_TYPE, "audio/wav; codecs=audio/pcm; samplerate=16000")
                    .headers(key)
                    .body("")
            });
            (request, &s.key, azure_speech::classify)
        }
        Provider::AzureVision => {
            let s = settings.vision.as_ref()?;
            let (path, query): (_, &[(&str, &str)]) = match s.api {
                VisionApi::ImageAnalysis40 => (azure_vision::ANALYZE, &azure_vision::READ_TEXT),
                VisionApi::Read32 => (azure_vision::SUBMIT, &[]),
            };
            let request = key_header(&http, AZURE_KEY, &s.key).map(|key| {
                http.post(join(&s.endpoint, path))
                    .query(query)
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .headers(key)
                    .body("")
            });
            (request, &s.key, azure_vision::classify)
        }
    };
    let peer = Peer {
        provider,
        http: http.clone(),
        key: key.clone(),
        classify,
    };
    let request = request.and_then(|request| request.timeout(TIMEOUT).build());
    Some(match request {
        Ok(request) => send(&peer, request).await,
        Err(error) => Err(peer.unbuildable(error)),
    })
}

async fn send(peer: &Peer, request: Request) -> Result<(), Failure> {
    match peer.exchange(request).await {
        // Refused for what was sent, or told to slow down: the key was taken.
        Err(failure) if !matches!(failure.class(), Class::Permanent | Class::RateLimited) => Err(failure),
        _ => Ok(()),
    }
}
