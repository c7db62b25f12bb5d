//! The address and the key of a deployment, as its interface expects them.

use async_openai::config::Config;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::{
    ChatApi, OpenAiSettings,
    providers::http::{join, key_header},
};

/// The configuration that async-openai requires for each request. Its own type reads the environment, and panics at a
/// key that no header can carry.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) base: Url,
    key: SecretString,
    headers: HeaderMap,
    api: ChatApi,
    model: String,
}

/// The header in which Azure's classic interface expects its key.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The header with the key, as the interface expects it.
pub(in crate::providers) fn key_headers(
    http: &reqwest::Client,
    settings: &OpenAiSettings,
) -> Result<HeaderMap, reqwest::Error> {
    match settings.api {
        ChatApi::OpenAi => {
            let bearer = SecretString::from(format!("Bearer {}", settings.key.expose_secret()));
            key_header(http, AUTHORIZATION, &bearer)
        }
        ChatApi::AzureClassic { .. } => key_header(http, API_KEY, &settings.key),
    }
}

impl Endpoint {
    pub(super) fn new(http: &reqwest::Client, settings: &OpenAiSettings) -> Result<Self, reqwest::Error> {
        Ok(Self {
            base: settings.base_url.clone(),
            key: settings.key.clone(),
            headers: key_headers(http, settings)?,
            api: settings.api.clone(),
            model: settings.model.clone(),
        })
    }
}

impl Config for Endpoint {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        match self.api {
            ChatApi::OpenAi => join(&self.base, path).into(),
            ChatApi::AzureClassic { .. } => join(
                &self.base,
                format_args!("/openai/deployments/{}{path}", self.model),
            )
            .into(),
        }
    }

    fn query(&self) -> Vec<(&str, &str)> {
        match &self.api {
            ChatApi::OpenAi => Vec::new(),
            ChatApi::AzureClassic { version } => vec![("api-version", version)],
        }
    }

    fn api_base(&self) -> &str {
        self.base.as_str()
    }

    fn api_key(&self) -> &SecretString {
        &self.key
    }
}
