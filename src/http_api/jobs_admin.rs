//! Jobs by state, dead letters retried, jobs removed.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{ConnectInfo, Path, Query, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use super::{HttpState, responses::HttpError};
use crate::{
    operator::{JobFilter, JobLocation, ListedIn, RetryRequest, RetrySummary},
    queue::{self, ListCursor},
    time_format::{iso, timestamp},
};

/// Jobs of one answer where the caller names no number, and at most.
const LIMIT: (usize, usize) = (50, 1000);
/// Time limit of one request for a mass retry: proxies close slow requests. The answer says whether jobs are left.
const PATIENCE: Duration = Duration::from_secs(20);

type JsonAnswer = Result<Json<Value>, HttpError>;

/// The selection of jobs in a URL's query. Every field is text, so that this module words the errors.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobsQuery {
    state: Option<String>,
    queue: Option<String>,
    r#type: Option<String>,
    since: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
    reset_attempts: Option<String>,
}

impl JobsQuery {
    fn wanted(&self, state: queue::JobState) -> Result<JobFilter<'_>, HttpError> {
        let since = self.since.as_deref().map(humantime::parse_duration).transpose();
        let since = since.map_err(|error| HttpError::Bad(format!("since: {error}")))?;
        let ends = matches!(state, queue::JobState::Completed | queue::JobState::Failed);
        if since.is_some() && !ends {
            return Err(HttpError::Bad(
                "since: only jobs that are completed or failed have ended".to_owned(),
            ));
        }
        Ok(JobFilter {
            state,
            queue: self.queue.as_deref(),
            kind: self.r#type.as_deref(),
            since,
        })
    }

    fn limit(&self) -> Result<usize, HttpError> {
        let Some(limit) = &self.limit else {
            return Ok(LIMIT.0);
        };
        let limit = limit.parse().ok().filter(|n| (1..=LIMIT.1).contains(n));
        limit.ok_or_else(|| HttpError::Bad(format!("limit: a number from 1 to {}", LIMIT.1)))
    }

    fn order(&self, peer: SocketAddr) -> Result<RetryRequest, HttpError> {
        let reset = match self.reset_attempts.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(HttpError::Bad("resetAttempts: true or false".to_owned())),
        };
        Ok(RetryRequest::new(peer.ip().to_canonical().to_string(), reset))
    }
}

pub(super) async fn list(State(ops): State<Arc<HttpState>>, Query(which): Query<JobsQuery>) -> JsonAnswer {
    let state = which.state.as_deref().unwrap_or("failed").parse();
    let state = state.map_err(|error: queue::UnknownState| HttpError::Bad(error.to_string()))?;
    let after = which.cursor.as_deref().map(str::parse::<ListCursor>).transpose();
    let after = after.map_err(|error| HttpError::Bad(error.to_string()))?;
    let wanted = which.wanted(state)?;
    let list = ops
        .operator
        .list_jobs(&wanted, after.as_ref(), which.limit()?)
        .await?;
    Ok(Json(json!({
        "success": true,
        "state": state,
        "jobs": list.jobs.iter().map(job).collect::<Vec<_>>(),
        "more": list.more,
        "cursor": list.next.map(|place| place.to_string()),
        "timestamp": timestamp(),
    })))
}

pub(super) async fn retry(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    Query(which): Query<JobsQuery>,
) -> JsonAnswer {
    let order = which.order(peer)?;
    let deed = ops
        .operator
        .retry_job(&id, which.queue.as_deref(), &order)
        .await?;
    warn!(id, queue = deed.queue, layout = deed.layout, %peer, "dead letter retried by hand");
    Ok(done(&id, &deed, "waiting"))
}

pub(super) async fn retry_all(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(which): Query<JobsQuery>,
) -> JsonAnswer {
    let (order, wanted) = (which.order(peer)?, which.wanted(queue::JobState::Failed)?);
    let (until, mut haul, mut more) = (Instant::now() + PATIENCE, RetrySummary::default(), false);
    for broker in ops.operator.select(wanted.queue)? {
        let mut place = None;
        loop {
            if Instant::now() >= until {
                more = true;
                break;
            }
            let (step, next) = ops
                .operator
                .retry_step(&**broker, &wanted, place.as_ref(), &order)
                .await?;
            haul.add(step);
            place = next;
            if place.is_none() {
                break;
            }
        }
    }
    warn!(retried = haul.retried, changed = haul.changed, broken = haul.broken, %peer, "dead letters retried by hand");
    Ok(Json(json!({
        "success": true, "retried": haul.retried, "changed": haul.changed, "broken": haul.broken, "more": more,
        "timestamp": timestamp(),
    })))
}

pub(super) async fn remove(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    Query(which): Query<JobsQuery>,
) -> JsonAnswer {
    let deed = ops.operator.remove_job(&id, which.queue.as_deref()).await?;
    warn!(id, queue = deed.queue, layout = deed.layout, %peer, "job removed by hand");
    Ok(done(&id, &deed, "removed"))
}

/// The answer after a change to a job, with its new state.
fn done(id: &str, deed: &JobLocation, status: &str) -> Json<Value> {
    Json(json!({
        "success": true, "jobId": id, "queue": deed.queue, "layout": deed.layout, "status": status,
        "timestamp": timestamp(),
    }))
}

/// A job of a list.
pub(super) fn job(ListedIn { queue, layout, job }: &ListedIn) -> Value {
    json!({
        "jobId": job.id,
        "queue": queue,
        "layout": layout,
        "type": job.kind,
        "attemptsMade": job.attempts_made,
        "class": job.class,
        "error": job.error,
        "at": job.at.map(iso),
    })
}
