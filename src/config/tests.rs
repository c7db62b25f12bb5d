use std::collections::HashMap;

use super::*;
use crate::queue::Layout;

mod values;

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
fn a_cap_on_an_owners_jobs_needs_owners() {
    let cap = ("USER_MAX_CONCURRENT", "2");
    assert!(read(&[cap]).unwrap().broker.most_per_owner.is_some());
    let text = fault(&[cap, ("FAIRNESS_KEY", "off")]);
    assert!(
        text.contains("USER_MAX_CONCURRENT is set, and FAIRNESS_KEY=off"),
        "{text}"
    );
    assert!(read(&[("FAIRNESS_KEY", "off"), ("USER_MAX_CONCURRENT", "0")]).is_ok());
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
        ("AZURE_SPEECH_REGION", "west/europe", "westeurope"),
        ("OPENAI_BASE_URL", "api.openai.com/v1", "scheme is missing"),
        ("AZURE_VISION_API", "5", "4.0, 3.2 or document-intelligence"),
        ("RETRY_MAX_ATTEMPTS", "11", "from 1 to 10"),
        ("RETRY_MAX_ATTEMPTS_BY_TYPE", "process-image", "type:tries"),
        (
            "RETRY_MAX_ATTEMPTS_BY_TYPE",
            "transcribe:2",
            "generate-flashcards",
        ),
        ("RETRY_MAX_ATTEMPTS_BY_TYPE", "process-image:0", "from 1 to 10"),
        ("RETRY_JITTER", "2", "jitter"),
        ("RETRY_BASE_DELAY", "2000", "with its unit"),
        ("JOB_DEADLINE", "0", "from 1s"),
        ("UNKNOWN_JOB_TYPE", "drop", "fail or give-back"),
        ("LOG_FORMAT", "xml", "json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http or https"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key", "name=value"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "collector:4318",
            "http or https",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd", "gzip or none"),
        ("OTEL_RESOURCE_ATTRIBUTES", "production", "name=value"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "10", "from 0 to 1"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1"),
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
fn the_variables_of_opentelemetry_are_read() {
    let traces = |pairs: &[(&str, &str)]| {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/");
        read(&[&[endpoint], pairs].concat()).unwrap().traces
    };
    let plain = traces(&[]).unwrap();
    assert_eq!(plain.endpoint.as_str(), "http://c:4318/base/v1/traces");
    assert_eq!(
        (plain.service.as_str(), plain.timeout, plain.is_compressed),
        ("backend-worker", Duration::from_secs(10), false)
    );
    assert_eq!(format!("{:?}", plain.sampler), "ParentBased(AlwaysOn)");

    let full = traces(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t:4318/here"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=all"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=traces%2Conly"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=cards, team=a%2Cb"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ])
    .unwrap();
    assert_eq!(full.endpoint.as_str(), "https://t:4318/here");
    assert_eq!(full.headers[0].1, "traces,only");
    assert_eq!((full.timeout, full.is_compressed), (Duration::from_secs(2), true));
    assert_eq!(full.service, "cards");
    assert_eq!(full.resource[1], ("team".to_owned(), "a,b".to_owned()));
    assert_eq!(
        format!("{:?}", full.sampler),
        "ParentBased(TraceIdRatioBased(0.25))"
    );
    assert_eq!((full.queue.max_size, full.queue.batch_size), (100, 100));
    assert_eq!(full.queue.delay, Duration::from_millis(50));

    let named = traces(&[
        ("OTEL_SERVICE_NAME", "first"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=second"),
    ]);
    assert_eq!(named.unwrap().service, "first");
    assert!(traces(&[("OTEL_SDK_DISABLED", "true")]).is_none());
    assert!(traces(&[("OTEL_TRACES_EXPORTER", "none")]).is_none());
    assert!(read(&[("OTEL_SERVICE_NAME", "x")]).unwrap().traces.is_none());
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
fn job_types_can_differ_in_their_tries() {
    let set = |text| {
        read(&[("RETRY_MAX_ATTEMPTS_BY_TYPE", text)])
            .unwrap()
            .tries_by_type
    };
    let tries = set(" process-image : 5, generate-flashcards:1,");
    let tries_of = |kind| tries.get(&kind).map(|tries| tries.get());
    assert_eq!(tries_of(JobType::ProcessImage), Some(5));
    assert_eq!(tries_of(JobType::GenerateFlashcards), Some(1));
    assert_eq!(tries_of(JobType::AssessPronunciation), None);
    assert!(set("").is_empty());
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
fn docs_list_every_variable() {
    let mut table = String::from("| variable | default | what it does |\n|---|---|---|\n");
    for var in vars::ALL {
        table.push_str(&var.row());
        table.push('\n');
    }
    crate::docs::check_section("docs/configuration.md", "variables", &table);
}

#[test]
fn sentinels_are_read_in_the_forms_of_other_clients() {
    for (url, server, hosts, service) in [
        (
            "redis+sentinel://u:p%40@a:1,b,[::1]:3/main/2",
            "redis://u:p%40@primary/2",
            vec![("a", 1), ("b", 26379), ("::1", 3)],
            "main",
        ),
        (
            "redis-sentinel://:p@a:1/0#main",
            "redis://:p@primary/0",
            vec![("a", 1)],
            "main",
        ),
        (
            "rediss+sentinel://a:1?sentinelMasterId=main",
            "rediss://primary/",
            vec![("a", 1)],
            "main",
        ),
        (
            "redis+sentinel://a:1/my%20main?sentinelPassword=hunter2",
            "redis://primary/",
            vec![("a", 1)],
            "my main",
        ),
    ] {
        let config = read(&[("REDIS_URL", url)]).unwrap();
        assert_eq!(config.redis.url().expose_secret(), server, "{url}");
        let sentinels = config.redis.sentinels().unwrap();
        let named: Vec<(&str, u16)> = sentinels
            .hosts
            .iter()
            .map(|(host, port)| (&**host, *port))
            .collect();
        assert_eq!((named, &*sentinels.service), (hosts, service), "{url}");
        let password = sentinels.password.as_ref().map(|p| p.expose_secret().to_owned());
        assert_eq!(password.is_some(), url.contains("hunter2"));
        let is_secret = |password: &String| config.secrets().iter().any(|s| s.expose_secret() == password);
        assert!(password.iter().all(is_secret));
    }
}
