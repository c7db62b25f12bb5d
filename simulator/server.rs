//! Connections and routes. axum routes, but its own server always answers: hyper serves, because it hangs up
//! without a word when a service fails.

use std::{error::Error as _, future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::Uri,
    response::Response,
    routing::{MethodRouter, get, post},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{
    Provider, SimulatorState, azure, control, documents,
    exchange::{self, AnswerFn, ConnectionReset},
    openai, speech, vision,
};

/// Accepts and serves connections until `shutdown` resolves; then drops them all.
pub(super) async fn run(
    listener: TcpListener,
    shared: Arc<SimulatorState>,
    shutdown: impl Future<Output = ()>,
) {
    let router = routes(shared);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, router.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, as a rule: some become free when a connection ends.
                    warn!(%error, "simulator: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

pub(super) fn routes(shared: Arc<SimulatorState>) -> Router {
    let speech = "/speech/recognition/conversation/cognitiveservices/v1";
    Router::new()
        .route("/v1/chat/completions", post_to(Provider::OpenAi, openai::chat))
        .route(
            "/openai/deployments/{deployment}/chat/completions",
            post_to(Provider::OpenAi, openai::chat),
        )
        .route("/v1/models", get_from(Provider::OpenAi, openai::models))
        .route(speech, post_to(Provider::AzureSpeech, speech::assess))
        .route(
            &format!("/stt{speech}"),
            post_to(Provider::AzureSpeech, speech::assess),
        )
        .route(
            "/computervision/imageanalysis:analyze",
            post_to(Provider::AzureVision, vision::analyze),
        )
        .route(
            "/vision/v3.2/read/analyze",
            post_to(Provider::AzureVision, vision::submit),
        )
        .route(
            "/vision/v3.2/read/analyzeResults/{id}",
            get_from(Provider::AzureVision, vision::poll),
        )
        .route(
            "/documentintelligence/documentModels/prebuilt-read:analyze",
            post_to(Provider::AzureVision, documents::submit),
        )
        .route(
            &format!("{}{{id}}", documents::RESULTS),
            get_from(Provider::AzureVision, documents::poll),
        )
        .merge(control::routes())
        .fallback(unknown)
        .with_state(shared)
}

fn post_to(provider: Provider, answerer: AnswerFn) -> MethodRouter<Arc<SimulatorState>> {
    post(
        move |State(shared): State<Arc<SimulatorState>>, request: Request| {
            exchange::run(shared, provider, request, answerer)
        },
    )
}

fn get_from(provider: Provider, answerer: AnswerFn) -> MethodRouter<Arc<SimulatorState>> {
    get(
        move |State(shared): State<Arc<SimulatorState>>, request: Request| {
            exchange::run(shared, provider, request, answerer)
        },
    )
}

/// 404 in the shape of the provider whose path was missed.
async fn unknown(uri: Uri) -> Response {
    let answer = if uri.path().starts_with("/v1/") {
        openai::unknown_url(&uri)
    } else {
        azure::refuse(404)
    };
    answer.into()
}

/// Serves one connection.
async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    // Best effort: without it small answers are only slower.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = router.call(request);
        Box::pin(async move {
            let response: Response<Body> = response.await.unwrap_or_else(|never| match never {});
            match response.extensions().get::<ConnectionReset>() {
                Some(reset) => Err(*reset),
                None => Ok(response),
            }
        })
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let Err(error) = future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await else {
        return;
    };
    if error.source().is_some_and(|cause| cause.is::<ConnectionReset>()) {
        // Closed without lingering, the socket sends RST instead of FIN.
        let stream = connection.into_parts().io.into_inner();
        if let Err(error) = stream.set_zero_linger() {
            warn!(%error, "simulator: closes a connection where it should reset it");
        }
    } else {
        debug!(%error, "simulator: connection ended");
    }
}
