//! The simulator's own routes, by which another process reads the journal and sets faults. They know no key and
//! are meant for the loopback interface alone: any other peer gets 404.
//!
//! | route | answer |
//! |---|---|
//! | GET /_sim/journal?since=N | `{entries, next}`: up to 10,000 requests from number N on; ask again from `next` |
//! | GET /_sim/stats | `{uptime_ms, providers: {openai: {…, pending_faults}, azure-speech, azure-vision}}` |
//! | POST /_sim/faults?provider=openai | body: array of faults, of which all are set or none; with `&match=TEXT` (and `&times=N`) for requests that contain it |
//! | DELETE /_sim/faults | forgets scripts and matches |
//! | POST /_sim/options | `{latency_ms?, stream_ms?, random_faults?}` |

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fault, FaultError, Provider, SimulatorState};

/// Entries in one answer of the journal.
const PAGE: usize = 10_000;

pub(super) fn routes() -> Router<Arc<SimulatorState>> {
    Router::new()
        .route("/_sim/journal", get(journal))
        .route("/_sim/stats", get(stats))
        .route("/_sim/faults", post(add_faults).delete(clear_faults))
        .route("/_sim/options", post(set_options))
        .layer(middleware::from_fn(loopback_only))
}

async fn loopback_only(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if peer.ip().to_canonical().is_loopback() {
        next.run(request).await
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn journal(
    State(shared): State<Arc<SimulatorState>>,
    Query(Since { since }): Query<Since>,
) -> Json<Value> {
    let entries = shared.journal.entries(since, PAGE);
    let next = entries.last().map_or(since, |entry| entry.seq + 1);
    Json(json!({"entries": entries, "next": next}))
}

async fn stats(State(shared): State<Arc<SimulatorState>>) -> Json<Value> {
    let providers: Map<String, Value> = Provider::ALL
        .into_iter()
        .map(|provider| {
            let mut counts = json!(shared.journal.counts(provider));
            counts["pending_faults"] = json!(shared.faults.pending(provider));
            (provider.to_string(), counts)
        })
        .collect();
    Json(json!({"uptime_ms": shared.journal.elapsed_ms(), "providers": providers}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultTarget {
    provider: Provider,
    #[serde(rename = "match")]
    text: Option<String>,
    times: Option<u32>,
}

async fn add_faults(
    State(shared): State<Arc<SimulatorState>>,
    Query(target): Query<FaultTarget>,
    Json(faults): Json<Vec<Fault>>,
) -> Result<StatusCode, ControlRefusal> {
    match (target.text, target.times) {
        (None, None) => shared.faults.script(target.provider, faults)?,
        (None, Some(_)) => return Err(ControlRefusal("times needs match".to_owned())),
        (Some(text), times) => shared
            .faults
            .on_match_each(target.provider, &text, faults, times)?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn clear_faults(State(shared): State<Arc<SimulatorState>>) -> StatusCode {
    shared.faults.clear();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultChange {
    latency_ms: Option<u64>,
    stream_ms: Option<u64>,
    random_faults: Option<f64>,
}

async fn set_options(
    State(shared): State<Arc<SimulatorState>>,
    Json(change): Json<FaultChange>,
) -> Result<StatusCode, ControlRefusal> {
    if let Some(share) = change.random_faults {
        shared.faults.set_random_share(share)?;
    }
    if let Some(ms) = change.latency_ms {
        shared.set_latency(Duration::from_millis(ms));
    }
    if let Some(ms) = change.stream_ms {
        shared.set_stream_time(Duration::from_millis(ms));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// 400, and why.
struct ControlRefusal(String);

impl From<FaultError> for ControlRefusal {
    fn from(error: FaultError) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for ControlRefusal {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}
