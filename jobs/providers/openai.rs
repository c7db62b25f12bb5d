//! OpenAI chat completions, through async-openai. Its own retries (three, of 429 and 5xx) are off, and so is its
//! reading of errors, which loses the status, the headers, and bodies that are not JSON: a service of ours below
//! it makes the one attempt, and reads the stream of an answer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_openai::{Client, config::Config, error::OpenAIError, middleware::HttpRequestFactory};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tower::service_fn;
use url::Url;

use super::{
    answer_stream::{ArrivingAnswer, Patience, StreamedCall},
    dialect::{
        Dialect, DialectMemory, DialectStore, MOST_STEPS, deployment, is_about_a_missing_model,
        is_about_a_parameter,
    },
    error_body::ErrorBody,
    http::{ProviderPeer, Transport, join, key_header},
    models::{ModelRequest, ModelSuccessor},
    refusal_rules,
};
use crate::{
    Failure, OpenAiSettings, Provider, ProviderReply,
    chat_answer::{ChatAnswer, ESTIMATED},
    media::DisplayUrl,
    raw,
    text::tokens_at_most,
};

tokio::task_local! {
    /// The call whose request asks for a stream, for the service that sends it.
    static STREAMED: Arc<StreamedCall>;
}

/// OpenAI chat completions.
#[derive(Clone)]
pub struct OpenAi {
    client: Arc<Client<Endpoint>>,
    model: Arc<RequestedModel>,
    dialect: Arc<DialectMemory>,
    patience: Arc<Patience>,
}

/// The model that requests name, and the one that they name when it is gone.
struct RequestedModel {
    request: ModelRequest,
    settings: OpenAiSettings,
    /// Tokens of reasoning that answers have taken, and a quarter more: a model may reason more than the table says.
    seen_reasoning: AtomicU64,
}

/// Most room for reasoning that is left because an answer has taken it, tokens.
const MOST_SEEN_REASONING: u64 = 32_768;

impl RequestedModel {
    fn new(settings: &OpenAiSettings) -> Self {
        Self {
            request: settings.models.request(&settings.model, &settings.reasoning),
            settings: settings.clone(),
            seen_reasoning: AtomicU64::new(0),
        }
    }

    /// The request of the successor of `gone`, where there is one.
    fn successor(&self, gone: &str) -> Option<ModelRequest> {
        let settings = &self.settings;
        let name = match &settings.successor {
            ModelSuccessor::None => None,
            ModelSuccessor::Model(name) => Some(name.clone()),
            ModelSuccessor::Recommended => settings.models.retirement(&settings.base_url, gone)?.successor,
        };
        let name = name.filter(|name| name != gone)?;
        let mut request = settings.models.request(&name, &settings.reasoning);
        // The caller has left the room of the configured model.
        request.reasoning_room = request.reasoning_room.saturating_sub(self.request.reasoning_room);
        Some(request)
    }

    fn saw_reasoning(&self, tokens: u64) {
        let room = (tokens + tokens / 4).min(MOST_SEEN_REASONING);
        self.seen_reasoning.fetch_max(room, Ordering::Relaxed);
    }
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field(
                "base",
                &format_args!("{}", DisplayUrl(&self.client.config().base)),
            )
            .field("model", &self.model.request.model)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    pub(super) fn new(
        http: Transport,
        settings: &OpenAiSettings,
        store: Option<Arc<dyn DialectStore>>,
    ) -> Result<Self, reqwest::Error> {
        let endpoint = Endpoint::new(&http.requests, settings)?;
        let peer = Arc::new(ProviderPeer {
            provider: Provider::OpenAi,
            http: http.clone(),
            key: settings.key.clone(),
            classify,
        });
        let timeout = settings.timeout;
        // `build`, not `with_config`: that one makes a reqwest client of its own, and panics when it cannot.
        let client = Client::build(http.requests, endpoint).with_http_service(service_fn(move |request| {
            let peer = Arc::clone(&peer);
            async move { attempt(&peer, request, timeout).await }
        }));
        Ok(Self {
            client: Arc::new(client),
            model: Arc::new(RequestedModel::new(settings)),
            dialect: Arc::new(DialectMemory::new(
                deployment(&settings.base_url, &settings.model),
                store,
            )),
            patience: Arc::new(Patience::new(settings.idle_timeout)),
        })
    }

    /// The parameters of requests for the model, with room for the reasoning that was seen so far.
    pub fn model(&self) -> ModelRequest {
        let seen = self.model.seen_reasoning.load(Ordering::Relaxed);
        let mut request = self.model.request.clone();
        request.reasoning_room = request.reasoning_room.max(seen);
        request
    }

    /// Makes one attempt at a chat completion. `request` is its whole body, the model included, and does not ask
    /// for a stream: that is added where the provider takes it. The reply holds the whole answer, in the form of one
    /// that was not streamed, and the total of tokens that it cost.
    ///
    /// A provider that refuses a part of the request is asked again at once, without that part, and one that has the
    /// model no more is asked for its successor: a refusal costs nothing, and what the provider takes is remembered.
    ///
    /// # Errors
    /// Fails by the status; transient when no whole answer came back, or one that is not JSON.
    pub async fn chat(&self, request: &(impl Serialize + Sync + ?Sized)) -> Result<ProviderReply, Failure> {
        let request = to_raw_value(request).map_err(|error| unsent(error.into()))?;
        self.chat_arriving(&request, &Arc::default()).await
    }

    /// The same; the text is shown in `arriving` while it arrives. When its stream breaks, what has come is kept there.
    pub(crate) async fn chat_arriving(
        &self,
        request: &RawValue,
        arriving: &Arc<ArrivingAnswer>,
    ) -> Result<ProviderReply, Failure> {
        let dialect = self.dialect.current().await;
        match self.send(&dialect, request, arriving).await {
            Err(failure) if self.can_adapt(&dialect, &failure) => {
                self.adapt(dialect, request, failure, arriving).await
            }
            answer => answer,
        }
    }

    #[cfg(test)]
    pub(super) async fn dialect_now(&self) -> Dialect {
        self.dialect.current().await
    }

    /// Returns true if the request may be taken in another dialect.
    fn can_adapt(&self, dialect: &Dialect, failure: &Failure) -> bool {
        is_about_a_parameter(failure) || self.successor(dialect, failure).is_some()
    }

    fn successor(&self, dialect: &Dialect, failure: &Failure) -> Option<ModelRequest> {
        let gone = dialect.model(&self.model.request.model);
        self.model
            .successor(gone)
            .filter(|_| is_about_a_missing_model(failure))
    }

    /// Finds out what the provider takes of the request, and sends it so. One call at a time does, and the others go by
    /// what it has learned.
    async fn adapt(
        &self,
        refused: Dialect,
        request: &RawValue,
        failure: Failure,
        arriving: &Arc<ArrivingAnswer>,
    ) -> Result<ProviderReply, Failure> {
        let _learning = self.dialect.learning.lock().await;
        let (mut dialect, mut failure) = (refused.clone(), failure);
        let known = self.dialect.current().await;
        let fleet = self.dialect.of_the_fleet().await.filter(|_| known == refused);
        if let Some(other) = fleet.or(Some(known)).filter(|other| *other != refused) {
            self.dialect.set(&other);
            match self.send(&other, request, arriving).await {
                Err(again) if self.can_adapt(&other, &again) => (dialect, failure) = (other, again),
                answer => return answer,
            }
        }
        let tree: Value = serde_json::from_str(request.get()).map_err(|error| unsent(error.into()))?;
        for _ in 0..MOST_STEPS {
            let next = match self.successor(&dialect, &failure) {
                Some(successor) => Some(Dialect::with_successor(successor)),
                None => dialect.step_down(failure.parameter(), &tree),
            };
            let Some(next) = next else { break };
            match self.send(&next, request, arriving).await {
                Err(again) if self.can_adapt(&next, &again) => (dialect, failure) = (next, again),
                answer => {
                    // Whatever else came of it, the provider has taken the request as such.
                    if answer.is_ok() {
                        self.dialect.learned(&next).await;
                    }
                    return answer;
                }
            }
        }
        Err(failure)
    }

    async fn send(
        &self,
        dialect: &Dialect,
        request: &RawValue,
        arriving: &Arc<ArrivingAnswer>,
    ) -> Result<ProviderReply, Failure> {
        let written = dialect.write(request).map_err(|error| unsent(error.into()))?;
        let call = Arc::new(StreamedCall {
            arriving: arriving.clone(),
            patience: self.patience.clone(),
            reasoning_room: self.model().reasoning_room,
            reasoning: AtomicUsize::new(0),
        });
        let chat = self.client.chat();
        let sending = chat.create_byot::<_, Box<RawValue>>(&written);
        let sent = match dialect.streams() {
            true => STREAMED.scope(call.clone(), sending).await,
            false => sending.await,
        };
        let reasoning = call.reasoning.load(Ordering::Relaxed);
        match sent {
            Ok(body) => {
                let [tokens, reasoned] = raw::pick(
                    body.get(),
                    [
                        "/usage/total_tokens",
                        "/usage/completion_tokens_details/reasoning_tokens",
                    ],
                );
                let tokens = tokens.and_then(|tokens| tokens.count());
                if let Some(reasoned) = reasoned.and_then(|tokens| tokens.count()) {
                    self.model.saw_reasoning(reasoned);
                }
                let body = match tokens {
                    Some(_) => body,
                    None => with_estimated_usage(body, request, reasoning),
                };
                Ok(ProviderReply::new(body, tokens))
            }
            Err(error) => {
                arriving.change_partial(|body| with_estimated_usage(body, request, reasoning));
                Err(match error {
                    OpenAIError::Boxed(error) => error.downcast::<Failure>().map_or_else(unsent, |f| *f),
                    error => unsent(error.into()),
                })
            }
        }
    }
}

/// The answer with an upper estimate of its tokens, if the provider has counted none. `reasoning` are the bytes of reasoning
/// that came apart from the answer.
fn with_estimated_usage(body: Box<RawValue>, request: &RawValue, reasoning: usize) -> Box<RawValue> {
    let answer = ChatAnswer::read(&body);
    let is_counted = answer.tokens.prompt > 0 || answer.tokens.completion > 0;
    let Some(members) = body.get().strip_suffix('}') else {
        return body;
    };
    if is_counted || !answer.has_choice {
        return body;
    }
    let prompt = tokens_at_most(request.get());
    let completion =
        tokens_at_most(&answer.text) + tokens_at_most(&answer.refusal) + reasoning.div_ceil(3) as u64;
    let total = prompt + completion;
    // Of members with one name the last counts.
    let estimated = format!(
        r#"{members},"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total},"{ESTIMATED}":true}}}}"#
    );
    RawValue::from_string(estimated).unwrap_or(body)
}

/// The service reads every answer itself, so what else goes wrong does so before anything is sent.
fn unsent(error: tower::BoxError) -> Failure {
    Failure::deployment("openai: the request cannot be built")
        .by(Provider::OpenAi)
        .caused_by(error)
}

/// The time-out covers the whole exchange. An answer that is not streamed comes once the model has written all of it,
/// and until then the connection is silent.
async fn attempt(
    peer: &ProviderPeer,
    request: HttpRequestFactory,
    timeout: Duration,
) -> Result<reqwest::Response, OpenAIError> {
    let mut request = request.build().await?;
    *request.timeout_mut() = Some(timeout);
    let checked = async {
        let answer = match STREAMED.try_with(Arc::clone) {
            Ok(call) => call.exchange(peer, request).await?,
            Err(_) => peer.exchange(request).await?,
        };
        // Checked here, because async-openai would log the whole of an answer that it cannot read.
        peer.json::<&RawValue>(&answer.body)?;
        peer.refuse_error_inside(&answer)?;
        Ok::<_, Failure>(answer.body)
    };
    let body = checked
        .await
        .map_err(|failure| OpenAIError::Boxed(Box::new(failure)))?;
    Ok(::http::Response::new(body).into())
}

/// The configuration that async-openai requires for each request. Its own type reads the environment, and panics at a
/// key that no header can carry.
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

/// The meaning of an answer other than 2xx, and of an error inside of one.
pub(super) fn classify(status: u16, headers: &HeaderMap, body: &ErrorBody) -> Failure {
    refusal_rules::refusal(Provider::OpenAi, status, headers, body)
}
