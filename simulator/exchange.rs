//! The course of one request: noted on arrival, read, given its fault, answered, noted again. Every provider
//! route goes through here, so that limits, faults and the journal mean the same for all of them.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde_json::Value;

use self::paced::StreamEnd;
use super::{Bill, Fault, Provider, SimulatorState, azure, digest, openai, speech, vision};

mod paced;

/// The largest body that is read: that of the largest image which Vision takes.
const MAX_BODY: usize = 20_971_520;

/// A request as a provider's module sees it.
pub(super) struct SimulatedRequest<'a> {
    pub(super) shared: &'a SimulatorState,
    /// Number of the request, for ids that are unique and the same in each run.
    pub(super) seq: u64,
    pub(super) parts: &'a Parts,
    pub(super) body: &'a Bytes,
    /// The journal's name for the request.
    pub(super) marker: &'a str,
    /// A fault that changes the contents of the answer.
    pub(super) fault: Option<&'a Fault>,
}

impl SimulatedRequest<'_> {
    /// A request header, or the empty text.
    pub(super) fn header(&self, name: &str) -> &str {
        self.parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Returns true if the body is said to be of this type, parameters aside.
    pub(super) fn is_type(&self, media_type: &str) -> bool {
        let named = self.header("content-type").split(';').next().unwrap_or_default();
        named.trim().eq_ignore_ascii_case(media_type)
    }
}

/// The answer of a provider's module.
#[derive(Debug, Clone)]
pub(super) struct SimulatedAnswer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// The bill, if the answer costs money.
    pub(super) bill: Option<Box<Bill>>,
    /// The events of a stream, of which `body` is the whole.
    pub(super) events: Vec<Bytes>,
}

impl SimulatedAnswer {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
            bill: None,
            events: Vec::new(),
        }
    }

    /// Server-sent events, one by one.
    pub(super) fn streamed(events: Vec<String>) -> Self {
        Self {
            events: events.iter().cloned().map(Bytes::from).collect(),
            ..Self::new(200, "text/event-stream; charset=utf-8", events.concat())
        }
    }

    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub(super) fn billed(mut self, bill: Bill) -> Self {
        self.bill = Some(Box::new(bill));
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn respond(&self, body: Body) -> Response {
        let mut response = Response::new(body);
        // Both conversions hold for all that the modules and a checked fault can say.
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::try_from(value.as_str()) {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        response
    }

    /// The headers of the whole answer, half of its body, and then an error that makes hyper hang up.
    fn cut(self) -> Response {
        let half = self.body.slice(..self.body.len() / 2);
        let length = self.body.len();
        let broken = stream::once(async move { Ok(half) }).chain(stream::once(async {
            // Lets hyper send the first half before it sees the error.
            tokio::task::yield_now().await;
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut on purpose"))
        }));
        let mut response = self.respond(Body::from_stream(broken));
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

impl From<SimulatedAnswer> for Response {
    fn from(answer: SimulatedAnswer) -> Self {
        answer.respond(Body::from(answer.body.clone()))
    }
}

/// Tells the connection to reset instead of sending the response that carries it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("reset on purpose")]
pub(super) struct ConnectionReset;

/// How a provider's module answers.
pub(super) type AnswerFn = fn(&SimulatedRequest<'_>) -> SimulatedAnswer;

/// Takes one request through.
pub(super) async fn run(
    shared: Arc<SimulatorState>,
    provider: Provider,
    request: Request,
    answerer: AnswerFn,
) -> Response {
    let (parts, body) = request.into_parts();
    let visit = shared
        .journal
        .open(provider, &parts.method, &parts.uri, &parts.headers);
    let body = match to_bytes(body, MAX_BODY).await {
        Ok(body) => body,
        Err(_) => {
            let answer = refuse(provider, 413);
            visit.answer(answer.status, None);
            return answer.into();
        }
    };
    let aside = aside(&shared, provider, &parts);
    let texts = [aside.as_bytes(), &body];
    let body_hash = digest::hex(digest::of(&[&body]));
    let marker = digest::marker(&texts).unwrap_or_else(|| match &aside {
        // A poll has no body: it goes by the name of its image.
        name if body.is_empty() && !name.is_empty() => name.clone().into_owned(),
        _ => body_hash.clone(),
    });
    visit.read(marker.clone(), body_hash, body.len());

    let fault = shared.faults.take(provider, &texts);
    if let Some(fault) = &fault {
        visit.fault(fault.kind());
    }
    let mut wait = shared.latency();
    if let Some(Fault::Delay { ms }) = fault {
        wait = wait.saturating_add(Duration::from_millis(ms));
    }
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    if let Some(Fault::Reset) = fault {
        return reset();
    }
    let answer = fault
        .as_ref()
        .and_then(|fault| instead(provider, fault))
        .unwrap_or_else(|| {
            let (shared, seq, fault) = (&*shared, visit.seq, fault.as_ref());
            answerer(&SimulatedRequest {
                shared,
                seq,
                parts: &parts,
                body: &body,
                marker: &marker,
                fault,
            })
        });
    match fault {
        // An empty body cannot be cut in half: the whole answer is lost.
        Some(Fault::CutBody) if answer.body.is_empty() => reset(),
        Some(Fault::CutBody) => {
            visit.answer(answer.status, answer.bill.as_deref().cloned());
            answer.cut()
        }
        fault => match StreamEnd::of(fault.as_ref()) {
            end if !answer.events.is_empty()
                && (end != StreamEnd::Whole || !shared.stream_time().is_zero()) =>
            {
                paced::respond(answer, visit, shared.stream_time(), end)
            }
            _ => {
                visit.answer(answer.status, answer.bill.as_deref().cloned());
                answer.into()
            }
        },
    }
}

fn reset() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(ConnectionReset);
    response
}

/// The text of a request outside its body.
fn aside<'a>(shared: &SimulatorState, provider: Provider, parts: &'a Parts) -> Cow<'a, str> {
    match provider {
        Provider::OpenAi => Cow::Borrowed(""),
        Provider::AzureSpeech => Cow::Owned(speech::assessment_text(&parts.headers)),
        Provider::AzureVision => Cow::Owned(shared.operations.marker(parts.uri.path()).unwrap_or_default()),
    }
}

/// The answer that a fault puts in place of the provider's, if it is of that sort.
fn instead(provider: Provider, fault: &Fault) -> Option<SimulatedAnswer> {
    Some(match fault {
        Fault::Status {
            status,
            retry_after,
            retry_after_ms,
            body,
        } => {
            let mut answer = body.as_ref().map_or_else(
                || refuse(provider, *status),
                |body| SimulatedAnswer::new(*status, type_of(body), body.clone()),
            );
            if let Some(seconds) = retry_after {
                answer = answer.with("retry-after", seconds);
            }
            if let Some(ms) = retry_after_ms {
                answer = answer.with("retry-after-ms", ms);
            }
            answer
        }
        Fault::RateLimit { retry_after } => match provider {
            Provider::OpenAi => openai::rate_limited(retry_after.unwrap_or(1.0)),
            Provider::AzureSpeech => speech::rate_limited(*retry_after),
            Provider::AzureVision => vision::rate_limited(retry_after.unwrap_or(1.0)),
        },
        Fault::Quota => match provider {
            Provider::OpenAi => openai::out_of_quota(),
            Provider::AzureSpeech | Provider::AzureVision => azure::out_of_quota(),
        },
        Fault::Garbage => SimulatedAnswer::new(200, "application/json", "{\"choices\": [<not json>"),
        Fault::Html502 => SimulatedAnswer::new(
            502,
            "text/html",
            "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
        ),
        Fault::Empty500 => SimulatedAnswer {
            status: 500,
            headers: Vec::new(),
            body: Bytes::new(),
            bill: None,
            events: Vec::new(),
        },
        Fault::Delay { .. }
        | Fault::Reset
        | Fault::CutBody
        | Fault::Refusal
        | Fault::ContentFilter
        | Fault::Length
        | Fault::Deck { .. }
        | Fault::NoUsage
        | Fault::RefuseParameter { .. }
        | Fault::StreamSilence { .. }
        | Fault::StreamBreak { .. }
        | Fault::StreamError { .. }
        | Fault::Speech { .. }
        | Fault::OperationFailed { .. }
        | Fault::OperationUnknown => return None,
    })
}

/// The provider's own body for a status.
fn refuse(provider: Provider, status: u16) -> SimulatedAnswer {
    match provider {
        Provider::OpenAi => openai::refuse(status),
        Provider::AzureSpeech | Provider::AzureVision => azure::refuse(status),
    }
}

fn type_of(body: &str) -> &'static str {
    match body.trim_start().as_bytes().first() {
        Some(b'{' | b'[') => "application/json",
        Some(b'<') => "text/html",
        _ => "text/plain",
    }
}
