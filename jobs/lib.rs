//! The work of backend-worker: the job types, and the protocol of each provider. This crate knows no Redis and no
//! apalis; the crate `backend-worker` queues, retries, limits and reports jobs.
//!
//! # Layout
//! - [`generate_flashcards`], [`assess_pronunciation`], [`process_image`]: one file a type, with its payload, its
//!   result and its handler.
//! - [`Job`]: the interface of a type. [`Jobs`]: the registry that runs a job by its [`JobType`].
//! - [`failure`]: [`Failure`] and its [`FailureClass`], the one verdict that retry and gate both read.
//! - [`context`]: [`ProviderGuard`], through which a handler makes its paid calls.
//! - [`chat`]: questions to a language model that are answered in JSON.
//! - [`media`]: bytes from base64, https or the uploads folder; audio to 16 kHz mono.
//! - [`MemoryBudget`]: bounds what all jobs hold in memory together.
//! - [`redaction`]: removes secrets from texts.
//! - [`providers`]: protocol and classification, one attempt each.

pub mod assess_pronunciation;
pub mod chat;
mod chat_answer;
pub mod context;
mod failed_reason;
pub mod failure;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/jobs.rs"]
pub mod fuzzing;
pub mod generate_flashcards;
pub mod http_client;
mod job;
pub mod media;
mod memory;
mod payload;
pub mod process_image;
pub mod providers;
mod raw;
pub mod redaction;
mod registry;
mod settings;
#[cfg(test)]
mod testing;
mod text;
mod usage;

pub use context::{
    CallAttempt, CalledService, DEPLOYMENT, FLEX, FlexTerms, ProviderCall, ProviderGuard, ProviderReply,
    TRACEPARENT,
};
pub use failed_reason::{LOST, failed_reason, student_sentence};
pub use failure::{AccountFault, Culprit, Failure, FailureClass};
pub use http_client::ClientError;
pub use job::{Job, JobResources, JobSchemas};
pub use memory::{MemoryBudget, MemoryReservation, apart};
pub use payload::{payload_text, without_values};
pub use registry::{JobType, Jobs, Provider, UnknownJobType};
pub use settings::{
    ChatApi, MediaSettings, OpenAiSettings, Settings, SpeechSettings, VisionApi, VisionSettings,
};
pub use usage::{CallUsage, JobCost};
