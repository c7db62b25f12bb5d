use std::collections::HashMap;

use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let map: HashMap<_, _> = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Config::from_lookup(|name| map.get(name).cloned())
}

fn fault(pairs: &[(&str, &str)]) -> String {
    read(pairs).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn an_empty_environment_is_a_configuration() {
    let config = read(&[]).unwrap();
    assert_eq!(config.port, 3002);
    let names: Vec<_> = config
        .queues
        .iter()
        .map(|q| (q.layout, q.name.as_str(), q.concurrency))
        .collect();
    let (bullmq, apalis) = (Layout::Bullmq, Layout::Apalis);
    assert_eq!(
        names,
        [
            (bullmq, "ai-jobs", 20),
            (bullmq, "audio-jobs", 20),
            (bullmq, "vision-jobs", 20),
            (apalis, "ai-jobs", 20),
            (apalis, "audio-jobs", 20),
            (apalis, "vision-jobs", 20)
        ]
    );
    assert!(config.handlers.openai.is_none());
}

#[test]
fn two_replicas_of_one_host_have_two_names() {
    let env = [("RAILWAY_REPLICA_ID", "r1")];
    let (a, b) = (read(&env).unwrap().replica, read(&env).unwrap().replica);
    assert!(a.starts_with("r1-") && b.starts_with("r1-"), "{a} {b}");
    assert_ne!(a, b);
}

#[test]
fn every_fault_names_its_variable_and_all_are_told_at_once() {
    for (name, value, part) in [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "70000", "a whole number"),
        ("REDIS_URL", "http://x", "a redis:// or rediss:// URL"),
        ("REDIS_CA_FILE", "/nowhere", "can be read"),
        ("REDIS_CA_FILE", "/dev/null", "holds a certificate"),
        ("QUEUES", "kafka:x", "no queue layout"),
        ("QUEUES", "a,a", "twice"),
        ("QUEUES", "a=0", "concurrency"),
        ("QUEUES", "a:b:c", "no queue layout"),
        ("QUEUES", "apalis:", "name"),
        ("CONCURRENCY", "0", "from 1"),
        ("OPENAI_BASE_URL", "ftp://x", "http or https"),
        ("OPENAI_BASE_URL", "https://u:p@x", "without credentials"),
        ("OPENAI_API_KEY", "two words", "printable ASCII"),
        ("AZURE_SPEECH_REGION", "https://x", "a region"),
        ("AZURE_VISION_API", "5", "4.0 or 3.2"),
        ("RETRY_MAX_ATTEMPTS", "11", "from 1 to 10"),
        ("RETRY_JITTER", "2", "jitter"),
        ("RETRY_BASE_DELAY", "2000", "with its unit"),
        ("JOB_DEADLINE", "0", "from 1s"),
        ("UNKNOWN_JOB_TYPE", "drop", "fail or give-back"),
        ("LOG_FORMAT", "xml", "json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http or https"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key", "name=value"),
        ("RUST_LOG", "info,=", "RUST_LOG"),
        ("RUST_LOG", "info,o,\t\t\tve\u{fffd}bTTT\"\"h", "RUST_LOG"),
    ] {
        let message = fault(&[(name, value)]);
        assert!(
            message.contains(name) && message.contains(part),
            "{name}={value}: {message}"
        );
    }
    let message = fault(&[("PORT", "x"), ("LEASE_TTL", "y"), ("QUEUES", "")]);
    assert!(
        message.contains("PORT") && message.contains("LEASE_TTL"),
        "{message}"
    );
}

#[test]
fn a_key_without_its_endpoint_is_a_fault() {
    assert!(fault(&[("AZURE_SPEECH_KEY", "k")]).contains("AZURE_SPEECH_REGION"));
    assert!(fault(&[("AZURE_VISION_KEY", "k")]).contains("AZURE_VISION_ENDPOINT"));
    let config = read(&[("AZURE_SPEECH_KEY", "k"), ("AZURE_SPEECH_REGION", "westeurope")]).unwrap();
    let endpoint = config.handlers.speech.unwrap().endpoint;
    assert_eq!(endpoint.as_str(), "https://westeurope.stt.speech.microsoft.com/");
}

#[test]
fn railway_kills_at_once_unless_it_is_told_otherwise() {
    let railway = ("RAILWAY_REPLICA_ID", "r1");
    assert_eq!(read(&[]).unwrap().platform_drain, None);
    assert_eq!(read(&[railway]).unwrap().platform_drain, Some(Duration::ZERO));
    let told = read(&[railway, ("RAILWAY_DEPLOYMENT_DRAINING_SECONDS", "30")]).unwrap();
    assert_eq!(told.platform_drain, Some(Duration::from_secs(30)));
}

#[test]
fn delays_must_fit_each_other() {
    let message = fault(&[("RETRY_BASE_DELAY", "12s"), ("RETRY_MAX_DELAY", "10s")]);
    assert!(
        message.contains("RETRY") && message.contains("shorter"),
        "{message}"
    );
}

#[test]
fn the_public_redis_serves_only_without_a_private_one() {
    use secrecy::ExposeSecret;
    let public = ("REDIS_PUBLIC_URL", "redis://public:1");
    assert_eq!(
        read(&[public]).unwrap().redis.url().expose_secret(),
        "redis://public:1"
    );
    let both = read(&[public, ("REDIS_URL", "redis://private:1")]).unwrap();
    assert_eq!(both.redis.url().expose_secret(), "redis://private:1");
}

#[test]
fn no_secret_is_shown() {
    let secrets = [
        ("REDIS_URL", "redis://:hunter2@127.0.0.1"),
        ("OPENAI_API_KEY", "hunter2"),
        ("AZURE_SPEECH_KEY", "hunter2"),
        ("AZURE_SPEECH_REGION", "westeurope"),
        ("AZURE_VISION_KEY", "hunter2"),
        ("AZURE_VISION_ENDPOINT", "https://x"),
    ];
    let config = read(&secrets).unwrap();
    for shown in [config.effective().to_string(), format!("{config:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert!(config.effective().to_string().contains("OPENAI_API_KEY=(set)"));
    let wrong = fault(&[("REDIS_URL", "hunter2://x"), ("OPENAI_API_KEY", "hunter2 x")]);
    assert!(!wrong.contains("hunter2"), "{wrong}");
}

#[test]
fn the_readme_lists_every_variable() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let rows: Vec<String> = vars::ALL.iter().map(|var| var.row()).collect();
    let table = rows.join("\n");
    assert!(
        readme.contains(&table),
        "the README's table of variables must read:\n{table}"
    );
}
