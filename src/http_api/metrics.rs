//! Metrics for Prometheus, and the verdict on the alerts.

use std::sync::Arc;

use axum::{Json, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use serde_json::{Value, json};

use super::HttpState;
use crate::{
    telemetry::metrics::exposition,
    time_format::{iso, timestamp},
};

pub(super) async fn metrics(State(ops): State<Arc<HttpState>>) -> impl IntoResponse {
    let text = ops.monitor.metrics().await;
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], text)
}

pub(super) async fn alerts(State(ops): State<Arc<HttpState>>) -> Json<Value> {
    let alerts = ops.monitor.alerts().await;
    let firing = alerts.iter().filter(|alert| alert.firing).count();
    let mut listed = Vec::new();
    for alert in &alerts {
        let mut shown = json!(alert);
        shown["since"] = json!(alert.since.map(iso));
        listed.push(shown);
    }
    Json(json!({ "success": true, "firing": firing, "alerts": listed, "timestamp": timestamp() }))
}
