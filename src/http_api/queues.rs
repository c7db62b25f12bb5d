//! Queues and jobs, read.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{HttpState, responses::HttpError};
use crate::{
    operator::FoundJob,
    queue::HistoryLine,
    time_format::{iso, timestamp},
};

pub(super) async fn stats(State(ops): State<Arc<HttpState>>) -> Result<Json<Value>, HttpError> {
    let queues = ops.operator.queue_stats().await?;
    Ok(Json(
        json!({ "success": true, "stats": queues.first(), "queues": queues, "timestamp": timestamp() }),
    ))
}

/// In which queue to look: ids are unique in a queue only.
#[derive(Debug, Deserialize)]
pub(super) struct QueueQuery {
    queue: Option<String>,
}

pub(super) async fn job_status(
    State(ops): State<Arc<HttpState>>,
    Path(id): Path<String>,
    Query(r#where): Query<QueueQuery>,
) -> Result<Response, HttpError> {
    Ok(match ops.operator.job(&id, r#where.queue.as_deref()).await? {
        Some(found) => {
            let page = found.broker.ledger_key(&found.job.id);
            // Another program's key in that place must not hide the job.
            let calls = ops.accounts.calls_of(&page).await.unwrap_or_default();
            let mut body = job(&found);
            body["paidCalls"] = json!(calls);
            Json(body).into_response()
        }
        None => not_found(&id),
    })
}

/// No queue knows the job.
pub(super) fn not_found(id: &str) -> Response {
    let body = json!({ "success": false, "status": "not_found", "jobId": id, "timestamp": timestamp() });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

fn job(FoundJob { broker, job }: &FoundJob) -> Value {
    let mut body = json!({
        "success": true,
        "status": job.state,
        "jobId": job.id,
        "type": job.kind,
        "queue": broker.queue(),
        "layout": broker.layout().as_str(),
        "timestamp": timestamp(),
        "progress": job.progress,
        "attemptsMade": job.attempts_made,
        "addedAt": job.added_at.map(iso),
        "endedAt": job.ended_at.map(iso),
        "history": job.history.iter().map(line).collect::<Vec<_>>(),
    });
    if let Some(result) = &job.result {
        body["result"] = result.clone();
    }
    if let Some(error) = &job.error {
        body["error"] = json!(error);
    }
    if let Some(waiting) = &job.waiting_for {
        body["waitingFor"] =
            json!({ "gate": waiting.gate, "reason": waiting.reason, "until": iso(waiting.until) });
    }
    if let Some(line) = &job.line {
        body["position"] = json!(line.position);
        body["jobsWaiting"] = json!(line.waiting);
        body["limit"] = json!(line.limit);
        body["expectedStart"] = json!(line.expected_start.map(iso));
    }
    body
}

fn line(line: &HistoryLine) -> Value {
    let note = &line.note;
    json!({
        "at": iso(line.at),
        "times": line.times.unwrap_or(1),
        "since": line.since.map(iso),
        "attempt": note.attempt,
        "try": note.r#try,
        "class": note.class,
        "cause": note.cause,
        "delayMs": note.delay_ms,
        "replica": note.replica,
    })
}
