//! The layers in front of the routes. Each route is behind one of them, except health and the page of the dashboard. A
//! refused request does not reach its handler, and its body is not read.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::AccessDenied;
use crate::http_api::HttpState;

/// Lets callers pass that may read.
pub(in crate::http_api) async fn readers(
    State(ops): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> Response {
    let access = ops.access.to_read(request.headers());
    pass(access, request, next).await
}

/// Lets callers pass that may add jobs.
pub(in crate::http_api) async fn producers(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let access = ops.access.to_enqueue(request.headers(), peer);
    pass(access, request, next).await
}

/// Lets callers pass that may change something.
pub(in crate::http_api) async fn admins(
    State(ops): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let access = ops.access.to_change(request.headers(), peer);
    pass(access, request, next).await
}

async fn pass(access: Result<(), AccessDenied>, request: Request, next: Next) -> Response {
    match access {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    }
}
