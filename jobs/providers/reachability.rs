//! Checks without a paid call that a provider is reachable and accepts its key. OpenAI lists its models. The Azure
//! services get an empty recording or image, which they refuse as such after they have accepted the key.

use std::time::Duration;

use reqwest::{Request, header::CONTENT_TYPE};
use serde::Deserialize;
use url::Url;

use super::{
    AZURE_KEY, azure_speech, azure_vision,
    error_body::excerpt,
    http::{ProviderAnswer, ProviderPeer, Transport, join, key_header},
    models::Retirement,
    openai,
};
use crate::{AccountFault, ChatApi, Failure, FailureClass, OpenAiSettings, Provider, Settings};

/// Longest wait for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a provider was found.
#[derive(Debug)]
pub enum Reachability {
    /// It takes the key, and has the model as far as it says.
    Well,
    /// It lists no models, or the key may not list them: whether it takes the key for calls is not known.
    NoModelList(Failure),
    /// It shuts the model, or the service, down on this day, as it writes it.
    ModelEnds(String),
}

/// Reaches for a provider; `None` where it is not configured.
///
/// # Errors
/// Returns the fault that would fail every job, with its class and the fault of the account.
pub async fn reach(settings: &Settings, provider: Provider) -> Option<Result<Reachability, Failure>> {
    let http = match transport() {
        Ok(http) => http,
        Err(failure) => return Some(Err(failure)),
    };
    let (request, key, classify): (_, _, super::http::RefusalClassifier) = match provider {
        Provider::OpenAi => return Some(reach_deployment(settings.openai.as_ref()?).await),
        Provider::AzureSpeech => {
            let s = settings.speech.as_ref()?;
            let request = key_header(&http.requests, AZURE_KEY, &s.key).map(|key| {
                http.requests
                    .post(join(&s.endpoint, azure_speech::PATH))
                    .query(&[("language", "en-US"), ("format", "detailed")])
                    .header(CONTENT_TYPE, "audio/wav; codecs=audio/pcm; samplerate=16000")
                    .headers(key)
                    .body("")
            });
            (request, &s.key, azure_speech::classify)
        }
        Provider::AzureVision => {
            let s = settings.vision.as_ref()?;
            let (path, query) = azure_vision::image_target(s.api);
            let request = key_header(&http.requests, AZURE_KEY, &s.key).map(|key| {
                http.requests
                    .post(join(&s.endpoint, path))
                    .query(query)
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .headers(key)
                    .body("")
            });
            (request, &s.key, azure_vision::classify)
        }
    };
    let peer = ProviderPeer {
        provider,
        http: http.clone(),
        key: key.clone(),
        classify,
    };
    let request = request.and_then(|request| request.timeout(TIMEOUT).build());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Some(Err(peer.unbuildable(error))),
    };
    let sent = send(&peer, request).await;
    Some(match (provider, &settings.vision) {
        (Provider::AzureVision, Some(vision)) => sent.map(|_| {
            let known = vision.models.retirement(&vision.endpoint, vision.api.service());
            with_known_day(Reachability::Well, known)
        }),
        _ => sent.map(|_| Reachability::Well),
    })
}

fn transport() -> Result<Transport, Failure> {
    Transport::new().map_err(|error| Failure::deployment("no HTTP client can be built").caused_by(error))
}

/// Reaches for one deployment of the language model.
///
/// # Errors
/// As [`reach`].
pub async fn reach_deployment(settings: &OpenAiSettings) -> Result<Reachability, Failure> {
    let http = transport()?;
    let peer = ProviderPeer {
        provider: Provider::OpenAi,
        http: http.clone(),
        key: settings.key.clone(),
        classify: openai::classify,
    };
    let get = |url| {
        let headers = openai::key_headers(&http.requests, settings)?;
        http.requests.get(url).headers(headers).timeout(TIMEOUT).build()
    };
    let list = match &settings.api {
        ChatApi::OpenAi => join(&settings.base_url, "/models"),
        ChatApi::AzureClassic { version } => {
            let mut url = join(&settings.base_url, "/openai/models");
            url.query_pairs_mut().append_pair("api-version", version);
            url
        }
    };
    let request = get(list).map_err(|error| peer.unbuildable(error))?;
    let listed = send(&peer, request).await;
    let reached = model_list(&peer, settings, listed, get).await?;
    let known = settings.models.retirement(&settings.base_url, &settings.model);
    Ok(with_known_day(reached, known))
}

/// The answer; `None` for a refusal of what was sent, or a request to slow down: the key was taken.
async fn send(peer: &ProviderPeer, request: Request) -> Result<Option<ProviderAnswer>, Failure> {
    match peer.exchange(request).await {
        Ok(answer) => {
            peer.refuse_error_inside(&answer)?;
            Ok(Some(answer))
        }
        Err(failure)
            if matches!(
                failure.class(),
                FailureClass::Permanent | FailureClass::RateLimited
            ) =>
        {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Reads the list of models to check the key and the model. Many providers serve no list, and a key may lack the right
/// to read it.
async fn model_list(
    peer: &ProviderPeer,
    settings: &OpenAiSettings,
    listed: Result<Option<ProviderAnswer>, Failure>,
    get: impl Fn(Url) -> Result<Request, reqwest::Error>,
) -> Result<Reachability, Failure> {
    let answer = match listed {
        Ok(Some(answer)) => answer,
        Ok(None) => return Ok(Reachability::Well),
        Err(failure) => {
            let fault = failure.account_fault();
            let unlisted = matches!(
                (fault, failure.status()),
                (Some(AccountFault::Scope), _)
                    | (
                        Some(AccountFault::Endpoint | AccountFault::Model | AccountFault::Parameter),
                        Some(404 | 405 | 410 | 501)
                    )
            );
            return if unlisted {
                Ok(Reachability::NoModelList(failure))
            } else {
                Err(failure)
            };
        }
    };
    let models = serde_json::from_slice::<ModelList>(&answer.body)
        .unwrap_or_default()
        .data;
    let known = models.into_iter().find(|model| model.id == settings.model);
    if let Some(model) = known {
        return Ok(model
            .shutdown_date
            .map_or(Reachability::Well, |day| Reachability::ModelEnds(excerpt(&day))));
    }
    // Azure's classic interface lists the models of the resource. Its deployments have names of their own.
    if settings.api != ChatApi::OpenAi {
        return Ok(Reachability::Well);
    }
    // A list need not be complete: proxies leave out aliases. The model's own address decides.
    let mut url = join(&settings.base_url, "/models");
    if let Ok(mut path) = url.path_segments_mut() {
        path.push(&settings.model);
    }
    let request = get(url).map_err(|error| peer.unbuildable(error))?;
    match send(peer, request).await {
        Ok(_) => Ok(Reachability::Well),
        Err(failure) if failure.status() == Some(404) => {
            let message = format!(
                "openai has no model {}, or the key may not use it (404)",
                settings.model
            );
            Err(Failure::deployment(message)
                .by(Provider::OpenAi)
                .with_status(404)
                .with_account_fault(AccountFault::Model))
        }
        // The list was served: the key is good.
        Err(_) => Ok(Reachability::Well),
    }
}

/// Adds the shutdown day from the table of models where the provider names none.
fn with_known_day(reached: Reachability, known: Option<Retirement>) -> Reachability {
    match (reached, known) {
        (Reachability::Well, Some(known)) => Reachability::ModelEnds(known.day),
        (reached, _) => reached,
    }
}

#[derive(Default, Deserialize)]
struct ModelList {
    #[serde(default)]
    data: Vec<ListedModel>,
}

#[derive(Deserialize)]
struct ListedModel {
    #[serde(default)]
    id: String,
    #[serde(default)]
    shutdown_date: Option<String>,
}
