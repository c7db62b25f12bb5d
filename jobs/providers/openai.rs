//! OpenAI chat completions, through async-openai. Its own retries (three, of 429 and 5xx) are off, and so is its
//! reading of errors, which loses the status, the headers, and bodies that are not JSON: a service of ours below
//! it makes the one attempt.

use std::{fmt, sync::Arc, time::Duration};

use async_openai::{Client, config::Config, error::OpenAIError, middleware::HttpRequestFactory};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;
use tower::service_fn;
use url::Url;

use super::{
    answer::{ErrorBody, class_of, refusal, retry_after},
    http::{Peer, join, key_header},
};
use crate::{Class, Failure, OpenAiSettings, Provider, Reply, media::Shown, raw};

/// Codes and types of a 429 that no waiting mends. Any `…_spend_limit_exceeded` is another.
const NO_CREDIT: [&str; 3] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_usage_limit_exceeded",
];

/// Codes of a 400 that every job would get: our request does not suit the model.
const UNSUITABLE_CODES: [&str; 5] = [
    "invalid_json_schema",
    "unsupported_parameter",
    "unsupported_value",
    "unknown_parameter",
    "model_not_found",
];

/// The same, in the words of the 400s that come without a code.
const UNSUITABLE_WORDS: [&str; 5] = [
    "invalid schema",
    "unsupported parameter",
    "unknown parameter",
    "unrecognized request argument",
    "is not supported with this model",
];

/// OpenAI chat completions.
#[derive(Clone)]
pub struct OpenAi {
    client: Arc<Client<Endpoint>>,
    model: Arc<str>,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("base", &format_args!("{}", Shown(&self.client.config().base)))
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    pub(super) fn new(http: reqwest::Client, settings: &OpenAiSettings) -> Result<Self, reqwest::Error> {
        let endpoint = Endpoint::new(&http, settings)?;
        let peer = Arc::new(Peer {
            provider: Provider::OpenAi,
            http: http.clone(),
            key: settings.key.clone(),
            classify,
        });
        let timeout = settings.timeout;
        // `build`, not `with_config`: that one makes a reqwest client of its own, and panics when it cannot.
        let client = Client::build(http, endpoint).with_http_service(service_fn(move |request| {
            let peer = Arc::clone(&peer);
            async move { attempt(&peer, request, timeout).await }
        }));
        Ok(Self {
            client: Arc::new(client),
            model: settings.model.as_str().into(),
        })
    }

    /// The model that requests should name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Makes one attempt at a chat completion. `request` is its whole body, the model included, and does not ask
    /// for a stream. The reply holds the whole answer, and the total of tokens that it cost.
    ///
    /// # Errors
    /// What the status means; transient when no whole answer came back, or one that is not JSON.
    pub async fn chat(&self, request: &(impl Serialize + Sync + ?Sized)) -> Result<Reply, Failure> {
        match self.client.chat().create_byot::<_, Box<RawValue>>(request).await {
            Ok(body) => {
                let [tokens] = raw::pick(&body, ["/usage/total_tokens"]);
                let tokens = tokens.and_then(|tokens| tokens.count());
                Ok(Reply { body, tokens })
            }
            Err(OpenAIError::Boxed(error)) => Err(error.downcast::<Failure>().map_or_else(unsent, |f| *f)),
            Err(error) => Err(unsent(error.into())),
        }
    }
}

/// The service reads every answer itself, so what else goes wrong does so before anything is sent.
fn unsent(error: tower::BoxError) -> Failure {
    Failure::deployment("openai: the request cannot be built")
        .by(Provider::OpenAi)
        .caused_by(error)
}

/// The time-out covers the whole exchange: the answer comes in one piece once the model has written all of it, and
/// until then the connection is silent.
async fn attempt(
    peer: &Peer,
    request: HttpRequestFactory,
    timeout: Duration,
) -> Result<reqwest::Response, OpenAIError> {
    let mut request = request.build().await?;
    *request.timeout_mut() = Some(timeout);
    let checked = async {
        let body = peer.exchange(request).await?.body;
        // Checked here, because async-openai would log the whole of an answer that it cannot read.
        peer.json::<&RawValue>(&body)?;
        Ok::<_, Failure>(body)
    };
    let body = checked
        .await
        .map_err(|failure| OpenAIError::Boxed(Box::new(failure)))?;
    Ok(::http::Response::new(body).into())
}

/// What async-openai asks for with each request. Its own configuration reads the environment, and panics at a key
/// that no header can carry.
#[derive(Clone)]
struct Endpoint {
    base: Url,
    key: SecretString,
    headers: HeaderMap,
}

impl Endpoint {
    fn new(http: &reqwest::Client, settings: &OpenAiSettings) -> Result<Self, reqwest::Error> {
        let bearer = SecretString::from(format!("Bearer {}", settings.key.expose_secret()));
        let headers = key_header(http, AUTHORIZATION, &bearer)?;
        Ok(Self {
            base: settings.base_url.clone(),
            key: settings.key.clone(),
            headers,
        })
    }
}

impl Config for Endpoint {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        join(&self.base, path).into()
    }

    fn query(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }

    fn api_base(&self) -> &str {
        self.base.as_str()
    }

    fn api_key(&self) -> &SecretString {
        &self.key
    }
}

/// The meaning of an answer other than 2xx.
pub(super) fn classify(status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
    let body = ErrorBody::parse(body);
    let class = match status {
        400 if is_unsuitable(&body) => Class::Deployment,
        429 if is_no_credit(&body.code) || is_no_credit(&body.kind) => Class::OutOfQuota,
        429 if body.says("request too large") => Class::Permanent,
        _ => class_of(status),
    };
    refusal(Provider::OpenAi, status, class, retry_after(headers), &body)
}

fn is_no_credit(word: &str) -> bool {
    NO_CREDIT.contains(&word) || word.ends_with("_spend_limit_exceeded")
}

fn is_unsuitable(body: &ErrorBody) -> bool {
    UNSUITABLE_CODES.contains(&body.code.as_str()) || UNSUITABLE_WORDS.iter().any(|words| body.says(words))
}
