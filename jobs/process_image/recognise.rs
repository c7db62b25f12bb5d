//! One image through the provider, to its lines of text.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{Call, Failure, Guard, Provider, Reply, VisionApi};

/// An operation that is not done by then is left to the job's next attempt, which goes on polling it.
const LONGEST_OPERATION: Duration = Duration::from_secs(120);

/// One request to the provider.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ask {
    /// Image Analysis 4.0.
    Analyze(Bytes),
    /// Read 3.2: starts an operation, and is paid.
    Submit(Bytes),
    /// Read 3.2: asks how the operation stands.
    Poll(String),
}

/// How images are read in one job.
pub(super) struct Recogniser<'a> {
    pub(super) guard: &'a dyn Guard,
    /// Sends one request.
    pub(super) ask: &'a (dyn Fn(Ask) -> BoxFuture<'a, Result<Reply, Failure>> + Send + Sync + 'a),
    pub(super) api: VisionApi,
    /// Pause between two polls.
    pub(super) poll_interval: Duration,
}

impl Recogniser<'_> {
    /// The lines of the image with this number.
    pub(super) async fn lines(&self, number: usize, image: Bytes) -> Result<Vec<String>, Failure> {
        match self.api {
            VisionApi::ImageAnalysis40 => {
                let analyze = || Ask::Analyze(image.clone());
                self.call(format!("image:{number}"), &analyze, &analyzed)
                    .await
                    .map(|(lines, _)| lines)
            }
            VisionApi::Read32 => self.operation(number, image, LONGEST_OPERATION).await,
        }
    }

    /// Submits an image and polls until its lines are there. The submit has a step of its own, so that a later
    /// delivery of the job goes on polling what was paid for.
    pub(super) async fn operation(
        &self,
        number: usize,
        image: Bytes,
        limit: Duration,
    ) -> Result<Vec<String>, Failure> {
        let submit = || Ask::Submit(image.clone());
        let (operation, _) = self
            .call(format!("image:{number}:submit"), &submit, &submitted)
            .await?;

        let poll = || Ask::Poll(operation.clone());
        let deadline = Instant::now() + limit;
        for n in 1_u32.. {
            let (state, sent) = self
                .call(format!("image:{number}:poll:{n}"), &poll, &polled)
                .await?;
            if let State::Done(lines) = state {
                return Ok(lines);
            }
            // An answer that the guard kept from an earlier delivery took no time: the operation is asked anew
            // at once.
            if sent {
                if Instant::now() + self.poll_interval > deadline {
                    break;
                }
                sleep(self.poll_interval).await;
            }
        }
        let message = format!(
            "azure-vision: image {number} was not read within {} s",
            limit.as_secs()
        );
        Err(Failure::transient(message).by(Provider::AzureVision))
    }

    /// Makes one guarded call. Tells what its answer says, and whether it was sent or came from the guard's store.
    async fn call<T>(
        &self,
        step: String,
        question: &(dyn Fn() -> Ask + Sync),
        read: &(dyn Fn(&Value) -> Result<T, Failure> + Sync),
    ) -> Result<(T, bool), Failure> {
        let sent = AtomicBool::new(false);
        let reply = self
            .guard
            .call(&Call::new(Provider::AzureVision, step), &|| {
                Box::pin(async {
                    sent.store(true, Ordering::Relaxed);
                    let reply = (self.ask)(question()).await?;
                    // Read here too, so that an answer nobody can use is tried again like any other stumble.
                    read(&reply.body)?;
                    Ok(reply)
                })
            })
            .await?;
        Ok((read(&reply.body)?, sent.into_inner()))
    }
}

/// How an operation stands.
#[derive(Debug, PartialEq)]
pub(super) enum State {
    Running,
    Done(Vec<String>),
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

/// How an operation of Read 3.2 stands.
pub(super) fn polled(body: &Value) -> Result<State, Failure> {
    match body["status"].as_str() {
        Some("notStarted" | "running") => Ok(State::Running),
        Some("succeeded") => {
            let pages = body["analyzeResult"]["readResults"]
                .as_array()
                .ok_or_else(|| unusable("no analyzeResult.readResults"))?;
            Ok(State::Done(lines(pages)))
        }
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
        .map(str::to_owned)
        .collect()
}

fn unusable(why: &str) -> Failure {
    Failure::transient(format!("azure-vision: unusable answer: {why}")).by(Provider::AzureVision)
}
