//! The one list of job types and providers, and [`Jobs`], which runs a job by its type.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;
use strum::{EnumCount, VariantArray};

use crate::{
    ClientError, Failure, MemoryBudget, ProviderGuard, Settings,
    assess_pronunciation::AssessPronunciation,
    generate_flashcards::GenerateFlashcards,
    job::{self, AnyJob, Job, JobResources, JobSchemas},
    media::{Media, decoder::MediaDecoder},
    process_image::ProcessImage,
    providers::{Clients, DialectStore, OpenAi},
    text::beginning,
};

/// Of an unknown type's name, so many characters are shown: it comes from outside.
const LONGEST_NAME: usize = 100;

/// Lists the job types: each is a type that implements [`Job`].
macro_rules! register {
    ($($job:ident),+ $(,)?) => {
        /// The types of job that the worker knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum JobType {
            $(#[doc = concat!("[`", stringify!($job), "`].")] $job,)+
        }

        impl JobType {
            /// Every type, in the order of the documentation.
            pub const ALL: [Self; [$(stringify!($job)),+].len()] = [$(Self::$job),+];

            /// The name under which producers enqueue it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$job => <$job as Job>::NAME,)+ }
            }

            /// The queue that takes it unless the producer says otherwise.
            pub const fn default_queue(self) -> &'static str {
                match self { $(Self::$job => <$job as Job>::QUEUE,)+ }
            }

            /// The provider that it pays.
            pub const fn provider(self) -> Provider {
                match self { $(Self::$job => <$job as Job>::PROVIDER,)+ }
            }

            /// The sentence for the student whose job of this type failed for good.
            pub const fn failure_sentence(self) -> &'static str {
                match self { $(Self::$job => <$job as Job>::FAILURE_SENTENCE,)+ }
            }

            /// Returns true if `result` is a whole result of this type, which may be given to equal jobs too.
            pub fn is_reusable(self, result: &Value) -> bool {
                match self { $(Self::$job => <$job as Job>::is_reusable(result),)+ }
            }

            /// Valid payloads of this type, at least one.
            pub fn samples(self) -> Vec<Value> {
                match self { $(Self::$job => <$job as Job>::samples(),)+ }
            }

            /// The JSON Schemas of its payload and its result.
            pub fn schemas(self) -> JobSchemas {
                match self { $(Self::$job => job::schemas::<$job>(),)+ }
            }
        }

        fn validate(kind: JobType, payload: &[u8]) -> Result<(), Failure> {
            match kind { $(JobType::$job => job::validate::<$job>(payload),)+ }
        }

        /// The handlers, in the order of [`JobType::ALL`].
        fn handlers(resources: &JobResources) -> [Arc<dyn AnyJob>; JobType::ALL.len()] {
            [$(Arc::new(<$job as Job>::new(resources))),+]
        }
    };
}

// To add a job type, add its line here. Metrics and the ledger go by the names: a name that was released does not
// change.
register! {
    GenerateFlashcards,
    AssessPronunciation,
    ProcessImage,
}

/// The job's type is none that this worker knows: the beginning of its name. Its text is what the web API has always
/// shown.
#[derive(Debug, thiserror::Error)]
#[error("Unknown job type: {0}")]
pub struct UnknownJobType(pub String);

impl fmt::Display for JobType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobType {
    type Err = UnknownJobType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|t| t.as_str() == name)
            .ok_or_else(|| UnknownJobType(beginning(name, LONGEST_NAME)))
    }
}

impl Serialize for JobType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for JobType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// A paid service. The worker keeps separate limits for each provider.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, EnumCount, VariantArray,
)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// OpenAI chat completions.
    #[serde(rename = "openai")]
    OpenAi,
    /// Azure Speech.
    AzureSpeech,
    /// Azure Vision.
    AzureVision,
}

impl Provider {
    /// Every provider.
    #[allow(clippy::expect_used, reason = "the compiler evaluates it")]
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().expect("there are as many");

    /// Its name in keys, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::AzureSpeech => "azure-speech",
            Self::AzureVision => "azure-vision",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All handlers, ready to run.
#[derive(Debug, Clone)]
pub struct Jobs {
    handlers: [Arc<dyn AnyJob>; JobType::ALL.len()],
    language_model: Option<OpenAi>,
}

impl Jobs {
    /// Builds the handlers and their HTTP clients. Opens no connection. Recordings are decoded by `decoder`; media
    /// take room of `memory`.
    ///
    /// # Errors
    /// When an HTTP client cannot be built (no TLS roots, say).
    pub fn new(
        settings: &Settings,
        decoder: Arc<dyn MediaDecoder>,
        memory: MemoryBudget,
    ) -> Result<Self, ClientError> {
        Self::with_store(settings, decoder, memory, None)
    }

    /// The same, for replicas that share what they learn of a provider in `store`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_store(
        settings: &Settings,
        decoder: Arc<dyn MediaDecoder>,
        memory: MemoryBudget,
        store: Option<Arc<dyn DialectStore>>,
    ) -> Result<Self, ClientError> {
        let resources = JobResources {
            clients: Clients::new(settings, store)?,
            media: Media::new(&settings.media, memory)?,
            decoder,
        };
        Ok(Self {
            handlers: handlers(&resources),
            language_model: resources.clients.openai,
        })
    }

    /// The client of the language model, which knows what its deployments are asked; `None` where none is configured.
    pub const fn language_model(&self) -> Option<&OpenAi> {
        self.language_model.as_ref()
    }

    /// Runs one job to its result, as JSON. The payload is dropped as soon as its media are loaded.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`](crate::FailureClass::Permanent) naming the field for a payload that does not fit
    /// its type; else what the handler or its guard says.
    pub async fn run(
        &self,
        kind: JobType,
        payload: Bytes,
        guard: &dyn ProviderGuard,
    ) -> Result<Value, Failure> {
        self.handlers[kind as usize].run(payload, guard).await
    }

    /// Checks a payload without running it, for intakes: the errors are those of [`Jobs::run`].
    ///
    /// # Errors
    /// [`FailureClass::Permanent`](crate::FailureClass::Permanent), naming the field.
    pub fn validate(kind: JobType, payload: &[u8]) -> Result<(), Failure> {
        validate(kind, payload)
    }
}

#[cfg(test)]
mod tests;
