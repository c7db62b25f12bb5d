//! The providers' protocols: how a request is written, and what an answer means. Each client makes one attempt a
//! call and retries nothing: when to try again is decided once, above, from the [`Failure`](crate::Failure).
//!
//! # Layout
//! - [`openai`], [`azure_speech`], [`azure_vision`]: one file a provider, each with its pure `classify`.
//! - `http`: what they share on the wire: the exchange, bounded bodies, URLs.
//! - `answer_stream`: answers that arrive in parts; `event_stream`: the events that they travel in.
//! - `redact`: takes the key out of all that they say.
//! - [`reach`]: whether a provider can be reached, without spending.
//! - `refusal_rules`: the class and the culprit of a refusal, in one table for all providers.
//! - `dialect`: what a provider that speaks like OpenAI takes of a request.
//! - [`models`]: what is known of language models: reasoning, caches, the day on which they shut down.
//! - `error_body`, `retry_after`: what an error body says, and how long the provider asks to wait.

use std::sync::Arc;

use reqwest::header::HeaderName;

use self::http::Transport;
use crate::{ClientError, Settings};

pub(crate) mod answer_stream;
pub mod azure_speech;
pub mod azure_vision;
mod dialect;
mod error_body;
mod event_stream;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/refusal.rs"]
pub(crate) mod fuzz;
mod http;
pub mod models;
pub mod openai;
mod reachability;
mod redact;
mod refusal_rules;
mod retry_after;
#[cfg(test)]
mod tests;

pub use azure_speech::AzureSpeech;
pub use azure_vision::AzureVision;
pub use dialect::{Dialect, DialectStore, REMEMBERED_FOR, deployment};
pub use openai::OpenAi;
pub use reachability::{Reachability, reach, reach_deployment};

/// Named in every request; OpenAI's library sends none, and Azure's text to speech refuses requests without one.
const USER_AGENT: &str = concat!("backend-worker/", env!("CARGO_PKG_VERSION"));

/// The header in which the Azure services expect their key.
const AZURE_KEY: HeaderName = HeaderName::from_static("ocp-apim-subscription-key");

/// The clients of all providers that are configured.
#[derive(Debug, Clone)]
pub struct Clients {
    /// OpenAI, or `None` without settings.
    pub openai: Option<OpenAi>,
    /// Azure Speech, or `None` without settings.
    pub speech: Option<AzureSpeech>,
    /// Azure Vision, or `None` without settings.
    pub vision: Option<AzureVision>,
}

impl Clients {
    /// Builds the clients. Opens no connection. Replicas with the same `store` share what they learn of a provider.
    ///
    /// The process must have installed a rustls crypto provider: the client panics without one.
    ///
    /// # Errors
    /// When the HTTP client cannot be built (no TLS roots, say), or a key holds characters that no header may
    /// carry.
    pub fn new(settings: &Settings, store: Option<Arc<dyn DialectStore>>) -> Result<Self, ClientError> {
        let http = Transport::new()?;
        Ok(Self {
            openai: settings
                .openai
                .as_ref()
                .map(|s| OpenAi::new(&http, s, &settings.fallbacks, store.as_ref()))
                .transpose()?,
            speech: settings
                .speech
                .as_ref()
                .map(|s| AzureSpeech::new(http.clone(), s))
                .transpose()?,
            vision: settings
                .vision
                .as_ref()
                .map(|s| AzureVision::new(http, s))
                .transpose()?,
        })
    }
}
