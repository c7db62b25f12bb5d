//! The one list of job types and providers, and [`Jobs`], which runs a job by its type.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    ClientError, Failure, Guard, MemoryBudget, Settings,
    assess_pronunciation::{self, AssessPronunciation},
    generate_flashcards::{self, GenerateFlashcards},
    media::{Media, decoder::AudioDecoder},
    payload::{payload_text, without_values},
    process_image::{self, ProcessImage},
    providers::{Clients, DialectStore},
    text::beginning,
};

/// Of an unknown type's name, so many characters are shown: it comes from outside.
const LONGEST_NAME: usize = 100;

/// The types of job that the worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobType {
    /// Flashcards from a text, by a language model.
    GenerateFlashcards,
    /// A score for a spoken sentence.
    AssessPronunciation,
    /// The text in up to five images.
    ProcessImage,
}

/// The job's type is none that this worker knows: the beginning of its name. Its text is what the web API has always
/// shown.
#[derive(Debug, thiserror::Error)]
#[error("Unknown job type: {0}")]
pub struct UnknownJobType(pub String);

impl JobType {
    /// Every type, in the order of the documentation.
    pub const ALL: [Self; 3] = [
        Self::GenerateFlashcards,
        Self::AssessPronunciation,
        Self::ProcessImage,
    ];

    /// The name under which producers enqueue it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GenerateFlashcards => "generate-flashcards",
            Self::AssessPronunciation => "assess-pronunciation",
            Self::ProcessImage => "process-image",
        }
    }

    /// The queue that takes it unless the producer says otherwise.
    pub const fn default_queue(self) -> &'static str {
        match self {
            Self::GenerateFlashcards => "ai-jobs",
            Self::AssessPronunciation => "audio-jobs",
            Self::ProcessImage => "vision-jobs",
        }
    }

    /// Returns true if `result` is a whole result of this type, which may be given to equal jobs too. One that lacks images
    /// for a passing reason is not.
    pub fn is_reusable(self, result: &Value) -> bool {
        let is_success = result["success"] == true;
        match self {
            Self::GenerateFlashcards => {
                let cards = result["flashcards"].as_array();
                let is_card = |card: &Value| card["front"].is_string() && card["back"].is_string();
                is_success && cards.is_some_and(|cards| !cards.is_empty() && cards.iter().all(is_card))
            }
            Self::AssessPronunciation => is_success && result["result"]["words"].is_array(),
            Self::ProcessImage => {
                let (read, all) = (
                    &result["result"]["imagesProcessed"],
                    &result["result"]["totalImages"],
                );
                is_success && result["result"]["text"].is_string() && read.is_u64() && read == all
            }
        }
    }

    /// The provider that it pays.
    pub const fn provider(self) -> Provider {
        match self {
            Self::GenerateFlashcards => Provider::OpenAi,
            Self::AssessPronunciation => Provider::AzureSpeech,
            Self::ProcessImage => Provider::AzureVision,
        }
    }
}

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

/// A paid service. The worker keeps separate limits for each provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::AzureSpeech, Self::AzureVision];

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
    flashcards: GenerateFlashcards,
    pronunciation: AssessPronunciation,
    image: ProcessImage,
}

impl Jobs {
    /// Builds the handlers and their HTTP clients. Opens no connection. Recordings are decoded by `decoder`; media take room of
    /// `memory`.
    ///
    /// # Errors
    /// When an HTTP client cannot be built (no TLS roots, say).
    pub fn new(
        settings: &Settings,
        decoder: Arc<dyn AudioDecoder>,
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
        decoder: Arc<dyn AudioDecoder>,
        memory: MemoryBudget,
        store: Option<Arc<dyn DialectStore>>,
    ) -> Result<Self, ClientError> {
        let clients = Clients::new(settings, store)?;
        let media = Media::new(&settings.media, memory)?;
        Ok(Self {
            flashcards: GenerateFlashcards::new(clients.openai),
            pronunciation: AssessPronunciation::new(clients.speech, media.clone(), decoder),
            image: ProcessImage::new(clients.vision, media),
        })
    }

    /// Runs one job to its result, as JSON. The payload is dropped as soon as its media are loaded.
    ///
    /// # Errors
    /// [`Class::Permanent`](crate::Class::Permanent) naming the field for a payload that does not fit its type;
    /// else what the handler or its guard says.
    pub async fn run(&self, kind: JobType, payload: Bytes, guard: &dyn Guard) -> Result<Value, Failure> {
        match kind {
            JobType::GenerateFlashcards => to_json(self.flashcards.run(decode(&payload)?, guard).await?),
            JobType::AssessPronunciation => {
                let mut decoded: assess_pronunciation::Payload = decode(&payload)?;
                decoded.held = Some(payload);
                to_json(self.pronunciation.run(decoded, guard).await?)
            }
            JobType::ProcessImage => {
                let mut decoded: process_image::Payload = decode(&payload)?;
                decoded.held = Some(payload);
                to_json(self.image.run(decoded, guard).await?)
            }
        }
    }

    /// Checks a payload without running it, for intakes: the errors are those of [`Jobs::run`].
    ///
    /// # Errors
    /// [`Class::Permanent`](crate::Class::Permanent), naming the field.
    pub fn validate(kind: JobType, payload: &[u8]) -> Result<(), Failure> {
        match kind {
            JobType::GenerateFlashcards => decode::<generate_flashcards::Payload>(payload)?.validate(),
            JobType::AssessPronunciation => decode::<assess_pronunciation::Payload>(payload)?.validate(),
            JobType::ProcessImage => decode::<process_image::Payload>(payload)?.validate(),
        }
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Failure> {
    let text = payload_text(payload)?;
    let mut json = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = beginning(&error.path().to_string(), LONGEST_NAME);
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

fn to_json<T: Serialize>(result: T) -> Result<Value, Failure> {
    serde_json::to_value(result)
        .map_err(|e| Failure::permanent("result cannot be written as JSON").caused_by(e))
}

#[cfg(test)]
mod tests;
