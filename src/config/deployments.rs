//! The variables of the language model's further deployments, whose names the operator chooses.

use std::{num::NonZeroU32, time::Duration};

use jobs::{ChatApi, OpenAiSettings};

use super::{
    EnvReader, HOUR, endpoints,
    vars::{self, DefaultValue, EnvVar},
};
use crate::gate::{BreakerSettings, DEPLOYMENT_PREFIX, GateSettings, GatesSettings, LimitSettings};

/// Most deployments.
const MOST: usize = 8;

/// The names of all deployments, the first one's first.
pub(super) fn names(env: &mut EnvReader<'_>) -> Vec<String> {
    env.parse(&vars::LLM_DEPLOYMENTS, |text| {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_lowercase()).collect();
        let is_name = |name: &String| {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=32).contains(&name.len()) && name.bytes().all(is_plain)
        };
        let is_twice = |(n, name): (usize, &String)| names[..n].contains(name);
        match names.len() <= MOST && names.iter().all(is_name) && !names.iter().enumerate().any(is_twice) {
            true => Ok(names),
            false => Err(format!(
                "up to {MOST} different names of letters, digits and hyphens, separated by commas"
            )),
        }
    })
}

/// A variable of one deployment. The names live as long as the process: it reads its configuration once.
fn var(name: &str, suffix: &str, default: Option<String>, secret: bool) -> EnvVar {
    let name = name.to_uppercase().replace('-', "_");
    EnvVar {
        name: format!("LLM_{name}_{suffix}").leak(),
        default: default.map_or(DefaultValue::None, |text| DefaultValue::Value(text.leak())),
        about: "",
        secret,
    }
}

/// The interface of the first deployment.
pub(super) fn api(env: &mut EnvReader<'_>, api: &EnvVar, version: &EnvVar) -> ChatApi {
    let version = env.parse(version, |text| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        match text.bytes().all(is_plain) {
            true => Ok(text.to_owned()),
            false => Err("a version such as 2024-10-21".to_owned()),
        }
    });
    env.parse(api, |text| match text {
        "openai" | "compatible" => Ok(ChatApi::OpenAi),
        "azure" => Ok(ChatApi::AzureClassic {
            version: version.clone(),
        }),
        _ => Err("openai, compatible or azure".to_owned()),
    })
}

/// The settings of the deployments behind the first. A missing setting is a fault of its variable.
pub(super) fn fallbacks(
    env: &mut EnvReader<'_>,
    names: &[String],
    first: &OpenAiSettings,
) -> Vec<OpenAiSettings> {
    let mut all = Vec::new();
    for name in names.iter().skip(1) {
        let version = match &first.api {
            ChatApi::AzureClassic { version } => version.clone(),
            ChatApi::OpenAi => "2024-10-21".to_owned(),
        };
        let api = api(
            env,
            &var(name, "API", Some("openai".to_owned()), false),
            &var(name, "API_VERSION", Some(version), false),
        );
        let map = match api {
            ChatApi::OpenAi => endpoints::openai,
            ChatApi::AzureClassic { .. } => endpoints::azure_classic,
        };
        let (base, key) = (
            var(name, "BASE_URL", None, false),
            var(name, "API_KEY", None, true),
        );
        let (base_url, secret) = (env.optional_endpoint(&base, map), env.secret(&key));
        let model = env.parse(&var(name, "MODEL", Some(first.model.clone()), false), |text| {
            Ok(text.to_owned())
        });
        for (is_set, var) in [(env.is_set(&base), &base), (env.is_set(&key), &key)] {
            if !is_set {
                env.complain::<()>(var, "is missing: LLM_DEPLOYMENTS names the deployment");
            }
        }
        if let (Some(base_url), Some(key)) = (base_url, secret) {
            all.push(OpenAiSettings {
                name: name.clone(),
                api,
                base_url,
                key,
                model,
                ..first.clone()
            });
        }
    }
    all
}

/// The gates of the deployments behind the first, with a breaker of the same numbers, and how calls are spread.
pub(super) fn gates(env: &mut EnvReader<'_>, names: &[String], settings: &mut GatesSettings) {
    settings.fallback_after = env.duration(&vars::LLM_FALLBACK_AFTER, Duration::ZERO, HOUR);
    let is_weighted = env.parse(&vars::LLM_STRATEGY, |text| match text {
        "ordered" => Ok(false),
        "weighted" => Ok(true),
        _ => Err("ordered or weighted".to_owned()),
    });
    let first = settings.openai.limits;
    for name in names.iter().skip(1) {
        let mut limit = |suffix: &str, of_first: Option<NonZeroU32>| {
            let default = of_first.map_or(0, NonZeroU32::get).to_string();
            NonZeroU32::new(env.number(&var(name, suffix, Some(default), false), 0..=1_000_000_000))
        };
        let limits = LimitSettings {
            requests_per_minute: limit("RATE_LIMIT_RPM", first.requests_per_minute),
            tokens_per_minute: limit("RATE_LIMIT_TPM", first.tokens_per_minute),
            max_concurrent: limit("MAX_CONCURRENT", first.max_concurrent),
        };
        let breaker: BreakerSettings = settings
            .openai
            .breaker
            .clone()
            .named(format!("{DEPLOYMENT_PREFIX}{name}"));
        settings.fallbacks.push(GateSettings { breaker, limits });
    }
    let weights = names
        .iter()
        .map(|name| env.number(&var(name, "WEIGHT", Some("1".to_owned()), false), 0..=1000));
    let weights: Vec<u32> = weights.collect();
    if is_weighted {
        settings.weights = weights;
    }
}
