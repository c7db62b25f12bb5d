//! One image through the provider, to its lines of text.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    CallUsage, Failure, FailureClass, Provider, ProviderCall, ProviderGuard, ProviderReply, VisionApi,
    context::{self, UnusableAnswer},
    providers::azure_vision::{EXPIRED, RETRY_AFTER_MS, operation_failure},
    raw,
    text::clean,
};

/// Time limit of one attempt at an operation. The job's next attempt continues to poll the operation where the ledger
/// stores replies, and submits the image again where it does not.
const LONGEST_OPERATION: Duration = Duration::from_secs(120);

/// So many polls in a row may say that the operation is not known: the service needs a moment until all of it knows an
/// operation that it has just accepted. Each submit is paid, a poll is not.
const MOST_UNKNOWN: u32 = 10;

/// Longest pause between two polls that the service can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An image that the service takes.
#[derive(Clone)]
pub(super) struct CheckedImage {
    pub(super) bytes: Bytes,
    /// Pages, each of which is billed.
    pub(super) pages: u64,
}

/// One request to the provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RecognitionRequest {
    /// Image Analysis 4.0.
    Analyze(Bytes),
    /// Read 3.2 and Document Intelligence: starts an operation, and is paid.
    Submit(Bytes),
    /// Asks for the state of the operation.
    Poll(String),
}

/// How images are read in one job.
pub(super) struct Recogniser<'a> {
    pub(super) guard: &'a dyn ProviderGuard,
    /// Sends one request.
    pub(super) ask:
        &'a (dyn Fn(RecognitionRequest) -> BoxFuture<'a, Result<ProviderReply, Failure>> + Send + Sync + 'a),
    pub(super) api: VisionApi,
    /// Shortest pause between two polls.
    pub(super) poll_interval: Duration,
}

impl Recogniser<'_> {
    /// The lines of the image with this number.
    pub(super) async fn lines(&self, number: usize, image: CheckedImage) -> Result<Vec<String>, Failure> {
        match self.api {
            VisionApi::ImageAnalysis40 => {
                let image = image.bytes;
                let call = ProviderCall::new(Provider::AzureVision, format!("image:{number}"))
                    .estimating(CallUsage::image());
                self.call(&call, &|| RecognitionRequest::Analyze(image.clone()), &analyzed)
                    .await
            }
            VisionApi::Read32 | VisionApi::DocumentIntelligence => self.read(number, &image).await,
        }
    }

    /// Reads an image by an operation. One that ends without text, for a reason that need not be the image's, is
    /// not asked again, as its end is final: the image is submitted once more, and no more than that, for each
    /// submit is paid.
    async fn read(&self, number: usize, image: &CheckedImage) -> Result<Vec<String>, Failure> {
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
        image: &CheckedImage,
        limit: Duration,
    ) -> Result<RecognitionEnd, Failure> {
        let submit = ProviderCall::new(Provider::AzureVision, format!("image:{number}:submit{round}"))
            .estimating(self.usage(image));
        let (operation, wait) = self
            .call(
                &submit,
                &|| RecognitionRequest::Submit(image.bytes.clone()),
                &|body| Ok((submitted(body)?, asked_wait(body))),
            )
            .await?;

        let poll = ProviderCall::new(Provider::AzureVision, format!("image:{number}:poll{round}")).unpaid();
        let deadline = Instant::now() + limit;
        let mut unknown = 0;
        // A poll counts against the provider's limits: where the service says when to ask, none comes earlier.
        sleep(wait.unwrap_or_default()).await;
        loop {
            let (state, wait) = self
                .call(&poll, &|| RecognitionRequest::Poll(operation.clone()), &|body| {
                    Ok((polled(body)?, asked_wait(body)))
                })
                .await?;
            match state {
                OperationState::Ended(end) => return Ok(end),
                OperationState::Unknown if unknown + 1 == MOST_UNKNOWN => {
                    return Ok(Err(unusable("the operation is not known, or not any more")));
                }
                OperationState::Unknown => unknown += 1,
                OperationState::Running => unknown = 0,
            }
            let pause = wait.map_or(self.poll_interval, |wait| wait.max(self.poll_interval));
            if Instant::now() + pause > deadline {
                break;
            }
            sleep(pause).await;
        }
        let message = format!(
            "azure-vision: image {number} was not read within {} s",
            limit.as_secs()
        );
        Err(Failure::transient(message).by(Provider::AzureVision))
    }

    /// Usage of one submit. Only Document Intelligence has a price of its own.
    fn usage(&self, image: &CheckedImage) -> CallUsage {
        let usage = CallUsage::pages(image.pages);
        match self.api {
            VisionApi::DocumentIntelligence => usage.of_model(self.api.service()),
            _ => usage,
        }
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

/// The wait that the service asks for before the next poll.
fn asked_wait(body: &Value) -> Option<Duration> {
    let wait = Duration::from_millis(body[RETRY_AFTER_MS].as_u64()?);
    Some(wait.min(LONGEST_PAUSE))
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
    Ok(lines(blocks, "text"))
}

/// The operation's id.
pub(super) fn submitted(body: &Value) -> Result<String, Failure> {
    body["operationId"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| unusable("no operation id"))
}

/// Parses the state of an operation of Read 3.2 or Document Intelligence.
pub(super) fn polled(body: &Value) -> Result<OperationState, Failure> {
    match body["status"].as_str() {
        Some("notStarted" | "running") => Ok(OperationState::Running),
        Some("succeeded") => {
            let result = &body["analyzeResult"];
            let end = match (result["readResults"].as_array(), result["pages"].as_array()) {
                (Some(pages), _) => Ok(lines(pages, "text")),
                (None, Some(pages)) => Ok(lines(pages, "content")),
                (None, None) => Err(unusable(
                    "neither analyzeResult.readResults nor analyzeResult.pages",
                )),
            };
            Ok(OperationState::Ended(end))
        }
        Some("failed" | "canceled") => Ok(OperationState::Ended(Err(operation_failure(body)))),
        Some(EXPIRED) => Ok(OperationState::Unknown),
        _ => Err(unusable("no known status")),
    }
}

/// The lines of all blocks or pages, which have the same form; `field` holds the text of a line.
fn lines(parts: &[Value], field: &str) -> Vec<String> {
    parts
        .iter()
        .filter_map(|part| part["lines"].as_array())
        .flatten()
        .filter_map(|line| line[field].as_str())
        .map(clean)
        .filter(|line| !line.is_empty())
        .collect()
}

fn unusable(why: &str) -> Failure {
    Failure::transient(format!("azure-vision: unusable answer: {why}")).by(Provider::AzureVision)
}
