//! The errors of the routes, as JSON.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    operator::{BreakerError, JobError},
    queue::BrokerError,
};

/// Why a route cannot answer.
#[derive(Debug)]
pub(super) enum HttpError {
    /// The request is wrong.
    Bad(String),
    /// The body is too large, or does not arrive.
    Body(BytesRejection),
    /// There is no such breaker.
    UnknownBreaker(String, Vec<String>),
    /// There is no room for another.
    Busy(String),
    /// There is no such job.
    Missing(String),
    /// The job is not in a state for that.
    Conflict(String),
    /// Redis is away.
    Away(String),
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let (code, body) = match self {
            Self::Bad(error) => (
                StatusCode::BAD_REQUEST,
                json!({ "success": false, "error": error }),
            ),
            Self::Body(rejection) => (
                rejection.status(),
                json!({ "success": false, "error": rejection.body_text() }),
            ),
            Self::UnknownBreaker(error, available) => {
                let body = json!({ "success": false, "error": error, "available": available });
                (StatusCode::BAD_REQUEST, body)
            }
            Self::Busy(error) => {
                let body = Json(json!({ "success": false, "error": error }));
                return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "5")], body).into_response();
            }
            Self::Missing(error) => (StatusCode::NOT_FOUND, json!({ "success": false, "error": error })),
            Self::Conflict(error) => (StatusCode::CONFLICT, json!({ "success": false, "error": error })),
            Self::Away(error) => (
                StatusCode::SERVICE_UNAVAILABLE,
                json!({ "success": false, "error": error }),
            ),
        };
        (code, Json(body)).into_response()
    }
}

impl From<BrokerError> for HttpError {
    fn from(error: BrokerError) -> Self {
        Self::Away(error.to_string())
    }
}

impl From<JobError> for HttpError {
    fn from(error: JobError) -> Self {
        let text = error.to_string();
        match error {
            JobError::Unknown(_) => Self::Missing(text),
            JobError::UnknownQueue { .. } | JobError::Cursor => Self::Bad(text),
            JobError::Broker(error) => error.into(),
            JobError::Ambiguous { .. }
            | JobError::NotFailed { .. }
            | JobError::Changed(_)
            | JobError::Broken(_)
            | JobError::Active(_)
            | JobError::Scheduled(_)
            | JobError::Parent(_) => Self::Conflict(text),
        }
    }
}

impl From<redis::RedisError> for HttpError {
    fn from(error: redis::RedisError) -> Self {
        Self::Away(format!("Redis: {error}"))
    }
}

impl From<BreakerError> for HttpError {
    fn from(error: BreakerError) -> Self {
        let text = error.to_string();
        match error {
            BreakerError::Unknown { available, .. } => Self::UnknownBreaker(text, available),
            BreakerError::Redis(_) => Self::Away(text),
        }
    }
}
