//! The variables of the handlers: providers and media.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jobs::{
    ChatApi, MediaSettings, OpenAiSettings, Settings, SpeechSettings, VisionApi, VisionSettings,
    providers::models::{ModelTable, ReasoningEffort},
};
use secrecy::SecretString;

use super::{EnvReader, HOUR, MINUTE, deployments, endpoints, vars};

/// Reads the settings of the handlers. Errors go into `env`.
pub(super) fn read(env: &mut EnvReader<'_>) -> Settings {
    let models = models(env);
    let names = deployments::names(env);
    let openai = openai(env, models.clone(), &names);
    let key = env.secret(&vars::OPENAI_API_KEY);
    let openai = OpenAiSettings {
        key: key.clone().unwrap_or_default(),
        ..openai
    };
    let fallbacks = deployments::fallbacks(env, &names, &openai);
    if key.is_none() && names.len() > 1 && !env.is_set(&vars::OPENAI_API_KEY) {
        let fault = "is missing: LLM_DEPLOYMENTS names several deployments, and the OPENAI_ variables configure the first \
                     (example: OPENAI_API_KEY=sk-...)";
        env.complain::<()>(&vars::OPENAI_API_KEY, fault);
    }
    Settings {
        fallbacks,
        openai: key.map(|_| openai),
        speech: speech(env),
        vision: vision(env, models),
        media: media(env),
    }
}

/// Reads the table of models and services, and when they shut down.
fn models(env: &mut EnvReader<'_>) -> Arc<ModelTable> {
    env.optional(&vars::MODELS_FILE, |path| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("a readable file: {error}"))?;
        let table = ModelTable::parse(&text).map_err(|error| format!("a table of models: {error}"))?;
        Ok(Arc::new(table))
    })
    .unwrap_or_else(ModelTable::built_in)
}

/// The first deployment of the language model, without its key.
fn openai(env: &mut EnvReader<'_>, models: Arc<ModelTable>, names: &[String]) -> OpenAiSettings {
    let api = deployments::api(env, &vars::OPENAI_API, &vars::OPENAI_API_VERSION);
    let map = match api {
        ChatApi::OpenAi => endpoints::openai,
        ChatApi::AzureClassic { .. } => endpoints::azure_classic,
    };
    OpenAiSettings {
        name: names
            .first()
            .filter(|_| names.len() > 1)
            .cloned()
            .unwrap_or_default(),
        api,
        base_url: env.endpoint(&vars::OPENAI_BASE_URL, map),
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
            Ok(deployments::model_successor(text))
        }),
        models,
        timeout: env.duration(&vars::OPENAI_TIMEOUT, Duration::from_millis(100), HOUR),
        idle_timeout: env.duration(&vars::OPENAI_IDLE_TIMEOUT, Duration::from_millis(100), HOUR),
    }
}

fn speech(env: &mut EnvReader<'_>) -> Option<SpeechSettings> {
    let region = env.optional(&vars::AZURE_SPEECH_REGION, endpoints::speech_in);
    let endpoint = env
        .optional_endpoint(&vars::AZURE_SPEECH_ENDPOINT, endpoints::speech)
        .or(region);
    let timeout = env.duration(&vars::AZURE_SPEECH_TIMEOUT, Duration::from_millis(100), HOUR);
    let key = env.secret(&vars::AZURE_SPEECH_KEY)?;
    match endpoint {
        Some(endpoint) => Some(SpeechSettings {
            endpoint,
            key,
            timeout,
        }),
        None => env.complain(
            &vars::AZURE_SPEECH_REGION,
            "must be set (or AZURE_SPEECH_ENDPOINT): AZURE_SPEECH_KEY is",
        ),
    }
}

fn vision(env: &mut EnvReader<'_>, models: Arc<ModelTable>) -> Option<VisionSettings> {
    let poll_interval = env.duration(&vars::AZURE_VISION_POLL, Duration::from_millis(10), MINUTE);
    let endpoint = env.optional_endpoint(&vars::AZURE_VISION_ENDPOINT, endpoints::vision);
    let timeout = env.duration(&vars::AZURE_VISION_TIMEOUT, Duration::from_millis(100), HOUR);
    let api = env.parse(&vars::AZURE_VISION_API, |text| {
        VisionApi::named(text).ok_or_else(|| "4.0, 3.2 or document-intelligence".to_owned())
    });
    let key = env.secret(&vars::AZURE_VISION_KEY)?;
    match endpoint {
        Some(endpoint) => Some(VisionSettings {
            endpoint,
            key,
            api,
            models,
            timeout,
            poll_interval,
        }),
        None => env.complain(&vars::AZURE_VISION_ENDPOINT, "must be set: AZURE_VISION_KEY is"),
    }
}

fn media(env: &mut EnvReader<'_>) -> MediaSettings {
    MediaSettings {
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
    }
}
