//! Azure Vision: text in images, by Image Analysis 4.0 (one request) or Read 3.2 (submit, then poll).

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use url::Url;

use super::{
    AZURE_KEY,
    error_body::{ErrorBody, excerpt},
    http::{ProviderAnswer, ProviderPeer, Transport, join, key_header},
    refusal_rules,
};
use crate::{
    Failure, FailureClass, Provider, ProviderReply, VisionApi, VisionSettings,
    media::DisplayUrl,
    raw::{PickedValue, pick},
};

/// Image Analysis 4.0, and what it is asked for.
pub(super) const ANALYZE: &str = "/computervision/imageanalysis:analyze";
pub(super) const READ_TEXT: [(&str, &str); 2] = [("api-version", "2024-02-01"), ("features", "read")];

/// Read 3.2.
pub(super) const SUBMIT: &str = "/vision/v3.2/read/analyze";

/// Longest wait for the answer to one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// Status that a poll returns for an operation that the service does not know yet, or has forgotten.
pub(crate) const EXPIRED: &str = "expired";

/// Longest operation id that is believed. They are GUIDs.
const MAX_OPERATION_ID: usize = 128;

/// Codes that mean "try again", whatever the status beside them.
const STUMBLED: [&str; 4] = [
    "Timeout",
    "InternalServerError",
    "StorageException",
    "FailedToProcess",
];

/// Azure Vision, text recognition.
#[derive(Clone)]
pub struct AzureVision {
    peer: Arc<ProviderPeer>,
    endpoint: Url,
    key: HeaderMap,
    api: VisionApi,
    timeout: Duration,
    poll_interval: Duration,
}

impl fmt::Debug for AzureVision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureVision")
            .field("endpoint", &format_args!("{}", DisplayUrl(&self.endpoint)))
            .finish_non_exhaustive()
    }
}

impl AzureVision {
    pub(super) fn new(http: Transport, settings: &VisionSettings) -> Result<Self, reqwest::Error> {
        let key = key_header(&http.requests, AZURE_KEY, &settings.key)?;
        Ok(Self {
            peer: Arc::new(ProviderPeer {
                provider: Provider::AzureVision,
                http,
                key: settings.key.clone(),
                classify,
            }),
            endpoint: settings.endpoint.clone(),
            key,
            api: settings.api,
            timeout: settings.timeout,
            poll_interval: settings.poll_interval,
        })
    }

    /// Which of the two services to use.
    pub fn api(&self) -> VisionApi {
        self.api
    }

    /// Pause between two polls.
    pub fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    /// Makes one attempt at reading an image with Image Analysis 4.0. The reply holds the whole answer.
    ///
    /// # Errors
    /// Fails by the status; transient when no whole answer came back, or one that is not JSON.
    pub async fn analyze(&self, image: Bytes) -> Result<ProviderReply, Failure> {
        let url = join(&self.endpoint, ANALYZE);
        let request = self
            .peer
            .http
            .requests
            .post(url)
            .query(&READ_TEXT)
            .timeout(self.timeout);
        let answer = self.send(octets(request, image)).await?;
        self.peer.refuse_error_inside(&answer)?;
        Ok(ProviderReply {
            body: self.peer.json(&answer.body)?,
            tokens: None,
            is_cut: false,
        })
    }

    /// Makes one attempt at submitting an image to Read 3.2. The reply is `{"operationId": "…"}`, for
    /// [`poll`](Self::poll). It is paid from here on: another submit pays again.
    ///
    /// # Errors
    /// Fails by the status; transient when no whole answer came back, or one that names no operation.
    pub async fn submit(&self, image: Bytes) -> Result<ProviderReply, Failure> {
        let url = join(&self.endpoint, SUBMIT);
        let answer = self
            .send(octets(
                self.peer.http.requests.post(url).timeout(self.timeout),
                image,
            ))
            .await?;
        self.peer.refuse_error_inside(&answer)?;
        let id = answer
            .headers
            .get("operation-location")
            .and_then(operation_id)
            .ok_or_else(|| {
                Failure::transient("azure-vision took the image, but named no operation to poll")
                    .by(Provider::AzureVision)
            })?;
        Ok(ProviderReply {
            body: answer_of(&json!({ "operationId": id })),
            tokens: None,
            is_cut: false,
        })
    }

    /// Asks once for the state of a Read 3.2 operation. The reply is the answer as received, its `status` one of
    /// `notStarted`, `running`, `succeeded` and `failed`; or `{"status": "expired"}` for an operation that the
    /// service does not know. The last three are final: asking again changes nothing, so none is an error to retry.
    ///
    /// # Errors
    /// Fails by the status of the answer; transient if the answer names no known status; permanent for a malformed
    /// operation id.
    pub async fn poll(&self, operation_id: &str) -> Result<ProviderReply, Failure> {
        if !is_operation_id(operation_id) {
            return Err(Failure::permanent("azure-vision: this is no operation id").by(Provider::AzureVision));
        }
        // Built from the endpoint: the key goes to no host that an answer named.
        let url = join(
            &self.endpoint,
            format_args!("/vision/v3.2/read/analyzeResults/{operation_id}"),
        );
        let answer = match self
            .send(self.peer.http.requests.get(url).timeout(POLL_TIMEOUT))
            .await
        {
            // This endpoint took the image: what it does not know is the operation.
            Err(failure) if failure.status() == Some(404) => {
                return Ok(ProviderReply {
                    body: answer_of(&json!({ "status": EXPIRED })),
                    tokens: None,
                    is_cut: false,
                });
            }
            answer => answer?,
        };
        let body: Box<RawValue> = self.peer.json(&answer.body)?;
        let [status] = pick(body.get(), ["/status"]);
        match status.as_ref().and_then(PickedValue::text) {
            Some("notStarted" | "running" | "succeeded" | "failed") => Ok(ProviderReply::new(body, None)),
            status => {
                self.peer.refuse_error_inside(&answer)?;
                let status = excerpt(status.unwrap_or("missing"));
                Err(
                    Failure::transient(format!("azure-vision: the operation's status is {status}"))
                        .by(Provider::AzureVision)
                        .with_status(200),
                )
            }
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<ProviderAnswer, Failure> {
        let request = request
            .headers(self.key.clone())
            .build()
            .map_err(|e| self.peer.unbuildable(e))?;
        self.peer.exchange(request).await
    }
}

fn octets(request: RequestBuilder, image: Bytes) -> RequestBuilder {
    request
        .header(CONTENT_TYPE, "application/octet-stream")
        .body(image)
}

/// An answer of our own, in place of one that says the same without JSON.
#[expect(clippy::expect_used, reason = "a tree's names are text, so it can be written")]
fn answer_of(tree: &Value) -> Box<RawValue> {
    to_raw_value(tree).expect("JSON")
}

/// The last segment of the URL in `ReadOperation-Location`; the rest of it is not believed.
pub(super) fn operation_id(location: &HeaderValue) -> Option<String> {
    let path = location.to_str().ok()?.split(['?', '#']).next()?;
    let id = path.rsplit('/').next()?;
    is_operation_id(id).then(|| id.to_owned())
}

fn is_operation_id(id: &str) -> bool {
    (1..=MAX_OPERATION_ID).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Classifies a failed operation by its code. Without a code another submit may succeed, as after `FailedToProcess`.
pub(crate) fn operation_failure(answer: &Value) -> Failure {
    let body = ["/error", "/analyzeResult/errors/0", "/errors/0"]
        .iter()
        .find_map(|place| ErrorBody::of(answer.pointer(place)?))
        .unwrap_or_default();
    let class = match body.code.as_str() {
        "" => FailureClass::Transient,
        code if STUMBLED.contains(&code) => FailureClass::Transient,
        _ => FailureClass::Permanent,
    };
    let code = if body.code.is_empty() {
        "no code"
    } else {
        &body.code
    };
    let message = format!(
        "azure-vision could not read the image ({}): {}",
        excerpt(code),
        excerpt(&body.message)
    );
    Failure::new(class, message)
        .by(Provider::AzureVision)
        .with_status(200)
}

/// The meaning of an answer other than 2xx, and of an error inside of one.
pub(super) fn classify(status: u16, headers: &HeaderMap, body: &ErrorBody) -> Failure {
    refusal_rules::refusal(Provider::AzureVision, status, headers, body)
}
