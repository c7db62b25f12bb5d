//! The socket that the routes are served on.

use std::{
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::StatusCode,
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
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Ops;

/// The HTTP server, bound but not yet serving.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
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
    /// Whoever is slow is cut off: a head that does not come, a request that is not answered in time, and more
    /// connections than there are places wait.
    ///
    /// # Errors
    /// None at present; kept for what a listener may say.
    pub async fn serve(self, ops: Ops, stop: CancellationToken) -> std::io::Result<()> {
        let (streams, dashboard) = (ops.streams.clone(), ops.dashboard.clone());
        let close = async {
            stop.cancelled().await;
            streams.close();
            dashboard.close();
        };
        let served = serve(self.0, ops.router(), Limits::default(), stop.clone());
        tokio::join!(served, close);
        Ok(())
    }
}

/// What one caller, and all of them, may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time; more wait in the listener's queue.
    connections: usize,
    /// Longest wait for the head of a request, and for the next request of a connection.
    head: Duration,
    /// Longest time for a request to be read and answered; how long an answer then streams is up to the route.
    answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            answer: Duration::from_secs(30),
        }
    }
}

/// Largest head of a request, bytes.
const MAX_HEAD: usize = 32 * 1024;

async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        // A place is taken before a connection is: who comes when all are taken waits in the kernel.
        let next = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (accepted, place) = next => match accepted {
                Ok((stream, peer)) => {
                    let (routes, stop) = (routes.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, peer, routes, limits, stop).await;
                        drop(place);
                    });
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
    // Who has not ended within a second is cut off with the set.
    let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
}

pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    routes: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = tokio::time::timeout(limits.answer, routes.call(request));
        async move {
            Ok::<Response, Infallible>(match answer.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, %peer, "HTTP: connection ended");
    }
}

#[cfg(test)]
mod tests;
