//! OpenAI chat completions, through async-openai. Its own retries (three, of 429 and 5xx) are off, and so is its
//! reading of errors, which loses the status, the headers, and bodies that are not JSON: a service of ours below
//! it makes the one attempt, and reads the stream of an answer.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_openai::{Client, error::OpenAIError, middleware::HttpRequestFactory};
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::time::{Instant, sleep_until};
use tower::service_fn;
use tracing::debug;

mod endpoint;
mod estimates;
mod requested_model;

use endpoint::Endpoint;
pub(super) use endpoint::key_headers;
use requested_model::RequestedModel;

use super::{
    answer_stream::{ArrivingAnswer, Patience, StreamedCall},
    dialect::{
        Dialect, DialectMemory, DialectStore, MOST_STEPS, deployment, is_about_a_missing_model,
        is_about_a_parameter,
    },
    error_body::ErrorBody,
    http::{ProviderPeer, Transport},
    models::ModelRequest,
    refusal_rules,
};
use crate::{
    Culprit, DEPLOYMENT, FLEX, Failure, FailureClass, FlexTerms, OpenAiSettings, Provider, ProviderReply,
    chat_answer::{ChatAnswer, DEPLOYMENT_NAME, ESTIMATED},
    media::DisplayUrl,
    raw,
    text::tokens_at_most,
};

tokio::task_local! {
    /// The call whose request asks for a stream, for the service that sends it.
    static STREAMED: Arc<StreamedCall>;
}

/// OpenAI chat completions, at one or several deployments.
#[derive(Clone)]
pub struct OpenAi {
    deployments: Arc<[Deployment]>,
}

/// One deployment of a language model.
struct Deployment {
    /// Empty where there is only one.
    name: String,
    is_first: bool,
    client: Client<Endpoint>,
    model: RequestedModel,
    /// The parameters of its model in place of those of the first deployment, for which requests are written.
    renamed: Option<ModelRequest>,
    /// The parameters of the model that is asked when its own is gone.
    successor: Option<ModelRequest>,
    dialect: DialectMemory,
    patience: Arc<Patience>,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.deployments).finish()
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment")
            .field("name", &self.name)
            .field(
                "base",
                &format_args!("{}", DisplayUrl(&self.client.config().base)),
            )
            .field("model", &self.model.request.model)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    /// A client of all deployments. `first` takes the calls that no guard sends to one of `others`.
    pub(super) fn new(
        http: &Transport,
        first: &OpenAiSettings,
        others: &[OpenAiSettings],
        store: Option<&Arc<dyn DialectStore>>,
    ) -> Result<Self, reqwest::Error> {
        let deployments = std::iter::once(first).chain(others);
        let deployments: Result<Vec<Deployment>, _> = deployments
            .map(|settings| Deployment::new(http, settings, first, store.cloned()))
            .collect();
        Ok(Self {
            deployments: deployments?.into(),
        })
    }

    /// The deployment that the guard has chosen for the call of this task.
    fn chosen(&self) -> &Deployment {
        let index = DEPLOYMENT.try_with(|index| *index).unwrap_or_default();
        self.deployments.get(index).unwrap_or(&self.deployments[0])
    }

    /// The parameters of requests for the model of the first deployment, with room for the reasoning that was seen so
    /// far. Another deployment writes its own model in their place.
    pub fn model(&self) -> ModelRequest {
        self.deployments[0].model()
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

    /// As [`Self::chat`], with the text in `arriving` while it arrives. If its stream breaks, `arriving` keeps the answer so
    /// far.
    pub(crate) async fn chat_arriving(
        &self,
        request: &RawValue,
        arriving: &Arc<ArrivingAnswer>,
    ) -> Result<ProviderReply, Failure> {
        let deployment = self.chosen();
        let answer = deployment.chat(request, arriving).await;
        arriving.change_partial(|body| deployment.named(body));
        answer.map(|reply| ProviderReply {
            body: deployment.named(reply.body),
            ..reply
        })
    }

    #[cfg(test)]
    pub(super) async fn dialect_now(&self) -> Dialect {
        self.deployments[0].dialect.current().await
    }
}

impl Deployment {
    fn new(
        http: &Transport,
        settings: &OpenAiSettings,
        first: &OpenAiSettings,
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
        let client =
            Client::build(http.requests.clone(), endpoint).with_http_service(service_fn(move |request| {
                let peer = Arc::clone(&peer);
                async move { attempt(&peer, request, timeout).await }
            }));
        let model = RequestedModel::new(settings, first);
        let of_first = first.models.request(&first.model, &first.reasoning);
        let renamed = (model.request != of_first).then(|| model.beside_the_caller(model.request.clone()));
        Ok(Self {
            name: settings.name.clone(),
            is_first: std::ptr::eq(settings, first),
            client,
            renamed,
            successor: model.successor(&settings.model),
            model,
            dialect: DialectMemory::new(deployment(&settings.base_url, &settings.model), store),
            patience: Arc::new(Patience::new(settings.idle_timeout)),
        })
    }

    fn model(&self) -> ModelRequest {
        let seen = self.model.seen_reasoning.load(Ordering::Relaxed);
        let mut request = self.model.request.clone();
        request.reasoning_room = request.reasoning_room.max(seen);
        request
    }

    /// The answer with the deployment's name, which the ledger keeps and the result shows.
    fn named(&self, body: Box<RawValue>) -> Box<RawValue> {
        let members = body.get().strip_suffix('}').filter(|_| !self.name.is_empty());
        let named = members.and_then(|members| {
            let comma = if members.trim_end().ends_with('{') {
                ""
            } else {
                ","
            };
            let name = serde_json::to_string(&self.name).ok()?;
            // An answer that names no model is that of the model of this deployment, not of the first one.
            let model = match raw::pick(body.get(), ["/model"]) {
                [Some(_)] => String::new(),
                [None] => format!(
                    r#","model":{}"#,
                    serde_json::to_string(&self.model.request.model).ok()?
                ),
            };
            RawValue::from_string(format!(r#"{members}{comma}"{DEPLOYMENT_NAME}":{name}{model}}}"#)).ok()
        });
        named.unwrap_or(body)
    }

    async fn chat(
        &self,
        request: &RawValue,
        arriving: &Arc<ArrivingAnswer>,
    ) -> Result<ProviderReply, Failure> {
        match FlexTerms::now() {
            Some(until) => self.flexibly(request, arriving, until).await,
            None => self.answered(request, arriving).await,
        }
    }

    /// Asks for the cheaper tier, and for the usual one if that is refused.
    ///
    /// A refusal costs nothing and says nothing about the provider, so it is reported neither to the gate nor to the retries.
    ///
    /// # Errors
    /// Fails as [late](Failure::is_late_tier) if the cheaper tier has not begun to answer by `until`: the provider may bill
    /// that request, so the caller books it before the usual tier is asked.
    async fn flexibly(
        &self,
        request: &RawValue,
        arriving: &Arc<ArrivingAnswer>,
        until: Instant,
    ) -> Result<ProviderReply, Failure> {
        let flexible = flexible(request).map_err(|error| unsent(error.into()))?;
        let answer = {
            let mut asked = pin!(self.answered(&flexible, arriving));
            tokio::select! {
                biased;
                answer = &mut asked => Some(answer),
                () = sleep_until(until) => match arriving.has_begun() {
                    true => Some(asked.await),
                    false => None,
                },
            }
        };
        match answer {
            Some(Err(failure)) if is_refusal_of_tier(&failure) => {
                debug!("the tier flex is refused, and the usual one is asked: {failure}");
            }
            Some(answer) => return answer,
            None => {
                let late = Failure::transient("openai: the tier flex has not begun to answer in time");
                return Err(late
                    .by(Provider::OpenAi)
                    .blaming(Culprit::NoFault)
                    .with_late_tier());
            }
        }
        let usual = self.answered(request, arriving);
        FLEX.scope(FlexTerms::used_up(), usual).await
    }

    async fn answered(
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

    /// Finds a dialect that the provider takes, and sends the request in it. One call at a time learns; the others then use
    /// the dialect that it has learned.
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
        let whole = Dialect::default().write(request, self.renamed().as_ref());
        let tree = whole.and_then(|whole| serde_json::from_str::<Value>(whole.get()));
        let tree = tree.map_err(|error| unsent(error.into()))?;
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
        let written = dialect
            .write(request, self.renamed().as_ref())
            .map_err(|error| unsent(error.into()))?;
        let call = Arc::new(StreamedCall {
            arriving: arriving.clone(),
            patience: self.patience.clone(),
            reasoning_room: self.model().reasoning_room,
            least_patience: FlexTerms::now().map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            }),
            reasoning: AtomicUsize::new(0),
        });
        let (chat, streams) = (self.client.chat(), dialect.streams());
        let sending = chat.create_byot::<_, Box<RawValue>>(&written);
        let sent = match streams {
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

/// The same request for the cheaper tier.
fn flexible(request: &RawValue) -> Result<Box<RawValue>, serde_json::Error> {
    let mut tree: Value = serde_json::from_str(request.get())?;
    tree["service_tier"] = "flex".into();
    to_raw_value(&tree)
}

/// Returns true if the provider has answered, at no cost, that it does not do this request now.
fn is_refusal_of_tier(failure: &Failure) -> bool {
    let is_not_now = matches!(
        failure.class(),
        FailureClass::RateLimited | FailureClass::Transient
    );
    is_not_now && failure.status().is_some() && !failure.is_answer_lost()
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

/// The meaning of an answer other than 2xx, and of an error inside of one.
pub(super) fn classify(status: u16, headers: &HeaderMap, body: &ErrorBody) -> Failure {
    refusal_rules::refusal(Provider::OpenAi, status, headers, body)
}
