//! The intake: jobs over HTTP, checked before they are queued, and limited for each user and address.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, FromRequest, Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use jobs::{JobType, Jobs};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tracing::info;

use super::{HttpState, responses::HttpError};
use crate::{
    queue::NewJob,
    ratelimit::{RateSubject, WindowUsage},
    time_format::timestamp,
};

/// Name of the action that the intake's windows count, as in the web API.
pub(super) const ACTION: &str = "ai";
/// The window of jobs that name no user.
const NAMELESS: &str = "ai-nameless";
/// Longest id of a user, bytes: it becomes part of a key.
const LONGEST_USER: usize = 128;
/// Attempts of a job that came in over HTTP, as the web API asks for them.
const ATTEMPTS: u32 = 3;

pub(super) async fn flashcards(
    ops: State<Arc<HttpState>>,
    peer: ConnectInfo<SocketAddr>,
    request: Request,
) -> Result<Response, HttpError> {
    take(&ops, peer.0, JobType::GenerateFlashcards, request).await
}

pub(super) async fn job(
    ops: State<Arc<HttpState>>,
    peer: ConnectInfo<SocketAddr>,
    Path(kind): Path<String>,
    request: Request,
) -> Result<Response, HttpError> {
    let kind = kind
        .parse()
        .map_err(|unknown: jobs::UnknownJobType| HttpError::Bad(unknown.to_string()))?;
    take(&ops, peer.0, kind, request).await
}

/// The user, whether the app sends it as text or as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum UserId {
    Text(String),
    Number(serde_json::Number),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PayloadOwner {
    user_id: Option<UserId>,
}

async fn take(
    ops: &HttpState,
    peer: SocketAddr,
    kind: JobType,
    request: Request,
) -> Result<Response, HttpError> {
    // Read only here, behind the access layer: a caller that may not add jobs makes this replica hold nothing.
    let headers = &request.headers().clone();
    let body = &Bytes::from_request(request, &()).await.map_err(HttpError::Body)?;
    let text = jobs::payload_text(body).map_err(|failure| HttpError::Bad(failure.to_string()))?;
    let payload: Box<RawValue> = serde_json::from_str(&text)
        .map_err(|error| HttpError::Bad(format!("the body is not JSON: {}", jobs::without_values(&error))))?;
    let body = text.as_bytes();
    Jobs::validate(kind, body).map_err(|failure| HttpError::Bad(failure.to_string()))?;
    if ops.accounts.is_stopped().await? {
        return Ok(super::spend::stopped());
    }

    let id = ulid::Ulid::generate().to_string();
    let address = ops.access.caller(headers, peer);
    let user = user(headers, body)?;
    // Everything that refuses comes before the windows count: a request that is refused costs its caller nothing.
    let queue = ops.operator.queue_for(kind);
    let queue = queue.ok_or_else(|| HttpError::Bad(format!("this replica serves no queue for {kind}")))?;
    let (subject, action) = match &user {
        Some(user) => (RateSubject::User(user), ACTION),
        // A job that names no user counts for its caller's address: the users' window cannot be avoided.
        None => (RateSubject::Ip(address), NAMELESS),
    };
    let spent = ops
        .rate_limits
        .peek(&subject, action, ops.user_window)
        .await?
        .filter(|allowance| !allowance.allowed);
    if let Some(allowance) = spent {
        return Ok(over_limit(allowance));
    }
    let ip = RateSubject::Ip(address);
    let mut allowance = ops.rate_limits.take(&ip, ACTION, ops.ip_window, &id).await?;
    if allowance.is_none_or(|a| a.allowed) {
        allowance = ops
            .rate_limits
            .take(&subject, action, ops.user_window, &id)
            .await?
            .or(allowance);
    }
    if let Some(allowance) = allowance.filter(|a| !a.allowed) {
        return Ok(over_limit(allowance));
    }

    let new = NewJob {
        id: &id,
        kind,
        payload: &payload,
        max_attempts: ATTEMPTS,
        delay: Duration::ZERO,
    };
    queue.enqueue(&new).await?;
    info!(id, %kind, queue = queue.queue(), "job accepted over HTTP");
    let status_url = format!("/api/job-status/{id}");
    let body = json!({
        "success": true, "jobId": id, "status": "queued", "statusUrl": status_url, "timestamp": timestamp(),
    });
    let response = (StatusCode::ACCEPTED, Json(body)).into_response();
    Ok(match allowance {
        Some(allowance) => limited(response, allowance),
        None => response,
    })
}

/// From the payload, or the header that the web app sends.
fn user(headers: &HeaderMap, body: &[u8]) -> Result<Option<String>, HttpError> {
    // The body is a payload that was found valid. A field that is there twice would name one user here and another
    // there.
    let who: PayloadOwner = serde_json::from_slice(body)
        .map_err(|error| HttpError::Bad(format!("userId: {}", jobs::without_values(&error))))?;
    let named = who.user_id.map(|id| match id {
        UserId::Text(text) => text,
        UserId::Number(number) => number.to_string(),
    });
    let header = || headers.get("user-id")?.to_str().ok().map(str::to_owned);
    let user = named
        .filter(|user| !user.is_empty())
        .or_else(header)
        .filter(|user| !user.is_empty());
    match user {
        Some(user) if user.len() > LONGEST_USER => Err(HttpError::Bad(format!(
            "userId: is longer than {LONGEST_USER} bytes"
        ))),
        user => Ok(user),
    }
}

fn over_limit(allowance: WindowUsage) -> Response {
    let seconds = seconds(allowance.reset_after);
    let error = format!(
        "Rate limit exceeded: {} requests. Retry in {seconds}s",
        allowance.limit
    );
    let body = json!({ "success": false, "error": error, "retryAfter": seconds });
    let mut response = (StatusCode::TOO_MANY_REQUESTS, Json(body)).into_response();
    response
        .headers_mut()
        .insert("retry-after", HeaderValue::from(seconds));
    limited(response, allowance)
}

fn limited(mut response: Response, allowance: WindowUsage) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-limit", HeaderValue::from(allowance.limit));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(allowance.remaining));
    headers.insert(
        "x-ratelimit-reset",
        HeaderValue::from(seconds(allowance.reset_after)),
    );
    response
}

/// Whole seconds, not fewer than the time takes.
fn seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}
