//! The variables of the handlers: providers and media.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jobs::{
    MediaSettings, OpenAiSettings, Settings, SpeechSettings, VisionApi, VisionSettings,
    providers::models::{ModelSuccessor, ModelTable, ReasoningEffort},
};
use secrecy::SecretString;

use super::{EnvReader, HOUR, MINUTE, endpoints, vars};

/// Reads the settings of the handlers. Errors go into `env`.
pub(super) fn read(env: &mut EnvReader<'_>) -> Settings {
    let poll_interval = env.duration(&vars::AZURE_VISION_POLL, Duration::from_millis(10), MINUTE);
    let openai = OpenAiSettings {
        base_url: env.endpoint(&vars::OPENAI_BASE_URL, endpoints::openai),
        key: SecretString::default(),
        model: env.parse(&vars::OPENAI_MODEL, |text| Ok(text.to_owned())),
        reasoning: env.parse(&vars::OPENAI_REASONING_EFFORT, |text| match text {
            "lowest" => Ok(ReasoningEffort::Lowest),
            "provider-default" => Ok(ReasoningEffort::ProviderDefault),
            name => ReasoningEffort::given(name).ok_or_else(|| {
                "lowest, provider-default, none, minimal, low, medium, high, xhigh or max".to_owned()
            }),
        }),
        successor: env.parse(&vars::OPENAI_MODEL_SUCCESSOR, |text| {
            Ok(match text {
                "recommended" => ModelSuccessor::Recommended,
                "none" => ModelSuccessor::None,
                name => ModelSuccessor::Model(name.to_owned()),
            })
        }),
        models: env
            .optional(&vars::MODELS_FILE, |path| {
                let text =
                    std::fs::read_to_string(path).map_err(|error| format!("a readable file: {error}"))?;
                let table =
                    ModelTable::parse(&text).map_err(|error| format!("a table of models: {error}"))?;
                Ok(Arc::new(table))
            })
            .unwrap_or_else(ModelTable::built_in),
        timeout: env.duration(&vars::OPENAI_TIMEOUT, Duration::from_millis(100), HOUR),
        idle_timeout: env.duration(&vars::OPENAI_IDLE_TIMEOUT, Duration::from_millis(100), HOUR),
    };
    let region = env.optional(&vars::AZURE_SPEECH_REGION, endpoints::speech_in);
    let speech_endpoint = env
        .optional_endpoint(&vars::AZURE_SPEECH_ENDPOINT, endpoints::speech)
        .or(region);
    let speech_timeout = env.duration(&vars::AZURE_SPEECH_TIMEOUT, Duration::from_millis(100), HOUR);
    let vision_endpoint = env.optional_endpoint(&vars::AZURE_VISION_ENDPOINT, endpoints::vision);
    let vision_timeout = env.duration(&vars::AZURE_VISION_TIMEOUT, Duration::from_millis(100), HOUR);
    let api = env.parse(&vars::AZURE_VISION_API, |text| match text {
        "4.0" => Ok(VisionApi::ImageAnalysis40),
        "3.2" => Ok(VisionApi::Read32),
        _ => Err("4.0 or 3.2".to_owned()),
    });
    Settings {
        openai: env
            .secret(&vars::OPENAI_API_KEY)
            .map(|key| OpenAiSettings { key, ..openai }),
        speech: env
            .secret(&vars::AZURE_SPEECH_KEY)
            .and_then(|key| match speech_endpoint {
                Some(endpoint) => Some(SpeechSettings {
                    endpoint,
                    key,
                    timeout: speech_timeout,
                }),
                None => env.complain(
                    &vars::AZURE_SPEECH_REGION,
                    "must be set (or AZURE_SPEECH_ENDPOINT): AZURE_SPEECH_KEY is",
                ),
            }),
        vision: env
            .secret(&vars::AZURE_VISION_KEY)
            .and_then(|key| match vision_endpoint {
                Some(endpoint) => Some(VisionSettings {
                    endpoint,
                    key,
                    api,
                    timeout: vision_timeout,
                    poll_interval,
                }),
                None => env.complain(&vars::AZURE_VISION_ENDPOINT, "must be set: AZURE_VISION_KEY is"),
            }),
        media: MediaSettings {
            uploads_dir: env.optional(&vars::UPLOADS_DIR, |text| Ok(PathBuf::from(text))),
            allowed_hosts: env.parse(&vars::MEDIA_ALLOWED_HOSTS, |text| {
                Ok(text
                    .split(',')
                    .map(str::trim)
                    .filter(|h| !h.is_empty())
                    .map(str::to_owned)
                    .collect())
            }),
            max_bytes: env.number(&vars::MEDIA_MAX_BYTES, 1..=1_000_000_000),
            timeout: env.duration(&vars::MEDIA_TIMEOUT, Duration::from_millis(100), HOUR),
        },
    }
}
