//! The HTTP client of outgoing requests: hyper's pool of connections, with a bound on what a server may send before its
//! answer. reqwest builds the requests and reads the answers; what it sends has no such bound.
//!
//! No redirects, no proxies, no retries above hyper's own: each caller decides these. HTTP/1.1 only: hyper tells of
//! each informational response there, and of no frame of HTTP/2, so that nothing would bound what a server sends
//! before its answer.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{
    HeaderMap, HeaderValue, Uri,
    header::{ACCEPT, USER_AGENT},
};
use hyper::ext::on_informational;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use reqwest::{Body, Request, Response};
use tokio::{net::lookup_host, sync::Notify, task::coop::poll_proceed};
use tower::{BoxError, Service};

mod chunk_merger;
mod merged_stream;
#[cfg(test)]
mod tests;

use merged_stream::MergedStream;

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept without a request.
const IDLE: Duration = Duration::from_secs(90);

/// After so long without a sign of the other side a connection is asked, three times, and then given up.
const KEEPALIVE: Duration = Duration::from_secs(15);
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// The longest head of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Informational responses (1xx) before an answer. Servers send one or two, if any.
const MAX_INFORMATIONAL: usize = 16;

/// More than a task may do in one go, by tokio's count.
const WHOLE_BUDGET: usize = 256;

/// Which addresses a name may stand for.
pub type AddressFilter = fn(Vec<SocketAddr>) -> Result<Vec<SocketAddr>, BoxError>;

/// How a client connects.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// The addresses of a name that may be connected to.
    pub judge: AddressFilter,
    /// Whether connections are used again.
    pub keeps: bool,
    /// Called in the task of a request that has opened a connection.
    pub opened: fn(),
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            judge: Ok,
            keeps: true,
            opened: || {},
        }
    }
}

/// No HTTP client can be built (no TLS roots, say).
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client can be built")]
pub struct ClientError(#[source] BoxError);

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        Self(error.without_url().into())
    }
}

/// A request came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Its URL is none that can be asked.
    #[error("the request cannot be sent")]
    Unsendable(#[source] reqwest::Error),
    /// The server kept sending, and no answer.
    #[error("the server sent more than {MAX_INFORMATIONAL} informational responses before its answer")]
    Flooded,
    /// No connection, or one that broke.
    #[error(transparent)]
    Broken(#[from] legacy::Error),
}

impl RequestError {
    /// Whether no connection was made.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Broken(error) => error.is_connect(),
            Self::Unsendable(_) => true,
            Self::Flooded => false,
        }
    }
}

/// Sends requests. Clones share their connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: legacy::Client<TcpConnector, Body>,
    defaults: HeaderMap,
}

impl HttpClient {
    /// Opens no connection. `user_agent` names the worker in requests that do not name it themselves.
    ///
    /// # Errors
    /// When there are no TLS roots.
    ///
    /// # Panics
    /// When the process has installed no default crypto provider for rustls.
    pub fn new(user_agent: &'static str, connecting: ConnectOptions) -> Result<Self, ClientError> {
        let mut tcp = HttpConnector::new_with_resolver(FilteredResolver(connecting.judge));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let https = HttpsConnectorBuilder::new()
            .try_with_platform_verifier()
            .map_err(|error| ClientError(error.into()))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_buf_size(MAX_HEAD);
        if !connecting.keeps {
            builder.pool_max_idle_per_host(0);
        }
        let mut defaults = HeaderMap::new();
        defaults.insert(USER_AGENT, HeaderValue::from_static(user_agent));
        defaults.insert(ACCEPT, HeaderValue::from_static("*/*"));
        Ok(Self {
            client: builder.build(TcpConnector {
                https,
                opened: connecting.opened,
            }),
            defaults,
        })
    }

    /// Sends a request, once, and returns when the head of its answer is here. Time-outs are up to the caller.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn execute(&self, request: Request) -> Result<Response, RequestError> {
        let mut request = http::Request::<Body>::try_from(request).map_err(RequestError::Unsendable)?;
        for (name, value) in &self.defaults {
            request.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        let early = Arc::new(InformationalResponses::default());
        let counted = early.clone();
        on_informational(&mut request, move |_| counted.arrived());
        tokio::select! {
            biased;
            answer = self.client.request(request) => Ok(answer?.map(Body::wrap).into()),
            // The request is dropped with its wait, and hyper closes the connection.
            () = early.too_many.notified() => Err(RequestError::Flooded),
        }
    }
}

/// The informational responses to one request.
#[derive(Debug, Default)]
struct InformationalResponses {
    seen: AtomicUsize,
    too_many: Notify,
}

impl InformationalResponses {
    fn arrived(&self) {
        if self.seen.fetch_add(1, Ordering::Relaxed) < MAX_INFORMATIONAL {
            return;
        }
        self.too_many.notify_one();
        // hyper reads on for as long as bytes come, unless the connection's task has used up what it may do in one
        // go: the request is given up next, and other tasks run.
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..WHOLE_BUDGET {
            match poll_proceed(&mut context) {
                Poll::Ready(coop) => coop.made_progress(),
                Poll::Pending => return,
            }
        }
    }
}

/// Resolves names to the addresses that they may stand for. The client connects to what this yields and asks no one
/// else, so a name cannot change its mind between the check and the connection.
#[derive(Debug, Clone)]
struct FilteredResolver(AddressFilter);

impl Service<Name> for FilteredResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let judge = self.0;
        Box::pin(async move {
            let found = lookup_host((name.as_str(), 0)).await?.collect();
            Ok(judge(found)?.into_iter())
        })
    }
}

/// Connects within [`CONNECT_TIMEOUT`].
#[derive(Debug, Clone)]
struct TcpConnector {
    https: HttpsConnector<HttpConnector<FilteredResolver>>,
    opened: fn(),
}

impl Service<Uri> for TcpConnector {
    type Response = MergedStream<<HttpsConnector<HttpConnector<FilteredResolver>> as Service<Uri>>::Response>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, opened) = (self.https.call(uri), self.opened);
        Box::pin(async move {
            let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
            opened();
            Ok(MergedStream::new(connection))
        })
    }
}

/// The causes of an error, the error itself left out.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}
