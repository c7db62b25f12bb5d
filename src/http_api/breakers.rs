//! Breakers and limits: read and reset.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, Path, Query, State},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::warn;

use super::{HttpState, responses::HttpError};
use crate::{
    operator::view::{breaker, limit},
    ratelimit::{RateSubject, WindowUsage},
    time_format::timestamp,
};

type JsonAnswer = Result<Json<Value>, HttpError>;

pub(super) async fn status(State(ops): State<Arc<HttpState>>) -> JsonAnswer {
    let breakers = ops.operator.breakers().await?;
    let breakers: Map<String, Value> = breakers.iter().map(|b| (b.name.clone(), breaker(b))).collect();
    Ok(Json(
        json!({ "success": true, "circuitBreakers": breakers, "timestamp": timestamp() }),
    ))
}

pub(super) async fn reset(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
) -> JsonAnswer {
    let breaker = ops.operator.reset_breaker(&name).await?;
    warn!(breaker = breaker.name, %peer, "circuit breaker reset by hand");
    let message = format!("Circuit breaker {} has been reset", breaker.name);
    Ok(Json(
        json!({ "success": true, "message": message, "timestamp": timestamp() }),
    ))
}

/// The user or address whose window to look at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserQuery {
    user_id: Option<String>,
}

pub(super) async fn limits(State(ops): State<Arc<HttpState>>, Query(whose): Query<UserQuery>) -> JsonAnswer {
    let limits = ops.operator.limits().await?;
    let limits: Map<String, Value> = limits.iter().map(|s| (s.name().to_owned(), limit(s))).collect();
    let mut answer = json!({ "success": true, "limits": limits, "timestamp": timestamp() });
    if let Some(user) = whose.user_id {
        let window = ops
            .rate_limits
            .peek(&RateSubject::User(&user), super::intake::ACTION, ops.user_window)
            .await?;
        answer["user"] = window.map_or(Value::Null, |window| allowance(&user, window));
    }
    Ok(Json(answer))
}

fn allowance(user: &str, window: WindowUsage) -> Value {
    json!({
        "userId": user,
        "limit": window.limit,
        "remaining": window.remaining,
        "resetInSeconds": window.reset_after.as_secs_f64().ceil(),
    })
}
