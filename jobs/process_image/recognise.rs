//! One image through the provider, to its lines of text.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    CallUsage, Failure, FailureClass, Provider, ProviderCall, ProviderGuard, ProviderReply, VisionApi,
    context::{self, UnusableAnswer},
    providers::azure_vision::{EXPIRED, operation_failure},
    raw,
    text::clean,
};

/// Time limit of one attempt at an operation. The job's next attempt continues to poll the operation where the ledger
/// stores replies, and submits the image again where it does not.
const LONGEST_OPERATION: Duration = Duration::from_secs(120);

/// So many polls in a row may say that the operation is not known: the service needs a moment until all of it knows an
/// operation that it has just accepted. Each submit is paid, a poll is not.
const MOST_UNKNOWN: u32 = 10;

/// One request to the provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RecognitionRequest {
    /// Image Analysis 4.0.
    Analyze(Bytes),
    /// Read 3.2: starts an operation, and is paid.
    Submit(Bytes),
    /// Read 3.2: asks for the state of the operation.
    Poll(String),
}

/// How images are read in one job.
pub(super) struct Recogniser<'a> {
    pub(super) guard: &'a dyn ProviderGuard,
    /// Sends one request.
    pub(super) ask:
        &'a (dyn Fn(RecognitionRequest) -> BoxFuture<'a, Result<ProviderReply, Failure>> + Send + Sync + 'a),
    pub(super) api: VisionApi,
    /// Pause between two polls.
    pub(super) poll_interval: Duration,
}

impl Recogniser<'_> {
    /// The lines of the image with this number.
    pub(super) async fn lines(&self, number: usize, image: Bytes) -> Result<Vec<String>, Failure> {
        match self.api {
            VisionApi::ImageAnalysis40 => {
                let call = ProviderCall::new(Provider::AzureVision, format!("image:{number}"))
                    .estimating(CallUsage::image());
                self.call(&call, &|| RecognitionRequest::Analyze(image.clone()), &analyzed)
                    .await
            }
            VisionApi::Read32 => self.read(number, &image).await,
        }
    }

    /// Reads an image by an operation. One that ends without text, for a reason that need not be the image's, is
    /// not asked again, as its end is final: the image is submitted once more, and no more than that, for each
    /// submit is paid.
    async fn read(&self, number: usize, image: &Bytes) -> Result<Vec<String>, Failure> {
        match self.operation(number, "", image, LONGEST_OPERATION).await? {
            Err(failure) if failure.class() == FailureClass::Transient => {}
            ended => return ended,
        }
        let again = self.operation(number, ":2", image, LONGEST_OPERATION).await?;
        again.map_err(|failure| {
            Failure::permanent(format!(
                "azure-vision: image {number} was submitted twice without a result"
            ))
            .by(Provider::AzureVision)
            .caused_by(failure)
        })
    }

    /// Submits an image and polls until the operation has ended. The submit has a step of its own: where replies
    /// are kept, a later delivery of the job goes on polling what was paid for. Polls are free, and never kept.
    pub(super) async fn operation(
        &self,
        number: usize,
        round: &str,
        image: &Bytes,
        limit: Duration,
    ) -> Result<RecognitionEnd, Failure> {
        let submit = ProviderCall::new(Provider::AzureVision, format!("image:{number}:submit{round}"))
            .estimating(CallUsage::image());
        let operation = self
            .call(&submit, &|| RecognitionRequest::Submit(image.clone()), &submitted)
            .await?;

        let poll = ProviderCall::new(Provider::AzureVision, format!("image:{number}:poll{round}")).unpaid();
        let deadline = Instant::now() + limit;
        let mut unknown = 0;
        loop {
            let state = self
                .call(&poll, &|| RecognitionRequest::Poll(operation.clone()), &polled)
                .await?;
            match state {
                OperationState::Ended(end) => return Ok(end),
                OperationState::Unknown if unknown + 1 == MOST_UNKNOWN => {
                    return Ok(Err(unusable("the operation is not known, or not any more")));
                }
                OperationState::Unknown => unknown += 1,
                OperationState::Running => unknown = 0,
            }
            if Instant::now() + self.poll_interval > deadline {
                break;
            }
            sleep(self.poll_interval).await;
        }
        let message = format!(
            "azure-vision: image {number} was not read within {} s",
            limit.as_secs()
        );
        Err(Failure::transient(message).by(Provider::AzureVision))
    }

    /// Makes one guarded call, and parses its answer.
    async fn call<T: Send>(
        &self,
        call: &ProviderCall,
        question: &(dyn Fn() -> RecognitionRequest + Sync),
        read: &(dyn Fn(&Value) -> Result<T, Failure> + Sync),
    ) -> Result<T, Failure> {
        let read = |answer: &_| {
            let answer = raw::tree(call.provider, answer).map_err(UnusableAnswer::Useless)?;
            read(&answer).map_err(UnusableAnswer::Useless)
        };
        context::ask(self.guard, call, &|| (self.ask)(question()), &read).await
    }
}

/// The final result of an operation: the lines, or the reason why there are none.
pub(super) type RecognitionEnd = Result<Vec<String>, Failure>;

/// State of an operation.
#[derive(Debug)]
pub(super) enum OperationState {
    Running,
    /// The service does not know the operation yet, or has forgotten it.
    Unknown,
    Ended(RecognitionEnd),
}

/// The lines in an answer of Image Analysis 4.0. An image without text has no blocks.
pub(super) fn analyzed(body: &Value) -> Result<Vec<String>, Failure> {
    let blocks = body["readResult"]["blocks"]
        .as_array()
        .ok_or_else(|| unusable("no readResult.blocks"))?;
    Ok(lines(blocks))
}

/// The operation's id.
pub(super) fn submitted(body: &Value) -> Result<String, Failure> {
    body["operationId"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| unusable("no operation id"))
}

/// Parses the state of an operation of Read 3.2.
pub(super) fn polled(body: &Value) -> Result<OperationState, Failure> {
    match body["status"].as_str() {
        Some("notStarted" | "running") => Ok(OperationState::Running),
        Some("succeeded") => {
            let pages = body["analyzeResult"]["readResults"].as_array();
            let end = pages
                .map(|pages| lines(pages))
                .ok_or_else(|| unusable("no analyzeResult.readResults"));
            Ok(OperationState::Ended(end))
        }
        Some("failed") => Ok(OperationState::Ended(Err(operation_failure(body)))),
        Some(EXPIRED) => Ok(OperationState::Unknown),
        _ => Err(unusable("no known status")),
    }
}

/// The lines of all blocks or pages, which have the same form.
fn lines(parts: &[Value]) -> Vec<String> {
    parts
        .iter()
        .filter_map(|part| part["lines"].as_array())
        .flatten()
        .filter_map(|line| line["text"].as_str())
        .map(clean)
        .filter(|line| !line.is_empty())
        .collect()
}

fn unusable(why: &str) -> Failure {
    Failure::transient(format!("azure-vision: unusable answer: {why}")).by(Provider::AzureVision)
}
