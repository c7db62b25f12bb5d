//! The socket that the routes are served on.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
    /// # Errors
    /// The operating system's.
    pub async fn serve(self, ops: Ops, stop: CancellationToken) -> std::io::Result<()> {
        let streams = ops.streams.clone();
        let routes = ops.router().into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(self.0, routes).with_graceful_shutdown({
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                streams.close();
            }
        });
        tokio::select! {
            served = server => served,
            () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => Ok(()),
        }
    }
}
