//! A value that works for each variable, for the refusal of one that does not.

use super::vars::{DefaultValue, EnvVar};

/// A value that works; `None` for tokens, of which an example would be used.
pub(super) fn example(var: &EnvVar) -> Option<&'static str> {
    match (var.default, var.name) {
        (_, "LLM_DEPLOYMENTS") => Some("primary,azure"),
        (DefaultValue::Value(text), _) if !text.is_empty() => Some(text),
        (DefaultValue::Computed(_), _) => Some("bullmq:ai-jobs,apalis:ai-jobs=8"),
        (_, name) if name.starts_with("LLM_") && name.ends_with("_BASE_URL") => {
            Some("https://name.openai.azure.com/openai/v1")
        }
        (_, name) => OPTIONAL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, example)| *example),
    }
}

/// Values of the variables without a default.
const OPTIONAL: &[(&str, &str)] = &[
    ("REDIS_PUBLIC_URL", "rediss://default:password@host:6379"),
    ("REDIS_CLUSTER_TAG", "app"),
    ("REDIS_CA_FILE", "/etc/ssl/redis-ca.pem"),
    ("OPENAI_API_KEY", "sk-proj-the-key-of-the-project"),
    ("MODELS_FILE", "/etc/backend-worker/models.toml"),
    ("FLEX_QUEUES", "night-jobs,import-jobs"),
    ("AZURE_SPEECH_KEY", "the-key-1-of-the-resource"),
    ("AZURE_SPEECH_REGION", "westeurope"),
    (
        "AZURE_SPEECH_ENDPOINT",
        "https://westeurope.stt.speech.microsoft.com",
    ),
    ("AZURE_VISION_KEY", "the-key-1-of-the-resource"),
    (
        "AZURE_VISION_ENDPOINT",
        "https://name.cognitiveservices.azure.com",
    ),
    (
        "RETRY_MAX_ATTEMPTS_BY_TYPE",
        "process-image:5,generate-flashcards:2",
    ),
    ("SPOOL_DIR", "/data/spool"),
    ("PRICES_FILE", "/etc/backend-worker/prices.toml"),
    ("BUDGET_DAILY_USD", "20"),
    ("BUDGET_MONTHLY_USD", "400.50"),
    ("USER_BUDGET_MONTHLY_USD", "5"),
    (
        "USAGE_WEBHOOK_URL",
        "https://project.supabase.co/rest/v1/rpc/increment_tokens",
    ),
    ("USAGE_WEBHOOK_HEADERS", "apikey=key,Authorization=Bearer%20key"),
    (
        "USAGE_WEBHOOK_BODY",
        r#"{"user_id": "{{student}}", "input_count": {{promptTokens}}}"#,
    ),
    ("UPLOADS_DIR", "/data/uploads"),
    ("MEDIA_ALLOWED_HOSTS", "minio:9000,localhost"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
    (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "http://collector:4318/v1/traces",
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "Authorization=Bearer%20token,x-tenant=1",
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "Authorization=Bearer%20token,x-tenant=1",
    ),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10000"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "deployment.environment.name=production,team=cards",
    ),
    ("RAILWAY_REPLICA_ID", "replica-1"),
    ("RAILWAY_DEPLOYMENT_DRAINING_SECONDS", "30"),
];

#[cfg(test)]
mod tests {
    use super::{super::vars, *};
    use crate::config::Config;

    /// Values that no variable, or hardly any, takes.
    const WRONG: [&str; 5] = ["???", "\u{1}x y", "://", "-1", "{{"];

    fn faults(name: &str, value: &str) -> Vec<String> {
        let read = Config::from_lookup(|asked| (asked == name).then(|| value.to_owned()));
        let all = read.map_or_else(|error| error.faults().to_vec(), |_| Vec::new());
        let of_this = |fault: &String| {
            let rest = fault.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([':', ' ']))
        };
        all.into_iter().filter(of_this).collect()
    }

    #[test]
    fn every_refusal_has_an_example_that_works() {
        let mut refused = 0;
        for var in vars::ALL {
            let is_token = var.name.ends_with("_TOKEN") || var.name == "USAGE_WEBHOOK_SECRET";
            let Some(value) = example(var) else {
                assert!(is_token, "{} has no example", var.name);
                for fault in faults(var.name, "\u{1}") {
                    assert!(fault.contains("openssl rand"), "{fault}");
                }
                continue;
            };
            for wrong in WRONG {
                for fault in faults(var.name, wrong) {
                    refused += 1;
                    assert!(fault.contains(&format!("{}={value}", var.name)), "{fault}");
                }
            }
            // Whether its file is there, another place decides.
            if !value.starts_with('/') {
                assert_eq!(faults(var.name, value), [""; 0], "{}={value}", var.name);
            }
        }
        assert!(refused > 150, "{refused} values are refused");
    }
}
