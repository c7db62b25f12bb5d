//! The socket that the routes are served on.
//!
//! An accept loop of our own, because axum's `serve` has no bounds for connections. This loop bounds the wait for the head
//! of a request, the connections of one address, and the time for which a client reads nothing. It also keeps connections
//! back for health and metrics. The limits of tower-http lie above the connection, and cannot see these.
//!
//! - `denials`: counts and logs refused callers.
//! - `connection_slots`: how many connections there may be, and which of them are always answered.
//! - `write_timeout`: cuts off clients that do not read.

mod connection_slots;
mod denials;
mod write_timeout;

use std::{
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::{HeaderValue, StatusCode, header::CONNECTION},
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{
    connection_slots::{ConnectionSlot, ConnectionSlots, ReservedSlot},
    write_timeout::WriteTimeout,
};
use super::HttpState;

/// The HTTP server, bound but not yet serving.
#[derive(Debug)]
pub struct HttpServer(TcpListener);

impl HttpServer {
    /// Binds `port` on every address, IPv6 and IPv4; on IPv4 alone where the host knows no IPv6.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn bind(port: u16) -> std::io::Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match TcpListener::bind(any).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
            Err(_) => Ok(Self(TcpListener::bind(("0.0.0.0", port)).await?)),
            Ok(listener) => Ok(Self(listener)),
        }
    }

    /// The port it is bound to.
    ///
    /// # Errors
    /// The operating system's.
    pub fn port(&self) -> std::io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// Serves until `stop` is cancelled; streams end then, and requests in flight get a second to end.
    ///
    /// Slow clients are cut off: a head that does not come, a request that is not answered in time, an answer that is
    /// not read. Health and metrics are answered however many connections there are.
    ///
    /// # Errors
    /// None at present; kept for what a listener may say.
    pub async fn serve(self, ops: HttpState, stop: CancellationToken) -> std::io::Result<()> {
        let (streams, dashboard) = (ops.streams.clone(), ops.dashboard.clone());
        let close = async {
            stop.cancelled().await;
            streams.close();
            dashboard.close();
        };
        let mut limits = ServerLimits::default();
        if ops.access.trust_proxy {
            // All callers have the proxy's address.
            limits.per_address = limits.connections;
        }
        let served = serve(self.0, ops.router(), limits, stop.clone());
        tokio::join!(served, close);
        Ok(())
    }
}

/// The bounds of one caller, and of all callers together.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerLimits {
    /// Connections at a time.
    connections: usize,
    /// Connections of one address at a time.
    per_address: usize,
    /// Connections beyond those, which are answered about health and metrics, and else wait for one of them to end.
    reserve: usize,
    /// Longest wait for the head of a request, and for the next request of a connection.
    head: Duration,
    /// Longest time for a request to be read and answered; how long an answer then streams is up to the route.
    answer: Duration,
    /// Longest time for which a client may take nothing of an answer.
    write: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            per_address: 256,
            reserve: 64,
            head: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            write: Duration::from_secs(30),
        }
    }
}

/// Largest head of a request, bytes.
const MAX_HEAD: usize = 32 * 1024;

/// Routes that are answered whatever else is going on: the platform restarts a replica that does not answer them.
const VITAL: [&str; 4] = ["/", "/health", "/api/health", "/metrics"];

async fn serve(listener: TcpListener, routes: Router, limits: ServerLimits, stop: CancellationToken) {
    let places = ConnectionSlots::new(limits.connections, limits.per_address, limits.reserve);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (routes, stop) = (routes.clone(), stop.clone());
                    let standing = match places.try_take(peer.ip()) {
                        Some(place) => ConnectionClass::Placed(place),
                        None => ConnectionClass::Reserved(places.reserve(peer.ip())),
                    };
                    connections.spawn(connection(stream, peer, routes, limits, stop, standing));
                }
                Err(error) => {
                    // Out of file descriptors, as a rule: some become free when a connection ends.
                    warn!(%error, "HTTP: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    // Connections that have not ended within a second are cut off with the set.
    let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
}

/// The routes that a connection may ask for.
#[derive(Debug)]
pub(super) enum ConnectionClass {
    /// Anything.
    Placed(ConnectionSlot),
    /// Health and metrics; anything else once a place is free.
    Reserved(ReservedSlot),
}

/// A connection that is not counted: for the fuzz targets.
#[cfg(any(test, fuzzing))]
pub(super) fn uncounted() -> ConnectionClass {
    let anywhere = Ipv6Addr::LOCALHOST.into();
    let places = ConnectionSlots::new(usize::MAX, usize::MAX, 1);
    places.try_take(anywhere).map_or_else(
        || ConnectionClass::Reserved(places.reserve(anywhere)),
        ConnectionClass::Placed,
    )
}

pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    routes: Router,
    limits: ServerLimits,
    stop: CancellationToken,
    standing: ConnectionClass,
) {
    let routes = TowerToHyperService::new(routes);
    let (reserved, _place) = match standing {
        ConnectionClass::Placed(place) => (None, Some(place)),
        ConnectionClass::Reserved(reserved) => (Some(Arc::new(reserved)), None),
    };
    // Held until the connection ends: an answer may stream.
    let later_place: Arc<OnceLock<ConnectionSlot>> = Arc::default();
    let (is_reserved, evicted) = match &reserved {
        Some(reserved) => (true, reserved.evicted.clone()),
        None => (false, CancellationToken::new()),
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let path = request.uri().path().to_owned();
        let (reserved, later_place, routes) = (reserved.clone(), later_place.clone(), routes.clone());
        let answer = tokio::time::timeout(limits.answer, async move {
            let waits = reserved.filter(|_| later_place.get().is_none() && !is_vital(&request));
            if let Some(reserved) = waits {
                let _ = later_place.set(reserved.place().await);
            }
            routes.call(request).await
        });
        async move {
            let mut response = match answer.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            };
            if matches!(
                response.status(),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            ) {
                denials::note(peer, &path);
            }
            if is_reserved {
                // The next request finds a place, or comes into the reserve by its own turn.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<Response, Infallible>(response)
        }
    });
    let stream = TokioIo::new(WriteTimeout::new(stream, limits.write));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = evicted.cancelled() => return debug!(%peer, "HTTP: connection cut off for a newer one"),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, %peer, "HTTP: connection ended");
    }
}

fn is_vital(request: &Request<Incoming>) -> bool {
    VITAL.contains(&request.uri().path())
}

#[cfg(test)]
mod tests;
