//! HTTP for operators, and an intake for jobs.
//!
//! | route | answer |
//! |---|---|
//! | `GET /api/health`, `/health`, `/` | [`HealthBody`]; 503 with the reason when Redis is away or a claim loop is dead |
//! | `GET /api/circuit-breakers/status` | `{success, circuitBreakers: {<name>: …}, timestamp}` |
//! | `POST /api/circuit-breakers/reset/{name}` | `{success, message, timestamp}`; unknown: 400 with `available` |
//! | `GET /api/queue/stats` | `{success, stats, queues, timestamp}` |
//! | `GET /api/job-status/{id}` | `{success, status, jobId, …, waitingFor?, history}`; `queue` says where; 404 `not_found` |
//! | `GET /api/job-events?jobId=` | a job's life as Server-Sent Events; 404 `not_found`; 503 when too many are open |
//! | `GET /api/jobs?state=failed` | `{success, state, jobs, more, cursor}`; `queue`, `type`, `since`, `limit`, `cursor` narrow it |
//! | `POST /api/jobs/{id}/retry` | a dead letter goes back to its queue; `queue`, `resetAttempts`; 404, 409 |
//! | `POST /api/jobs/retry` | all of them, or those of `queue`, `type`, `since`: `{success, retried, changed, broken, more}` |
//! | `DELETE /api/jobs/{id}` | removes a job that is not active; 404, 409 |
//! | `GET /api/rate-limits/status` | limits in use; with `?userId=`, what that user has left |
//! | `GET /api/spend?by=&month=` | `{success, spend, budget, timestamp}`; by `type`, `model`, `provider`, `user` or `day` |
//! | `POST /api/budget/kill-switch` | `{enabled, by, reason}`: stops or resumes all paid calls of the fleet |
//! | `POST /api/budget/month` | `{usd}`: what all calls of a month may cost; `null`: what the replicas are configured with |
//! | `POST /api/budget/students/{id}` | `{usd}`: the same for one student |
//! | `GET /dashboard` | a page for operators, without data; `GET /api/dashboard/events` keeps it live; 503 when too many look |
//! | `GET /metrics` | Prometheus's text format; answers while Redis is away, too |
//! | `GET /api/metrics/alerts` | `{success, firing, alerts: [{name, severity, firing, value, threshold, since, …}], timestamp}` |
//! | `POST /api/ai/generate-flashcards`, `/api/jobs/{type}` | 202 `{success, jobId, status, statusUrl}`; 400 names the fields; 429 |
//!
//! Health and the page of the dashboard are open to all. Every other route stands behind a layer that checks its callers
//! by the rules of [`AccessControl`].

mod auth;
mod breakers;
mod dashboard;
mod events;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/http_request.rs"]
pub(crate) mod fuzz;
mod health;
mod intake;
mod jobs_admin;
mod metrics;
mod queues;
mod responses;
mod server;
mod spend;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};

use auth::layers;
pub use auth::{AccessControl, AccessDenied};
pub use dashboard::Dashboard;
pub use events::EventStreams;
#[cfg(any(test, fuzzing))]
pub(crate) use events::fuzz::expect_tellable;
pub use health::HealthBody;
pub use server::HttpServer;

use crate::{
    monitor::Monitor,
    operator::Operator,
    ratelimit::{RateLimits, RateWindow},
    spending::accounts::SpendAccounts,
    worker::QueueWorker,
};

/// Largest body of a request: five images of the largest size that a provider takes are more than anyone sends.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// The state that the routes share.
#[derive(Debug)]
pub struct HttpState {
    /// The workers of this replica, for health.
    pub workers: Vec<Arc<QueueWorker>>,
    /// Queues and gates.
    pub operator: Operator,
    /// Metrics and alerts.
    pub monitor: Arc<Monitor>,
    /// Money.
    pub accounts: SpendAccounts,
    /// The windows of users and addresses.
    pub rate_limits: RateLimits,
    /// How often one user may enqueue.
    pub user_window: RateWindow,
    /// How often one address may enqueue.
    pub ip_window: RateWindow,
    /// The dashboard.
    pub dashboard: Dashboard,
    /// The open streams of job events.
    pub streams: EventStreams,
    /// Access rules.
    pub access: AccessControl,
    /// When this replica started.
    pub started: Instant,
}

impl HttpState {
    /// All routes. Each group stands behind the layer that checks its callers.
    fn router(self) -> Router {
        let state = Arc::new(self);
        Router::new()
            .merge(open_routes())
            .merge(read_routes().route_layer(from_fn_with_state(state.clone(), layers::readers)))
            .merge(intake_routes().route_layer(from_fn_with_state(state.clone(), layers::producers)))
            .merge(admin_routes().route_layer(from_fn_with_state(state.clone(), layers::admins)))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(state)
    }
}

/// Routes that need no token: the probes, and the dashboard's page, which holds no data.
fn open_routes() -> Router<Arc<HttpState>> {
    let health = get(health::get);
    Router::new()
        .route("/", health.clone())
        .route("/health", health.clone())
        .route("/api/health", health)
        .route("/dashboard", get(dashboard::page))
}

/// Routes that show data.
fn read_routes() -> Router<Arc<HttpState>> {
    Router::new()
        .route("/api/circuit-breakers/status", get(breakers::status))
        .route("/api/rate-limits/status", get(breakers::limits))
        .route("/api/spend", get(spend::report))
        .route("/api/dashboard/events", get(dashboard::events))
        .route("/metrics", get(metrics::metrics))
        .route("/api/metrics/alerts", get(metrics::alerts))
        .route("/api/queue/stats", get(queues::stats))
        .route("/api/job-status/{id}", get(queues::job_status))
        .route("/api/job-events", get(events::get))
        .route("/api/jobs", get(jobs_admin::list))
}

/// Routes that add jobs.
fn intake_routes() -> Router<Arc<HttpState>> {
    Router::new()
        .route("/api/ai/generate-flashcards", post(intake::flashcards))
        // Adding names a type in this place, the others an id.
        .route("/api/jobs/{name}", post(intake::job))
}

/// Routes that change something.
fn admin_routes() -> Router<Arc<HttpState>> {
    Router::new()
        .route("/api/circuit-breakers/reset/{name}", post(breakers::reset))
        .route("/api/budget/kill-switch", post(spend::switch))
        .route("/api/budget/month", post(spend::set_month))
        .route("/api/budget/students/{id}", post(spend::set_student))
        .route("/api/jobs/retry", post(jobs_admin::retry_all))
        .route("/api/jobs/{name}", delete(jobs_admin::remove))
        .route("/api/jobs/{name}/retry", post(jobs_admin::retry))
}
