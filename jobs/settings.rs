//! Settings of the deployment for the handlers. The worker's `config`, the only reader of the environment, fills them;
//! every base URL can point to a simulator.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;
use url::Url;

use crate::{
    media::DisplayUrl,
    providers::models::{ModelSuccessor, ModelTable, ReasoningEffort},
};

/// Settings of all handlers. A provider without settings fails its jobs as a deployment fault that says so.
#[derive(Debug, Clone)]
pub struct Settings {
    /// OpenAI, or `None` without a key: the first deployment of the language model.
    pub openai: Option<OpenAiSettings>,
    /// The deployments that take over from the first, in this order.
    pub fallbacks: Vec<OpenAiSettings>,
    /// Azure Speech, or `None` without a key.
    pub speech: Option<SpeechSettings>,
    /// Azure Vision, or `None` without a key.
    pub vision: Option<VisionSettings>,
    /// Where media may come from, and how much of it.
    pub media: MediaSettings,
}

impl Settings {
    /// The deployments of the language model, the first one's first; none without a key.
    pub fn deployments(&self) -> impl Iterator<Item = &OpenAiSettings> {
        self.openai.iter().chain(&self.fallbacks)
    }
}

/// How a deployment is addressed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ChatApi {
    /// As OpenAI itself: the model in the request, a bearer key.
    #[default]
    OpenAi,
    /// Azure's classic interface: the deployment in the path, an `api-version`, the key in `api-key`.
    AzureClassic {
        /// `api-version`, such as `2024-10-21`.
        version: String,
    },
}

/// OpenAI chat completions.
#[derive(Clone)]
pub struct OpenAiSettings {
    /// Names the deployment; empty where there is only one.
    pub name: String,
    /// How it is addressed.
    pub api: ChatApi,
    /// `https://api.openai.com/v1`, without a trailing slash.
    pub base_url: Url,
    /// Bearer key.
    pub key: SecretString,
    /// Model name, `gpt-6-luna`.
    pub model: String,
    /// How hard the model thinks before it answers.
    pub reasoning: ReasoningEffort,
    /// Which model takes its place when it is gone.
    pub successor: ModelSuccessor,
    /// The known facts about models.
    pub models: Arc<ModelTable>,
    /// Longest time of a call.
    pub timeout: Duration,
    /// Longest silence of the provider in a call, where it takes requests for a stream.
    pub idle_timeout: Duration,
}

impl fmt::Debug for OpenAiSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiSettings")
            .field("name", &self.name)
            .field("api", &self.api)
            .field("base_url", &format_args!("{}", DisplayUrl(&self.base_url)))
            .field("model", &self.model)
            .field("reasoning", &self.reasoning)
            .field("successor", &self.successor)
            .field("timeout", &self.timeout)
            .field("idle_timeout", &self.idle_timeout)
            .finish_non_exhaustive()
    }
}

/// Azure Speech, pronunciation assessment.
#[derive(Clone)]
pub struct SpeechSettings {
    /// `https://{region}.stt.speech.microsoft.com`, or the endpoint of a resource followed by `/stt`.
    pub endpoint: Url,
    /// `Ocp-Apim-Subscription-Key`.
    pub key: SecretString,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

impl fmt::Debug for SpeechSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpeechSettings")
            .field("endpoint", &format_args!("{}", DisplayUrl(&self.endpoint)))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Azure Vision, text recognition.
#[derive(Clone)]
pub struct VisionSettings {
    /// `https://{resource}.cognitiveservices.azure.com`.
    pub endpoint: Url,
    /// `Ocp-Apim-Subscription-Key`.
    pub key: SecretString,
    /// The service that reads the images.
    pub api: VisionApi,
    /// The table with the day on which the service shuts down.
    pub models: Arc<ModelTable>,
    /// Longest wait for an answer of Image Analysis 4.0, and for the submit of an operation.
    pub timeout: Duration,
    /// Shortest pause between two polls of an operation.
    pub poll_interval: Duration,
}

impl fmt::Debug for VisionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VisionSettings")
            .field("endpoint", &format_args!("{}", DisplayUrl(&self.endpoint)))
            .field("api", &self.api)
            .field("timeout", &self.timeout)
            .field("poll_interval", &self.poll_interval)
            .finish_non_exhaustive()
    }
}

/// The services that read text from images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisionApi {
    /// Image Analysis 4.0: one request, one answer.
    ImageAnalysis40,
    /// Read 3.2: submit, then poll.
    Read32,
    /// The model `prebuilt-read` of Document Intelligence: submit, then poll.
    DocumentIntelligence,
}

impl VisionApi {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ImageAnalysis40, Self::Read32, Self::DocumentIntelligence];

    /// The value of `AZURE_VISION_API`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ImageAnalysis40 => "4.0",
            Self::Read32 => "3.2",
            Self::DocumentIntelligence => "document-intelligence",
        }
    }

    /// The service's name in the tables of prices and shutdowns.
    pub const fn service(self) -> &'static str {
        match self {
            Self::ImageAnalysis40 => "image-analysis-4.0",
            Self::Read32 => "read-3.2",
            Self::DocumentIntelligence => "prebuilt-read",
        }
    }

    /// The service that a value of `AZURE_VISION_API` names.
    pub fn named(value: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.as_str() == value)
    }

    /// Returns true if the service bills and reads each page of a file; Image Analysis reads the first one alone.
    pub(crate) const fn reads_pages(self) -> bool {
        !matches!(self, Self::ImageAnalysis40)
    }
}

/// Where media may come from, and how much of it.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// Folder below which `…FilePath` must lie; `None` refuses file paths.
    pub uploads_dir: Option<PathBuf>,
    /// `host` or `host:port` that may be fetched over http and at a private address, for development.
    pub allowed_hosts: Vec<String>,
    /// Largest file, bytes.
    pub max_bytes: u64,
    /// Longest time for one download.
    pub timeout: Duration,
}
