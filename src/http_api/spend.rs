//! Money over HTTP: what was spent, and the kill switch.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::{HttpState, responses::HttpError};
use crate::{
    spending::{
        Usd,
        accounts::{SpendGrouping, month},
    },
    time_format::timestamp,
};

/// The books cut longer names.
const LONGEST_STUDENT: usize = 128;

/// The sums to report.
#[derive(Debug, Deserialize)]
pub(super) struct SpendQuery {
    by: Option<SpendGrouping>,
    month: Option<String>,
}

pub(super) async fn report(
    State(ops): State<Arc<HttpState>>,
    Query(wanted): Query<SpendQuery>,
) -> Result<Json<Value>, HttpError> {
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
    order: Result<Json<KillSwitchRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Value>, HttpError> {
    let Json(order) = order.map_err(|error| HttpError::Bad(error.body_text()))?;
    if order.by.trim().is_empty() || order.reason.trim().is_empty() {
        return Err(HttpError::Bad("`by` and `reason` must not be empty".to_owned()));
    }
    ops.accounts
        .switch(order.enabled, &order.by, &order.reason)
        .await?;
    warn!(%peer, enabled = order.enabled, "the budget kill switch was set over HTTP");
    changed(&ops).await
}

/// The amount of a budget.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Amount {
    /// A number, or exact as text; `null`: what the replicas are configured with.
    usd: Value,
}

impl Amount {
    fn read(self) -> Result<Option<Usd>, HttpError> {
        let text = match self.usd {
            Value::Null => return Ok(None),
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => return Err(HttpError::Bad("`usd` is a number, a text or null".to_owned())),
        };
        let amount = text
            .parse()
            .map_err(|error| HttpError::Bad(format!("`usd`: {error}")))?;
        Ok(Some(amount))
    }
}

type Body<T> = Result<Json<T>, axum::extract::rejection::JsonRejection>;

/// The budget of all calls of a month.
pub(super) async fn set_month(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    amount: Body<Amount>,
) -> Result<Json<Value>, HttpError> {
    let Json(amount) = amount.map_err(|error| HttpError::Bad(error.body_text()))?;
    let budget = amount.read()?;
    ops.accounts.set_month(budget).await?;
    warn!(%peer, usd = shown(budget), "the budget of the month was set over HTTP");
    changed(&ops).await
}

/// The monthly allowance of one student.
pub(super) async fn set_student(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(student): Path<String>,
    amount: Body<Amount>,
) -> Result<Json<Value>, HttpError> {
    let Json(amount) = amount.map_err(|error| HttpError::Bad(error.body_text()))?;
    let allowance = amount.read()?;
    if student.len() > LONGEST_STUDENT {
        return Err(HttpError::Bad(format!(
            "a student's id has at most {LONGEST_STUDENT} bytes"
        )));
    }
    ops.accounts.allow(&student, allowance).await?;
    warn!(%peer, usd = shown(allowance), "the allowance of a student was set over HTTP");
    changed(&ops).await
}

fn shown(amount: Option<Usd>) -> String {
    amount.map_or_else(|| "as configured".to_owned(), |usd| usd.to_string())
}

async fn changed(ops: &HttpState) -> Result<Json<Value>, HttpError> {
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
