//! Metrics for Prometheus, and the verdict on the alerts.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{
    HttpState,
    responses::{HttpError, iso, timestamp},
};
use crate::telemetry::metrics::exposition;

pub(super) async fn metrics(
    State(ops): State<Arc<HttpState>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, HttpError> {
    ops.access.to_read(&headers)?;
    Ok((
        [(CONTENT_TYPE, exposition::CONTENT_TYPE)],
        ops.monitor.metrics().await,
    ))
}

pub(super) async fn alerts(
    State(ops): State<Arc<HttpState>>,
    headers: HeaderMap,
) -> Result<Json<Value>, HttpError> {
    ops.access.to_read(&headers)?;
    let alerts = ops.monitor.alerts().await;
    let firing = alerts.iter().filter(|alert| alert.firing).count();
    let mut listed = Vec::new();
    for alert in &alerts {
        let mut shown = json!(alert);
        shown["since"] = json!(alert.since.map(iso));
        listed.push(shown);
    }
    Ok(Json(
        json!({ "success": true, "firing": firing, "alerts": listed, "timestamp": timestamp() }),
    ))
}
