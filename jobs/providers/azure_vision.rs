//! Azure Vision reads text in images. Image Analysis 4.0 takes one request; Read 3.2 and its successor, Document
//! Intelligence, take a submit and polls.

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
    refusal_rules, retry_after,
};
use crate::{
    Failure, FailureClass, Provider, ProviderReply, VisionApi, VisionSettings,
    media::DisplayUrl,
    raw::{PickedValue, pick},
};

/// A path below the endpoint, and the query that follows it.
pub(super) type ServiceTarget<'a> = (&'a str, &'static [(&'static str, &'static str)]);

/// The version of Document Intelligence.
const DOCUMENT_VERSION: (&str, &str) = ("api-version", "2024-11-30");

/// The request that sends an image to the service.
pub(super) const fn image_target(api: VisionApi) -> ServiceTarget<'static> {
    match api {
        VisionApi::ImageAnalysis40 => (
            "/computervision/imageanalysis:analyze",
            &[("api-version", "2024-02-01"), ("features", "read")],
        ),
        VisionApi::Read32 => ("/vision/v3.2/read/analyze", &[]),
        VisionApi::DocumentIntelligence => (
            "/documentintelligence/documentModels/prebuilt-read:analyze",
            &[("_overload", "analyzeDocument"), DOCUMENT_VERSION],
        ),
    }
}

/// The path below which the operations of the service are polled, and the query of a poll.
const fn poll_target(api: VisionApi) -> ServiceTarget<'static> {
    match api {
        VisionApi::DocumentIntelligence => (
            "/documentintelligence/documentModels/prebuilt-read/analyzeResults",
            &[DOCUMENT_VERSION],
        ),
        _ => ("/vision/v3.2/read/analyzeResults", &[]),
    }
}

/// Longest wait for the answer to one poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// Status that a poll returns for an operation that the service does not know yet, or has forgotten.
pub(crate) const EXPIRED: &str = "expired";

/// Field of a reply with the wait that the service asks for, ms.
pub(crate) const RETRY_AFTER_MS: &str = "retryAfterMs";

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

    /// The service that reads the images.
    pub fn api(&self) -> VisionApi {
        self.api
    }

    /// Shortest pause between two polls.
    pub fn poll_interval(&self) -> Duration {
        self.poll_interval
    }

    /// Makes one attempt at reading an image with Image Analysis 4.0. The reply holds the whole answer.
    ///
    /// # Errors
    /// Fails by the status; transient when no whole answer came back, or one that is not JSON.
    pub async fn analyze(&self, image: Bytes) -> Result<ProviderReply, Failure> {
        let answer = self.send_image(VisionApi::ImageAnalysis40, image).await?;
        self.peer.refuse_error_inside(&answer)?;
        Ok(ProviderReply {
            body: self.peer.json(&answer.body)?,
            tokens: None,
            is_cut: false,
        })
    }

    /// Makes one attempt at submitting an image to Read 3.2 or Document Intelligence. The reply is
    /// `{"operationId": "…"}`, for [`poll`](Self::poll), and `retryAfterMs` where the service asks to wait. It is
    /// paid from here on: another submit pays again.
    ///
    /// # Errors
    /// Fails by the status; transient when no whole answer came back, or one that names no operation.
    pub async fn submit(&self, image: Bytes) -> Result<ProviderReply, Failure> {
        let answer = self.send_image(self.api, image).await?;
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
            body: answer_of(with_wait(json!({ "operationId": id }), &answer.headers)),
            tokens: None,
            is_cut: false,
        })
    }

    /// Asks once for the state of an operation. The reply is the answer as received where its `status` is
    /// `succeeded`, `failed` or `canceled`; `status` alone where it is `notStarted` or `running`, with `retryAfterMs`
    /// where the service asks to wait; and `{"status": "expired"}` for an operation that the service does not know.
    /// An end is final: asking again changes nothing, so none is an error to retry.
    ///
    /// # Errors
    /// Fails by the status of the answer; transient if the answer names no known status; permanent for a malformed
    /// operation id.
    pub async fn poll(&self, operation_id: &str) -> Result<ProviderReply, Failure> {
        if !is_operation_id(operation_id) {
            return Err(Failure::permanent("azure-vision: this is no operation id").by(Provider::AzureVision));
        }
        // Built from the endpoint: the key goes to no host that an answer named.
        let (path, query) = poll_target(self.api);
        let url = join(&self.endpoint, format_args!("{path}/{operation_id}"));
        let request = self.peer.http.requests.get(url).query(query);
        let answer = match self.send(request.timeout(POLL_TIMEOUT)).await {
            // This endpoint took the image: what it does not know is the operation.
            Err(failure) if failure.status() == Some(404) => {
                return Ok(ProviderReply {
                    body: answer_of(json!({ "status": EXPIRED })),
                    tokens: None,
                    is_cut: false,
                });
            }
            answer => answer?,
        };
        let body: Box<RawValue> = self.peer.json(&answer.body)?;
        let [status] = pick(body.get(), ["/status"]);
        match status.as_ref().and_then(PickedValue::text) {
            Some(status @ ("notStarted" | "running")) => Ok(ProviderReply {
                body: answer_of(with_wait(json!({ "status": status }), &answer.headers)),
                tokens: None,
                is_cut: false,
            }),
            Some("succeeded" | "failed" | "canceled") => Ok(ProviderReply::new(body, None)),
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

    async fn send_image(&self, api: VisionApi, image: Bytes) -> Result<ProviderAnswer, Failure> {
        let (path, query) = image_target(api);
        let url = join(&self.endpoint, path);
        let request = self.peer.http.requests.post(url).query(query);
        let request = request.timeout(self.timeout);
        self.send(
            request
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(image),
        )
        .await
    }

    async fn send(&self, request: RequestBuilder) -> Result<ProviderAnswer, Failure> {
        let request = request
            .headers(self.key.clone())
            .build()
            .map_err(|e| self.peer.unbuildable(e))?;
        self.peer.exchange(request).await
    }
}

/// Adds the wait that the service asks for.
fn with_wait(mut answer: Value, headers: &HeaderMap) -> Value {
    if let Some(wait) = retry_after::asked(headers, &ErrorBody::default(), false) {
        answer[RETRY_AFTER_MS] = json!(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    }
    answer
}

/// An answer of our own, in place of one that says the same without JSON.
#[expect(clippy::expect_used, reason = "a tree's names are text, so it can be written")]
fn answer_of(tree: Value) -> Box<RawValue> {
    to_raw_value(&tree).expect("JSON")
}

/// The last segment of the URL in `Operation-Location`; the rest of it is not believed.
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
