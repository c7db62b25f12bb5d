//! Money over HTTP: what was spent, and the kill switch.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::{
    HttpState,
    responses::{HttpError, timestamp},
};
use crate::spending::accounts::{SpendGrouping, month};

/// What to add up.
#[derive(Debug, Deserialize)]
pub(super) struct SpendQuery {
    by: Option<SpendGrouping>,
    month: Option<String>,
}

pub(super) async fn report(
    State(ops): State<Arc<HttpState>>,
    headers: HeaderMap,
    Query(wanted): Query<SpendQuery>,
) -> Result<Json<Value>, HttpError> {
    ops.access.to_read(&headers)?;
    let wanted_month = wanted.month.as_deref().map(month).transpose();
    let wanted_month = wanted_month.map_err(|why| HttpError::Bad(format!("month: {why}")))?;
    let by = wanted.by.unwrap_or(SpendGrouping::Type);
    let report = ops.accounts.report(wanted_month.as_deref(), by).await?;
    let budget = ops.accounts.status().await?;
    Ok(Json(
        json!({ "success": true, "spend": report, "budget": budget, "timestamp": timestamp() }),
    ))
}

/// An order to the kill switch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KillSwitchRequest {
    enabled: bool,
    by: String,
    reason: String,
}

pub(super) async fn switch(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    order: Result<Json<KillSwitchRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Value>, HttpError> {
    ops.access.to_change(&headers, peer)?;
    let Json(order) = order.map_err(|error| HttpError::Bad(error.body_text()))?;
    if order.by.trim().is_empty() || order.reason.trim().is_empty() {
        return Err(HttpError::Bad("`by` and `reason` must not be empty".to_owned()));
    }
    ops.accounts
        .switch(order.enabled, &order.by, &order.reason)
        .await?;
    warn!(%peer, enabled = order.enabled, "the budget kill switch was set over HTTP");
    let budget = ops.accounts.status().await?;
    Ok(Json(
        json!({ "success": true, "budget": budget, "timestamp": timestamp() }),
    ))
}

/// The web API's answer while the kill switch is on.
pub(super) fn stopped() -> Response {
    let body = json!({
        "error": "Budget limit exceeded",
        "code": "BUDGET_LIMIT_EXCEEDED",
        "message": "AI features are paused because the budget is used up; please try again later.",
    });
    (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response()
}
