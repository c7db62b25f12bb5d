//! The variables of the language model's further deployments, whose names the operator chooses.

use std::{num::NonZeroU32, time::Duration};

use jobs::{CalledService, ChatApi, OpenAiSettings, providers::models::ModelSuccessor};
use secrecy::ExposeSecret;

use super::{
    EnvReader, HOUR, endpoints,
    vars::{self, DefaultValue, EnvVar},
};
use crate::gate::{BreakerSettings, DEPLOYMENT_PREFIX, GateSettings, GatesSettings, LimitSettings};

/// Most deployments.
const MOST: usize = CalledService::MOST_DEPLOYMENTS;

/// The names of all deployments, the first one's first.
pub(super) fn names(env: &mut EnvReader<'_>) -> Vec<String> {
    env.parse(&vars::LLM_DEPLOYMENTS, |text| {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_lowercase()).collect();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if let Some(wrong) = names
            .iter()
            .find(|name| !(1..=32).contains(&name.len()) || !name.bytes().all(is_plain))
        {
            return Err(format!(
                "{:?} is no name of 1 to 32 letters, digits and hyphens; commas separate names",
                wrong.chars().take(40).collect::<String>()
            ));
        }
        if let Some((_, twice)) = (names.iter().enumerate()).find(|(at, name)| names[..*at].contains(name)) {
            return Err(format!("the name {twice} is there twice"));
        }
        match names.len() <= MOST {
            true => Ok(names),
            false => Err(format!(
                "{} names are more than the {MOST} that it can hold",
                names.len()
            )),
        }
    })
}

/// Warnings about variables of deployments that `LLM_DEPLOYMENTS` does not name. `set` are the names of all variables.
pub(super) fn unnamed<'a>(set: impl Iterator<Item = &'a str>, named: Option<&str>) -> Vec<String> {
    let named = named.unwrap_or("primary").to_uppercase().replace('-', "_");
    let mut warnings: Vec<String> = set
        .filter_map(|variable| {
            let rest = variable.strip_prefix("LLM_")?;
            let name = ["_API_KEY", "_BASE_URL", "_MODEL"]
                .iter()
                .find_map(|end| rest.strip_suffix(end))?;
            let around = |c: char| !c.is_ascii_alphanumeric();
            let is_named = named.split(',').any(|known| known.trim_matches(around) == name);
            let name = name.to_lowercase().replace('_', "-");
            (!is_named).then(|| format!("{variable} is ignored: LLM_DEPLOYMENTS names no deployment {name}"))
        })
        .collect();
    warnings.sort_unstable();
    warnings
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
    if let Some(first_name) = names.first() {
        not_of_the_first(env, first_name);
    }
    let mut all: Vec<OpenAiSettings> = Vec::new();
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
        let model_var = var(name, "MODEL", Some(first.model.clone()), false);
        let model = env.parse(&model_var, |text| Ok(text.to_owned()));
        // The successor of another model need not be one of this model.
        let inherited = match (&first.successor, model == first.model) {
            (ModelSuccessor::None, _) => "none",
            (ModelSuccessor::Model(name), true) => name,
            (ModelSuccessor::Model(_) | ModelSuccessor::Recommended, _) => "recommended",
        };
        let successor = var(name, "MODEL_SUCCESSOR", Some(inherited.to_owned()), false);
        let successor = env.parse(&successor, |text| Ok(model_successor(text)));
        for (is_set, var, example) in [
            (
                env.is_set(&base),
                &base,
                "https://name.openai.azure.com/openai/v1",
            ),
            (env.is_set(&key), &key, "sk-..."),
        ] {
            if !is_set {
                let missing = format!(
                    "is missing: LLM_DEPLOYMENTS names the deployment {name} (example: {}={example}; or take {name} out of \
                     LLM_DEPLOYMENTS)",
                    var.name
                );
                env.complain::<()>(var, &missing);
            }
        }
        if let (Some(base_url), Some(key)) = (base_url, secret) {
            let deployment = OpenAiSettings {
                name: name.clone(),
                api,
                base_url,
                key,
                model,
                successor,
                ..first.clone()
            };
            let known = std::iter::once(first).chain(&all);
            refuse_twin(env, known, &deployment, &base);
            all.push(deployment);
        }
    }
    all
}

/// Reports a deployment that asks the same model of the same account as one that is known.
fn refuse_twin<'a>(
    env: &mut EnvReader<'_>,
    mut known: impl Iterator<Item = &'a OpenAiSettings>,
    deployment: &OpenAiSettings,
    base: &EnvVar,
) {
    let Some(same) = known.find(|known| is_same(known, deployment)) else {
        return;
    };
    let name = &deployment.name;
    let fault = format!(
        "is the address of the deployment {} too, with the same key and the model {}: an outage of one is an outage of \
         both, and their limits add up at one account. Give {name} another address, key or model (example: \
         {}=https://name.openai.azure.com/openai/v1), or take it out of LLM_DEPLOYMENTS",
        same.name, deployment.model, base.name
    );
    env.complain::<()>(base, &fault);
}

/// Reads `OPENAI_MODEL_SUCCESSOR`, or that of a further deployment.
pub(super) fn model_successor(text: &str) -> ModelSuccessor {
    match text {
        "recommended" => ModelSuccessor::Recommended,
        "none" => ModelSuccessor::None,
        name => ModelSuccessor::Model(name.to_owned()),
    }
}

/// Returns true if two deployments are one: the same calls, at the same account.
fn is_same(one: &OpenAiSettings, other: &OpenAiSettings) -> bool {
    let address = |settings: &OpenAiSettings| {
        let url = &settings.base_url;
        let path = url.path().trim_end_matches('/').to_owned();
        (
            url.host_str().map(str::to_owned),
            url.port_or_known_default(),
            path,
        )
    };
    address(one) == address(other)
        && one.key.expose_secret() == other.key.expose_secret()
        && one.model.eq_ignore_ascii_case(&other.model)
}

/// Refuses variables that would configure the first deployment by its name: they would be ignored.
fn not_of_the_first(env: &mut EnvReader<'_>, name: &str) {
    for (suffix, meant) in [
        ("BASE_URL", &vars::OPENAI_BASE_URL),
        ("API_KEY", &vars::OPENAI_API_KEY),
        ("MODEL", &vars::OPENAI_MODEL),
        ("MODEL_SUCCESSOR", &vars::OPENAI_MODEL_SUCCESSOR),
        ("API", &vars::OPENAI_API),
        ("API_VERSION", &vars::OPENAI_API_VERSION),
        ("RATE_LIMIT_RPM", &vars::OPENAI_RATE_LIMIT_RPM),
        ("RATE_LIMIT_TPM", &vars::OPENAI_RATE_LIMIT_TPM),
        ("MAX_CONCURRENT", &vars::OPENAI_MAX_CONCURRENT),
    ] {
        let var = var(name, suffix, None, true);
        if env.is_set(&var) {
            let fault = format!(
                "is set, and would be ignored: {name} is the first of LLM_DEPLOYMENTS, which {} configures",
                meant.name
            );
            env.complain::<()>(&var, &fault);
        }
    }
}

/// The gates of the deployments behind the first, with a breaker of the same numbers, and how calls are spread.
pub(super) fn gates(env: &mut EnvReader<'_>, names: &[String], settings: &mut GatesSettings) {
    settings.fallback_after = env.duration(&vars::LLM_FALLBACK_AFTER, Duration::ZERO, HOUR);
    let is_weighted = env.parse(&vars::LLM_STRATEGY, |text| match text {
        "ordered" => Ok(false),
        "weighted" => Ok(true),
        _ => Err("ordered or weighted".to_owned()),
    });
    let is_shared = [&settings.azure_speech, &settings.azure_vision]
        .into_iter()
        .any(|gate| gate.breaker.name() == settings.openai.breaker.name());
    if names.len() > 1 && !is_shared {
        settings.openai.breaker = settings.openai.breaker.clone().beside_others();
    }
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
    if is_weighted && weights.iter().all(|weight| *weight == 0) {
        let first = names.first().map_or("primary", |name| name);
        let fault = format!(
            "is weighted, and every weight is 0: no deployment would be the first choice of a call (example: {}=1)",
            var(first, "WEIGHT", None, false).name
        );
        env.complain::<()>(&vars::LLM_STRATEGY, &fault);
    }
    for (var, breaker) in [
        (&vars::OPENAI_BREAKER, &settings.openai.breaker),
        (&vars::AZURE_SPEECH_BREAKER, &settings.azure_speech.breaker),
        (&vars::AZURE_VISION_BREAKER, &settings.azure_vision.breaker),
    ] {
        let is_own = |gate: &&GateSettings| gate.breaker.name() == breaker.name();
        if settings.fallbacks.iter().any(|gate| is_own(&gate)) {
            let fault = format!(
                "is {:?}, which is the breaker of a deployment in LLM_DEPLOYMENTS: outages of one would stop the other. Name \
                 it otherwise (example: {}=openai)",
                breaker.name(),
                var.name
            );
            env.complain::<()>(var, &fault);
        }
    }
    if is_weighted {
        settings.weights = weights;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::config::Config;

    /// Two deployments that work.
    const TWO: [(&str, &str); 5] = [
        ("OPENAI_API_KEY", "hunter2"),
        ("LLM_DEPLOYMENTS", "primary,spare"),
        ("LLM_SPARE_BASE_URL", "https://name.openai.azure.com/openai/v1"),
        ("LLM_SPARE_API_KEY", "hunter3"),
        ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    ];

    /// Variables that differ from [`TWO`].
    type Changes<'a> = &'a [(&'a str, &'a str)];

    /// Reads these two with changes; an empty value takes a variable away.
    fn read(changes: Changes<'_>) -> Result<Config, String> {
        let mut env: HashMap<&str, &str> = TWO.into_iter().collect();
        env.extend(changes.iter().copied());
        let config = Config::from_lookup(|name| env.get(name).map(|value| (*value).to_owned()));
        config.map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_work_is_refused_by_variable_with_what_was_found_and_an_example() {
        let rows: [(Changes<'_>, &[&str]); 13] = [
            (
                &[("LLM_DEPLOYMENTS", "primary,spare,Spare")],
                &[
                    "LLM_DEPLOYMENTS: ",
                    "the name spare is there twice",
                    "example: LLM_DEPLOYMENTS=primary,azure",
                ],
            ),
            (
                &[("LLM_DEPLOYMENTS", "primary,,spare")],
                &["LLM_DEPLOYMENTS: ", "\"\" is no name", "commas separate names"],
            ),
            (
                &[("LLM_DEPLOYMENTS", "primary,azure_eu")],
                &["\"azure_eu\" is no name"],
            ),
            (
                &[("LLM_DEPLOYMENTS", "a,b,c,d,e,f,g,h,i")],
                &["9 names are more than the 8"],
            ),
            (
                &[("LLM_SPARE_API", "bedrock")],
                &[
                    "LLM_SPARE_API: \"bedrock\" is refused: openai, compatible or azure",
                    "example: LLM_SPARE_API=openai",
                ],
            ),
            (
                &[("LLM_SPARE_API_KEY", "")],
                &[
                    "LLM_SPARE_API_KEY is missing",
                    "names the deployment spare",
                    "example: LLM_SPARE_API_KEY=sk-...",
                ],
            ),
            (
                &[("LLM_SPARE_BASE_URL", "")],
                &[
                    "LLM_SPARE_BASE_URL is missing",
                    "example: LLM_SPARE_BASE_URL=https://",
                ],
            ),
            (
                &[("OPENAI_API_KEY", "")],
                &["OPENAI_API_KEY is missing", "configure the first"],
            ),
            (
                &[("OPENAI_BREAKER", "llm-spare")],
                &[
                    "OPENAI_BREAKER is \"llm-spare\"",
                    "example: OPENAI_BREAKER=openai",
                ],
            ),
            (
                &[("AZURE_SPEECH_BREAKER", "llm-spare")],
                &["AZURE_SPEECH_BREAKER is \"llm-spare\""],
            ),
            (
                &[
                    ("LLM_STRATEGY", "weighted"),
                    ("LLM_PRIMARY_WEIGHT", "0"),
                    ("LLM_SPARE_WEIGHT", "0"),
                ],
                &[
                    "LLM_STRATEGY is weighted, and every weight is 0",
                    "example: LLM_PRIMARY_WEIGHT=1",
                ],
            ),
            (
                &[
                    ("LLM_SPARE_BASE_URL", "https://API.openai.com/v1/"),
                    ("LLM_SPARE_API_KEY", "hunter2"),
                ],
                &[
                    "LLM_SPARE_BASE_URL is the address of the deployment primary too",
                    "the model gpt-6-luna",
                ],
            ),
            (
                &[
                    ("LLM_PRIMARY_BASE_URL", "https://x"),
                    ("LLM_PRIMARY_API_KEY", "hunter4"),
                ],
                &[
                    "LLM_PRIMARY_BASE_URL is set, and would be ignored",
                    "OPENAI_BASE_URL configures",
                    "LLM_PRIMARY_API_KEY is set",
                ],
            ),
        ];
        assert!(read(&[]).is_ok());
        for (changes, parts) in rows {
            let told = read(changes).map(|_| ()).unwrap_err();
            for part in parts {
                assert!(told.contains(part), "{changes:?}: {told} lacks {part}");
            }
            assert!(!told.contains("hunter"), "{told}");
            let lines = told.lines().count();
            assert!(lines <= 3, "{told}");
        }
    }

    #[test]
    fn variables_of_a_deployment_that_is_not_named_are_told() {
        let set = [
            "LLM_AZURE_EU_API_KEY",
            "LLM_SPARE_MODEL",
            "LLM_DEPLOYMENTS",
            "LLM_STRATEGY",
            "OPENAI_MODEL",
        ];
        let told = super::unnamed(set.into_iter(), Some("primary, Spare"));
        assert_eq!(
            told,
            ["LLM_AZURE_EU_API_KEY is ignored: LLM_DEPLOYMENTS names no deployment azure-eu"]
        );
        assert_eq!(super::unnamed(set.into_iter(), None).len(), 2);
        assert!(super::unnamed(set.into_iter(), Some("primary,azure-eu,spare")).is_empty());
    }

    /// A refusal names the variables of the deployment that it is about.
    #[test]
    fn an_address_of_the_classic_interface_is_explained_for_its_deployment() {
        let url =
            "https://x.openai.azure.com/openai/deployments/decks/chat/completions?api-version=2024-10-21";
        let told = read(&[("LLM_SPARE_BASE_URL", url)]).map(|_| ()).unwrap_err();
        for part in [
            "LLM_SPARE_BASE_URL=https://x",
            "LLM_SPARE_MODEL=decks",
            "LLM_SPARE_API=azure",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("OPENAI_"), "{told}");
    }

    #[test]
    fn one_account_can_serve_two_models() {
        let same = [
            ("LLM_SPARE_BASE_URL", "https://api.openai.com/v1"),
            ("LLM_SPARE_API_KEY", "hunter2"),
        ];
        let other_model = [&same[..], &[("LLM_SPARE_MODEL", "gpt-5-nano")]].concat();
        assert!(read(&same).is_err() && read(&other_model).is_ok());
    }

    #[test]
    fn each_deployment_has_a_successor_of_its_own() {
        let successor = |changes: &[(&str, &str)]| {
            let config = read(changes).unwrap();
            format!("{:?}", config.handlers.fallbacks[0].successor)
        };
        assert_eq!(successor(&[]), "Recommended");
        let first = ("OPENAI_MODEL_SUCCESSOR", "gpt-7");
        assert_eq!(successor(&[first]), "Model(\"gpt-7\")", "of the same model");
        assert_eq!(successor(&[first, ("LLM_SPARE_MODEL", "decks")]), "Recommended");
        let own = ("LLM_SPARE_MODEL_SUCCESSOR", "decks-2");
        assert_eq!(successor(&[first, own]), "Model(\"decks-2\")");
        assert_eq!(successor(&[("OPENAI_MODEL_SUCCESSOR", "none")]), "None");
    }
}
