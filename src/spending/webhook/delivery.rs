//! One event on its way to the receiver: signed, sent, sent again until it is taken.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::http_client::{ClientError, ConnectOptions, HttpClient};
use reqwest::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use ring::hmac;
use secrecy::{ExposeSecret, SecretSlice};
use tracing::{info, warn};
use url::Url;

use super::{event::Event, template};
use crate::{
    retry::Backoff,
    telemetry::metrics::{PROCESS, labels::CellIndex, labels::WebhookResult},
};

/// Tries of an event whose content the receiver refuses.
const TRIES_OF_REFUSED: u8 = 4;
/// Longest wait that a receiver can ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// Bytes of an answer that are read, so that its connection can be used again. They are not looked at.
const ANSWER: usize = 16 * 1024;

/// Where usage events go.
#[derive(Clone)]
pub struct WebhookSettings {
    /// The receiver.
    pub url: Url,
    /// Headers that it wants; they may hold a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The key of the signature.
    pub secret: Option<SecretSlice<u8>>,
    /// The body; all fields as one JSON object without it.
    pub template: Option<template::Template>,
    /// How long the receiver may take for an answer.
    pub timeout: Duration,
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a key in its path or query.
        f.debug_struct("WebhookSettings").finish_non_exhaustive()
    }
}

impl WebhookSettings {
    /// The receiver's host, for messages.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// The fate of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The receiver has taken it.
    Delivered,
    /// The receiver refuses its content.
    Refused(u16),
    /// It has no student, and the body needs one.
    Skipped,
}

/// The result of one try.
enum Tried {
    Taken,
    /// The same event would be refused again.
    Refused(u16),
    /// Another try may succeed, after this time at least.
    Failed(String, Duration),
}

pub(super) struct Delivery {
    http: HttpClient,
    settings: WebhookSettings,
    key: Option<hmac::Key>,
    backoff: Backoff,
    /// Events are not taken at present: said once.
    is_failing: AtomicBool,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

impl Delivery {
    pub(super) fn new(settings: WebhookSettings) -> Result<Self, ClientError> {
        let connecting = ConnectOptions::default();
        let key = settings.secret.as_ref();
        let (first, longest) = (Duration::from_millis(500), Duration::from_secs(30));
        Ok(Self {
            http: HttpClient::new("backend-worker", connecting)?,
            key: key.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret())),
            settings,
            backoff: Backoff::new(first, 2.0, longest, 0.25).unwrap_or_default(),
            is_failing: AtomicBool::new(false),
        })
    }

    /// Sends an event until the receiver has taken it, or has refused it for good.
    pub(super) async fn until_taken(&self, event: &Event) -> Fate {
        let template = self.settings.template.as_ref();
        if event.student.is_empty() && template.is_some_and(template::Template::needs_student) {
            return count(Fate::Skipped);
        }
        let (key, body) = (
            event.key(),
            template.map_or_else(|| template::whole(event), |template| template.fill(event)),
        );
        let mut nth = 0u8;
        loop {
            nth = nth.saturating_add(1);
            let (why, wait) = match self.once(&key, &body).await {
                Tried::Taken => {
                    if self.is_failing.swap(false, Ordering::Relaxed) {
                        info!("USAGE_WEBHOOK_URL takes usage events again");
                    }
                    return count(Fate::Delivered);
                }
                Tried::Refused(status) if nth >= TRIES_OF_REFUSED => return count(Fate::Refused(status)),
                Tried::Refused(status) => (format!("it answered {status}"), Duration::ZERO),
                Tried::Failed(why, wait) => (why, wait),
            };
            PROCESS.usage_webhook[WebhookResult::Failed.index()].add(1);
            if !self.is_failing.swap(true, Ordering::Relaxed) {
                warn!(
                    host = self.settings.host(),
                    why,
                    event = key,
                    "USAGE_WEBHOOK_URL does not take a usage event: it is sent again until it does, and later events of the \
                     same student wait"
                );
            }
            let delay = self.backoff.delay(nth, &mut rand::rng()).at_least(wait);
            tokio::time::sleep(delay.total()).await;
        }
    }

    async fn once(&self, key: &str, body: &str) -> Tried {
        let request = self.request(key, body, SystemTime::now());
        let answer = tokio::time::timeout(self.settings.timeout, async {
            let answer = self.http.execute(request).await?;
            let (status, wait) = (answer.status(), retry_after(&answer));
            drain(answer).await;
            Ok::<_, jobs::http_client::RequestError>((status, wait))
        });
        match answer.await {
            Ok(Ok((status, _))) if status.is_success() => Tried::Taken,
            Ok(Ok((status, _))) if refuses_content(status) => Tried::Refused(status.as_u16()),
            Ok(Ok((status, wait))) => Tried::Failed(format!("it answered {status}"), wait),
            Ok(Err(error)) if error.is_connect() => Tried::Failed("no connection".to_owned(), Duration::ZERO),
            Ok(Err(_)) => Tried::Failed("the connection broke".to_owned(), Duration::ZERO),
            Err(_) => Tried::Failed(
                format!("no answer within {:?}", self.settings.timeout),
                Duration::ZERO,
            ),
        }
    }

    /// Headers as Standard Webhooks describe them.
    fn request(&self, key: &str, body: &str, now: SystemTime) -> Request {
        let mut request = Request::new(Method::POST, self.settings.url.clone());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.settings.headers.iter().cloned());
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
            .to_string();
        let signature = self.key.as_ref().map(|secret| sign(secret, key, &seconds, body));
        for (name, value) in [
            ("webhook-id", Some(key)),
            ("webhook-timestamp", Some(seconds.as_str())),
            ("webhook-signature", signature.as_deref()),
        ] {
            // Digits, base64 and the characters of a key: always a header.
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.to_owned().into());
        request
    }

    /// Asks the receiver what it allows, which changes nothing: its answer's status.
    pub(super) async fn probe(&self) -> Result<StatusCode, String> {
        let mut request = Request::new(Method::OPTIONS, self.settings.url.clone());
        *request.headers_mut() = self.settings.headers.iter().cloned().collect();
        match tokio::time::timeout(self.settings.timeout, self.http.execute(request)).await {
            Ok(Ok(answer)) => Ok(answer.status()),
            Ok(Err(error)) if error.is_connect() => Err("no connection".to_owned()),
            Ok(Err(_)) => Err("the connection broke".to_owned()),
            Err(_) => Err(format!("no answer within {:?}", self.settings.timeout)),
        }
    }
}

fn count(fate: Fate) -> Fate {
    let result = match fate {
        Fate::Delivered => WebhookResult::Delivered,
        Fate::Refused(_) => WebhookResult::Refused,
        Fate::Skipped => WebhookResult::Skipped,
    };
    PROCESS.usage_webhook[result.index()].add(1);
    fate
}

/// `v1,<base64>` over `<id>.<timestamp>.<body>`.
fn sign(key: &hmac::Key, id: &str, seconds: &str, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(tag))
}

/// True if a status is about this event's content. Any other refusal would hit all events alike: a wrong address, key
/// or method, too many requests, a receiver that fails.
fn refuses_content(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 409 | 410 | 413 | 422)
}

fn retry_after(answer: &Response) -> Duration {
    let seconds = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST_WAIT)
}

/// A longer answer ends with its connection.
async fn drain(mut answer: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = answer.chunk().await {
        read += chunk.len();
        if read > ANSWER {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification of Standard Webhooks, as its reference libraries test it.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = BASE64_STANDARD
            .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signature = sign(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn only_faults_of_the_content_set_an_event_aside() {
        let status = |code| StatusCode::from_u16(code).unwrap();
        for code in [400, 409, 410, 413, 422] {
            assert!(refuses_content(status(code)), "{code}");
        }
        for code in [301, 401, 403, 404, 405, 408, 425, 429, 500, 503] {
            assert!(!refuses_content(status(code)), "{code}");
        }
    }
}
