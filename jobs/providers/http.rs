//! One exchange with a provider, the same for all: send once, read at most so much, turn every end but a 2xx into
//! a [`Failure`].

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Client, Request, Response,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tracing::debug;
use url::Url;

use super::{
    USER_AGENT,
    error_body::{ErrorBody, error_inside},
    redact::redact,
};
use crate::{
    ClientError, Failure, Provider, TRACEPARENT,
    http_client::{ConnectOptions, HttpClient, RequestError, causes},
    redaction::conceal_bytes,
};

/// Largest answer that is read, bytes.
pub(super) const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Of a refusal, so much is read, bytes: enough for any error body, and for an edge's HTML page.
const MAX_REFUSAL: usize = 64 * 1024;

/// The time of an exchange whose request sets none.
const LONGEST: Duration = Duration::from_secs(600);

/// Says what a status other than 2xx means, or an error inside a 2xx.
pub(super) type RefusalClassifier = fn(u16, &HeaderMap, &ErrorBody) -> Failure;

/// How long after a request has left a closed connection shows that it was closed before: nothing was processed then. A
/// provider that closes later may have worked on the request.
const CLOSED_BEFORE: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// Set when the request that this task sends opens a connection, instead of taking one that was open.
    static OPENED: Cell<bool>;
}

/// The clients of all providers' requests.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    /// Builds requests. It sends none.
    pub(super) requests: Client,
    /// Keeps connections open, and takes one that is.
    pooled: HttpClient,
    /// Opens a connection for each request.
    fresh: HttpClient,
}

impl Transport {
    /// Opens no connection.
    ///
    /// # Errors
    /// When no client can be built: no TLS roots, say.
    pub(super) fn new() -> Result<Self, ClientError> {
        let client = |keeps| {
            let connecting = ConnectOptions {
                keeps,
                // Outside of a request's task a connection is opened in reserve.
                opened: || {
                    let _ = OPENED.try_with(|opened| opened.set(true));
                },
                ..ConnectOptions::default()
            };
            HttpClient::new(USER_AGENT, connecting)
        };
        Ok(Self {
            requests: Client::builder().no_proxy().build()?,
            pooled: client(true)?,
            fresh: client(false)?,
        })
    }

    /// Sends a request. One that was certainly not processed is sent once more at once, over a connection of its own.
    async fn execute(&self, provider: Provider, request: Request) -> Result<Response, RequestError> {
        let (again, sent) = (request.try_clone(), Instant::now());
        let first = async {
            let answer = self.pooled.execute(request).await;
            (answer, OPENED.with(Cell::get))
        };
        let (answer, opened) = OPENED.scope(Cell::new(false), first).await;
        let error = match answer {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let closed_before = !opened && sent.elapsed() < CLOSED_BEFORE && is_closed(&error);
        match again.filter(|_| error.is_connect() || closed_before) {
            Some(again) => {
                debug!(%provider, "a request to {provider} was not processed, and is sent once more: {error}");
                self.fresh.execute(again).await
            }
            None => Err(error),
        }
    }
}

/// Returns true if the connection was closed before a byte of an answer.
fn is_closed(error: &RequestError) -> bool {
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            use io::ErrorKind::{
                BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
            };
            return matches!(
                error.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            );
        }
    }
    false
}

/// The way to one provider.
pub(super) struct ProviderPeer {
    /// The provider.
    pub(super) provider: Provider,
    /// Sends the requests.
    pub(super) http: Transport,
    /// Taken out of whatever the provider says: some echo it.
    pub(super) key: SecretString,
    /// Its verdict on refusals.
    pub(super) classify: RefusalClassifier,
}

/// A 2xx, read to its end.
#[derive(Debug)]
pub(super) struct ProviderAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl ProviderPeer {
    /// Sends one request, once. Its time-out covers the whole exchange. The key is in nothing of what comes back.
    ///
    /// # Errors
    /// Transient when no whole answer came back; what `classify` says of a status other than 2xx.
    pub(super) async fn exchange(&self, request: Request) -> Result<ProviderAnswer, Failure> {
        let mut answer = self.begin(request, None).await?;
        match read(&mut answer.response, MAX_ANSWER, answer.end).await {
            Ok(body) => Ok(answer.whole(body)),
            Err(cut) => Err(self.cut(answer.status(), cut)),
        }
    }

    /// Sends one request, once, and returns when the head of a 2xx is here: within `patience`, where it is given.
    ///
    /// # Errors
    /// Transient when no head came back; what `classify` says of a status other than 2xx.
    pub(super) async fn begin(
        &self,
        mut request: Request,
        patience: Option<Duration>,
    ) -> Result<OpenAnswer<'_>, Failure> {
        if let Ok(Ok(parent)) = TRACEPARENT.try_with(|parent| HeaderValue::try_from(parent)) {
            request.headers_mut().insert("traceparent", parent);
        }
        let limit = request.timeout().copied().unwrap_or(LONGEST);
        let (begun, patience) = (Instant::now(), patience.unwrap_or(limit));
        let end = begun + limit;
        let head_until = end.min(begun + patience);
        let mut response = match timeout_at(head_until, self.http.execute(self.provider, request)).await {
            Ok(answer) => answer.map_err(|error| self.unanswered(error))?,
            Err(_) if head_until < end => return Err(self.silent(patience)),
            Err(_) => return Err(self.late()),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(OpenAnswer {
                peer: self,
                response,
                end,
                alarm: None,
            });
        }
        // The status says enough: a refusal is classified even when its body is long or cut.
        let body = match read(&mut response, MAX_REFUSAL, end.min(Instant::now() + patience)).await {
            Ok(body) | Err(TruncatedBody { read: body, .. }) => body,
        };
        let body = self.clean(body);
        let body = ErrorBody::parse(&body);
        Err((self.classify)(status.as_u16(), response.headers(), &body))
    }

    /// The body without this provider's key, also where JSON escapes it, and without the process's other secrets.
    pub(super) fn clean(&self, body: Bytes) -> Bytes {
        let body = redact(body, &self.key);
        conceal_bytes(&body).map_or(body, Bytes::from)
    }

    /// Refuses a 2xx that carries an error instead of an answer: gateways send one when they have begun to answer.
    ///
    /// # Errors
    /// Fails by the meaning of the error.
    pub(super) fn refuse_error_inside(&self, answer: &ProviderAnswer) -> Result<(), Failure> {
        match error_inside(&answer.body) {
            Some(error) => Err((self.classify)(answer.status, &answer.headers, &error)),
            None => Ok(()),
        }
    }

    /// The answer's body as JSON.
    ///
    /// # Errors
    /// Transient: the answer was paid for, but cut or mangled on its way.
    pub(super) fn json<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|e| {
            let size = body.len();
            Failure::transient(format!(
                "{} sent an answer of {size} bytes that is not JSON",
                self.provider
            ))
            .by(self.provider)
            .with_answer_lost()
            .caused_by(e)
        })
    }

    /// A request that reqwest refuses to build: it comes from the configuration alone.
    pub(super) fn unbuildable(&self, error: reqwest::Error) -> Failure {
        Failure::deployment(format!("{}: the request cannot be built", self.provider))
            .by(self.provider)
            .caused_by(error.without_url())
    }

    fn cut(&self, status: u16, cut: TruncatedBody) -> Failure {
        match cut.why {
            // The URL may hold what a proxy wants as its secret; the provider's name says enough.
            TruncationCause::Broken(error) => {
                Failure::transient(format!("{} broke off its answer", self.provider))
                    .caused_by(error.without_url())
            }
            TruncationCause::Late => self.late(),
            TruncationCause::TooLong => {
                Failure::transient(format!("{} sent more than {MAX_ANSWER} bytes", self.provider))
            }
        }
        .by(self.provider)
        .with_answer_lost()
        .with_status(status)
    }

    fn silent(&self, patience: Duration) -> Failure {
        let silent = humantime::format_duration(patience);
        Failure::transient(format!("{} sent nothing for {silent}", self.provider))
            .by(self.provider)
            .with_answer_lost()
    }

    fn late(&self) -> Failure {
        Failure::transient(format!("{} did not answer in time", self.provider))
            .by(self.provider)
            .with_answer_lost()
    }

    fn unanswered(&self, error: RequestError) -> Failure {
        let sent = !error.is_connect();
        let failure = Failure::transient(format!("{} was not reached", self.provider))
            .by(self.provider)
            .caused_by(error);
        if sent { failure.with_answer_lost() } else { failure }
    }
}

/// A 2xx whose head is here.
pub(super) struct OpenAnswer<'a> {
    peer: &'a ProviderPeer,
    response: Response,
    end: Instant,
    /// Wakes the task when the provider has been silent for too long. One timer serves all chunks: a timer for each would
    /// cost more than most chunks do.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl OpenAnswer<'_> {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next bytes of the body, within `patience`, of which `rested` has passed; `None` at its end.
    ///
    /// # Errors
    /// Transient when none came.
    pub(super) async fn chunk(
        &mut self,
        patience: Duration,
        rested: Duration,
    ) -> Result<Option<Bytes>, Failure> {
        let until = self.end.min(Instant::now() + patience.saturating_sub(rested));
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        let chunk = {
            let mut chunk = pin!(self.response.chunk());
            poll_fn(|context| {
                if let Poll::Ready(chunk) = chunk.as_mut().poll(context) {
                    return Poll::Ready(Some(chunk));
                }
                while alarm.as_mut().poll(context).is_ready() {
                    if alarm.deadline() >= until {
                        return Poll::Ready(None);
                    }
                    // It was set for an earlier chunk.
                    alarm.as_mut().reset(until);
                }
                Poll::Pending
            })
            .await
        };
        match chunk {
            Some(Ok(chunk)) => Ok(chunk),
            Some(Err(error)) => Err(self.cut(TruncationCause::Broken(error))),
            None if until < self.end => Err(self.peer.silent(patience).with_status(self.status())),
            None => Err(self.cut(TruncationCause::Late)),
        }
    }

    /// The stream ended, and the answer did not.
    pub(super) fn broke_off(&self) -> Failure {
        Failure::transient(format!("{} broke off its answer", self.peer.provider))
            .by(self.peer.provider)
            .with_answer_lost()
            .with_status(self.status())
    }

    pub(super) fn too_long(&self) -> Failure {
        self.cut(TruncationCause::TooLong)
    }

    fn cut(&self, why: TruncationCause) -> Failure {
        let read = Bytes::new();
        self.peer.cut(self.status(), TruncatedBody { read, why })
    }

    /// The answer with its whole body.
    pub(super) fn whole(self, body: Bytes) -> ProviderAnswer {
        let status = self.status();
        let (peer, mut response) = (self.peer, self.response);
        ProviderAnswer {
            status,
            headers: std::mem::take(response.headers_mut()),
            body: json_text(peer.clean(body)),
        }
    }
}

/// A body that was not read to its end.
struct TruncatedBody {
    read: Bytes,
    why: TruncationCause,
}

enum TruncationCause {
    TooLong,
    Late,
    Broken(reqwest::Error),
}

async fn read(response: &mut Response, limit: usize, end: Instant) -> Result<Bytes, TruncatedBody> {
    let mut body = Vec::new();
    let why = loop {
        match timeout_at(end, response.chunk()).await {
            Ok(Ok(None)) => return Ok(body.into()),
            Ok(Ok(Some(chunk))) => {
                let room = limit - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    break TruncationCause::TooLong;
                }
            }
            Ok(Err(error)) => break TruncationCause::Broken(error),
            Err(_) => break TruncationCause::Late,
        }
    };
    Err(TruncatedBody {
        read: body.into(),
        why,
    })
}

/// The body without a byte order mark, and with U+FFFD for bytes that are not UTF-8.
///
/// Some gateways send either. Both spoil a whole answer for a strict parser, and the answer was paid for. A body that
/// does not begin like JSON stays as it is.
fn json_text(body: Bytes) -> Bytes {
    let body = match body.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => body.slice_ref(rest),
        None => body,
    };
    if !matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return body;
    }
    match String::from_utf8_lossy(&body) {
        Cow::Borrowed(_) => body,
        Cow::Owned(text) => text.into(),
    }
}

/// `path` below the base URL, whose own path stays; a query of the base does not.
pub(super) fn join(base: &Url, path: impl fmt::Display) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// The header that carries the key, marked so that no Debug shows it.
///
/// # Errors
/// When no header may carry the value.
pub(super) fn key_header(
    http: &Client,
    name: HeaderName,
    value: &SecretString,
) -> Result<HeaderMap, reqwest::Error> {
    // A request that is never sent: the one way to get reqwest's own error for a bad value.
    let request = http
        .get("http://localhost")
        .header(name, value.expose_secret())
        .build()?;
    let mut headers = request.headers().clone();
    headers.values_mut().for_each(|value| value.set_sensitive(true));
    Ok(headers)
}
