//! The interface of a job type: everything that differs between two types is an item of [`Job`].
//!
//! A job type is one file that implements [`Job`], and one line of `register!` in `registry.rs`. The command line, the
//! HTTP intake, the JSON Schemas, the demo, the metrics and the default queues follow. `docs/adding-a-job-type.md` goes
//! through it step by step.

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Failure, Provider, ProviderGuard,
    media::{Media, decoder::MediaDecoder},
    payload::{payload_text, without_values},
    providers::Clients,
    text::beginning,
};

/// Longest name of a field that a refusal shows, characters: it comes from outside.
const LONGEST_FIELD_NAME: usize = 100;

/// The clients and stores that handlers are built from. Clones share their connections.
#[derive(Debug, Clone)]
pub struct JobResources {
    /// The providers that are configured.
    pub clients: Clients,
    /// Loads media from base64, https and the uploads folder.
    pub media: Media,
    /// Decodes recordings.
    pub decoder: Arc<dyn MediaDecoder>,
}

/// A type of job.
pub trait Job: Sized + Send + Sync + fmt::Debug + 'static {
    /// The name under which producers enqueue it, in kebab case.
    const NAME: &'static str;
    /// The queue that takes it unless the producer says otherwise. Types can share a queue.
    const QUEUE: &'static str;
    /// The provider that it pays.
    const PROVIDER: Provider;
    /// One sentence for the student whose job failed for good, with a full stop. It names no provider and no
    /// technical term.
    const FAILURE_SENTENCE: &'static str;

    /// The job's input, as producers write it.
    type Payload: DeserializeOwned + JsonSchema + Send;
    /// The job's result, as the web API hands it to the app. The worker sets `usage.costUsd`.
    type Output: Serialize + JsonSchema;

    /// Builds the handler. Opens no connection. A provider that is not configured fails the jobs, not the start.
    fn new(resources: &JobResources) -> Self;

    /// Checks a payload's rules that its types cannot express, for intakes and before the job runs.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`](crate::FailureClass::Permanent), naming the field and what is wrong with it.
    fn validate(payload: &Self::Payload) -> Result<(), Failure>;

    /// Takes the text that the payload was decoded from. A type with large payloads keeps it inside of the payload:
    /// the text counts as memory in use until it is dropped.
    fn keep_source(_payload: &mut Self::Payload, _source: Bytes) {}

    /// Runs one job. Every call to a provider goes through `guard`.
    ///
    /// # Errors
    /// A [`Failure`], whose class decides about retry, breaker and queue. Failures of the guard are passed on
    /// unchanged.
    fn run(
        &self,
        payload: Self::Payload,
        guard: &dyn ProviderGuard,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// Returns true if `result` is a whole result of this type, which may be given to equal jobs too: one that lacks
    /// a part for a passing reason is not. Results come from Redis, where other programs can write as well.
    fn is_reusable(result: &Value) -> bool {
        result["success"] == true
    }

    /// Valid payloads, at least one: the demo enqueues them, and tests decode them.
    fn samples() -> Vec<Value>;
}

/// A handler whose type is not known at compile time.
pub(crate) trait AnyJob: Send + Sync + fmt::Debug {
    fn run<'a>(
        &'a self,
        payload: Bytes,
        guard: &'a dyn ProviderGuard,
    ) -> BoxFuture<'a, Result<Value, Failure>>;
}

impl<J: Job> AnyJob for J {
    fn run<'a>(
        &'a self,
        payload: Bytes,
        guard: &'a dyn ProviderGuard,
    ) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(async move {
            let mut decoded: J::Payload = decode(&payload)?;
            J::keep_source(&mut decoded, payload);
            let output = Job::run(self, decoded, guard).await?;
            serde_json::to_value(output)
                .map_err(|error| Failure::permanent("result cannot be written as JSON").caused_by(error))
        })
    }
}

/// Checks a payload without running it.
pub(crate) fn validate<J: Job>(payload: &[u8]) -> Result<(), Failure> {
    J::validate(&decode(payload)?)
}

/// The JSON Schemas of a job type.
#[derive(Debug, Clone)]
pub struct JobSchemas {
    /// Of its payload, as producers write it.
    pub payload: Schema,
    /// Of its result, as readers get it.
    pub result: Schema,
}

pub(crate) fn schemas<J: Job>() -> JobSchemas {
    let settings = SchemaSettings::draft2020_12();
    JobSchemas {
        payload: settings
            .clone()
            .for_deserialize()
            .into_generator()
            .into_root_schema_for::<J::Payload>(),
        result: settings
            .for_serialize()
            .into_generator()
            .into_root_schema_for::<J::Output>(),
    }
}

pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Failure> {
    let text = payload_text(payload)?;
    let mut json = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = beginning(&error.path().to_string(), LONGEST_FIELD_NAME);
        match error.inner().classify() {
            serde_json::error::Category::Data => Failure::invalid_field(field, without_values(error.inner())),
            _ => not_json(&field, error.inner()),
        }
    })?;
    json.end().map_err(|error| not_json(".", &error))?;
    Ok(value)
}

/// `field` is where the parser gave up, as a path; `.` is the payload itself.
fn not_json(field: &str, error: &serde_json::Error) -> Failure {
    let message = match field {
        "." | "?" => "payload is not JSON".to_owned(),
        field => format!("payload is not JSON: it cannot be read at its field \"{field}\""),
    };
    Failure::permanent(message).caused_by(without_values(error))
}
