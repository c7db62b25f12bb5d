//! Downloads of what a payload's URL points to. A URL comes from a user: it is checked before each request, on
//! every redirect as on the first, and the name behind it only ever resolves to public addresses.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{Method, Request, Response, StatusCode, header::LOCATION};
use tokio::{
    net::lookup_host,
    runtime::{Builder, Runtime},
    task::AbortHandle,
    time::timeout,
};
use tower::BoxError;
use url::{Host, Url};

use super::{
    address::{NotPublic, is_public, public_only},
    too_large,
};
use crate::{
    ClientError, Failure, FailureClass, MediaSettings,
    http_client::{ConnectOptions, HttpClient, RequestError, causes},
};

#[cfg(test)]
mod tests;

const MAX_REDIRECTS: usize = 5;

/// Fetches URLs under the rules of [`MediaSettings`].
#[derive(Debug, Clone)]
pub(super) struct MediaFetcher {
    /// Reaches public addresses only.
    public: HttpClient,
    /// Reaches any address; used for `allowed` hosts alone.
    anywhere: HttpClient,
    allowed: Arc<[String]>,
    max_bytes: u64,
    timeout: Duration,
    threads: Arc<DownloadThreads>,
}

/// The threads that downloads run on. A server may send faster than it can be listened to; on the worker's one thread
/// that would hold up every other job.
#[derive(Debug, Default)]
struct DownloadThreads(OnceLock<Runtime>);

impl DownloadThreads {
    /// Two, so that one such server does not hold up all other downloads.
    const COUNT: usize = 2;

    fn get(&self) -> std::io::Result<&Runtime> {
        if let Some(runtime) = self.0.get() {
            return Ok(runtime);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(Self::COUNT)
            .thread_name("download")
            .enable_all()
            .build()?;
        // Of two that are built at a time, one is dropped, which must not wait within a task.
        if let Err(other) = self.0.set(runtime) {
            other.shutdown_background();
        }
        self.0.get().ok_or_else(|| std::io::Error::other("no threads"))
    }
}

impl Drop for DownloadThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends a download that is not waited for any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl MediaFetcher {
    pub(super) fn new(settings: &MediaSettings) -> Result<Self, ClientError> {
        let client = |judge| {
            let connecting = ConnectOptions {
                judge,
                ..ConnectOptions::default()
            };
            HttpClient::new("backend-worker", connecting)
        };
        Ok(Self {
            public: client(public_only)?,
            anywhere: client(Ok)?,
            allowed: settings.allowed_hosts.clone().into(),
            max_bytes: settings.max_bytes,
            timeout: settings.timeout,
            threads: Arc::default(),
        })
    }

    /// The body of the answer to a GET of `text`.
    pub(super) async fn get(&self, field: &str, text: &str) -> Result<Vec<u8>, Failure> {
        // The text itself stays out of the message: it may hold a signature or a password.
        let url =
            Url::parse(text).map_err(|e| Failure::invalid_field(field, "is not a valid URL").caused_by(e))?;
        let shown = DisplayUrl(&url).to_string();
        let threads = self.threads.get().map_err(|e| {
            transient(
                field,
                format_args!("{shown} cannot be fetched: no thread can be started"),
            )
            .caused_by(e)
        })?;
        let (fetcher, field_name) = (self.clone(), field.to_owned());
        let download =
            threads.spawn(async move { timeout(fetcher.timeout, fetcher.follow(&field_name, url)).await });
        let _abort = AbortOnDrop(download.abort_handle());
        match download.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(transient(
                field,
                format_args!("{shown} took longer than {:?} to load", self.timeout),
            )),
            Err(ended) => {
                Err(Failure::new(FailureClass::Cancelled, "stopped while a file was loaded").caused_by(ended))
            }
        }
    }

    async fn follow(&self, field: &str, mut url: Url) -> Result<Vec<u8>, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client_for(field, &url)?;
            self.check_port(field, &url).await?;
            let response = client
                .execute(Request::new(Method::GET, url.clone()))
                .await
                .map_err(|e| unreachable(field, &url, e))?;
            match redirect_target(field, &url, &response)? {
                Some(next) => url = next,
                None => return self.read(field, &url, response).await,
            }
        }
        Err(Failure::invalid_field(
            field,
            format_args!("is redirected more than {MAX_REDIRECTS} times"),
        ))
    }

    /// Refuses a URL that may not be fetched, and picks the client for one that may.
    pub(super) fn client_for(&self, field: &str, url: &Url) -> Result<&HttpClient, Failure> {
        let refused = |why: &dyn fmt::Display| {
            Err(Failure::invalid_field(
                field,
                format_args!("{} {why}", DisplayUrl(url)),
            ))
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refused(&"carries a user name or password");
        }
        if !matches!(url.scheme(), "https" | "http") {
            return refused(&"is not an https URL");
        }
        if self.is_allowed(url) {
            return Ok(&self.anywhere);
        }
        if url.scheme() != "https" {
            return refused(&"is not an https URL");
        }
        // The client asks its resolver for names only, and connects to a literal address as it stands.
        let literal = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            Some(Host::Domain(_)) | None => None,
        };
        match literal {
            Some(address) if !is_public(address) => refused(&NotPublic),
            _ => Ok(&self.public),
        }
    }

    /// Refuses ports on which no web server of the public internet has to be reached: what listens there need not speak
    /// HTTP at all. A name that leads inside is refused for that first.
    async fn check_port(&self, field: &str, url: &Url) -> Result<(), Failure> {
        if self.is_allowed(url) || url.port_or_known_default() == Some(443) {
            return Ok(());
        }
        if let Some(name) = url.domain() {
            let found = lookup_host((name, 0)).await.map_err(BoxError::from);
            if let Err(error) = found.and_then(|found| public_only(found.collect())) {
                let shown = DisplayUrl(url);
                return Err(match error.downcast::<NotPublic>() {
                    Ok(refusal) => Failure::invalid_field(field, format_args!("{shown} {refusal}")),
                    Err(other) => {
                        transient(field, format_args!("{shown} cannot be fetched")).caused_by(other)
                    }
                });
            }
        }
        Err(Failure::invalid_field(
            field,
            format_args!("{} names a port other than 443", DisplayUrl(url)),
        ))
    }

    fn is_allowed(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return false;
        };
        let with_port = format!("{host}:{port}");
        self.allowed
            .iter()
            .any(|entry| entry.eq_ignore_ascii_case(host) || entry.eq_ignore_ascii_case(&with_port))
    }

    async fn read(&self, field: &str, url: &Url, mut response: Response) -> Result<Vec<u8>, Failure> {
        let status = response.status();
        if !status.is_success() {
            return Err(refused_by_server(field, url, status));
        }
        if response
            .content_length()
            .is_some_and(|length| length > self.max_bytes)
        {
            return Err(too_large(field, self.max_bytes));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| cut(field, url, e))? {
            if (body.len() + chunk.len()) as u64 > self.max_bytes {
                return Err(too_large(field, self.max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Where the answer sends us, if it does.
fn redirect_target(field: &str, url: &Url, response: &Response) -> Result<Option<Url>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let target = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    match target.and_then(|target| url.join(target).ok()) {
        Some(next) => Ok(Some(next)),
        None => Err(Failure::invalid_field(
            field,
            format_args!("{} redirects to no valid URL", DisplayUrl(url)),
        )),
    }
}

fn refused_by_server(field: &str, url: &Url, status: StatusCode) -> Failure {
    let why = format!("{} answered {status}", DisplayUrl(url));
    let failure = match status.as_u16() {
        408 | 425 | 429 | 500.. => transient(field, why),
        _ => Failure::invalid_field(field, why),
    };
    failure.with_status(status.as_u16())
}

fn unreachable(field: &str, url: &Url, error: RequestError) -> Failure {
    if let Some(refusal) = causes(&error).find_map(|cause| cause.downcast_ref::<NotPublic>()) {
        return Failure::invalid_field(field, format_args!("{} {refusal}", DisplayUrl(url)));
    }
    transient(field, format_args!("{} cannot be fetched", DisplayUrl(url))).caused_by(error)
}

fn cut(field: &str, url: &Url, error: reqwest::Error) -> Failure {
    transient(field, format_args!("{} cannot be fetched", DisplayUrl(url))).caused_by(error.without_url())
}

fn transient(field: &str, why: impl fmt::Display) -> Failure {
    Failure::transient(format!("payload field \"{field}\": {why}"))
}

/// A URL as it may be shown: without user name, password and query, which can be secrets, and not endless.
pub(crate) struct DisplayUrl<'a>(pub(crate) &'a Url);

impl fmt::Display for DisplayUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Such a path may be anything, a whole file before all.
        if self.0.cannot_be_a_base() {
            return write!(f, "a {:.20}: URL", self.0.scheme());
        }
        write!(
            f,
            "{:.20}://{:.255}",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default()
        )?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        write!(f, "{:.100}", self.0.path())
    }
}
