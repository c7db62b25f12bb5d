use std::collections::HashMap;

use super::*;
use crate::queue::Layout;

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

/// Values as people, panels and other programs write them, and what is made of them.
#[test]
fn values_are_read_as_they_are_really_set() {
    use secrecy::ExposeSecret;
    let speech = |region: &str| {
        let config = read(&[("AZURE_SPEECH_KEY", "k"), ("AZURE_SPEECH_REGION", region)]).unwrap();
        config.handlers.speech.unwrap().endpoint.to_string()
    };
    for (region, host) in [
        ("westeurope", "westeurope.stt.speech.microsoft.com"),
        ("West Europe", "westeurope.stt.speech.microsoft.com"),
        ("(US) East US 2", "eastus2.stt.speech.microsoft.com"),
        ("\"westeurope\" ", "westeurope.stt.speech.microsoft.com"),
        ("usgovvirginia", "usgovvirginia.stt.speech.azure.us"),
        ("US Gov Arizona", "usgovarizona.stt.speech.azure.us"),
        ("WestEurope", "westeurope.stt.speech.microsoft.com"),
        ("westeurope ", "westeurope.stt.speech.microsoft.com"),
        ("(Europe) West Europe", "westeurope.stt.speech.microsoft.com"),
        (
            "\u{201e}westeurope\u{201c}",
            "westeurope.stt.speech.microsoft.com",
        ),
        ("\u{feff}westeurope\u{a0}", "westeurope.stt.speech.microsoft.com"),
        ("chinaeast2", "chinaeast2.stt.speech.azure.cn"),
        ("China-North-3", "chinanorth3.stt.speech.azure.cn"),
    ] {
        assert_eq!(speech(region), format!("https://{host}/"), "{region}");
    }
    let endpoint = |value: &str| {
        let config = read(&[("AZURE_SPEECH_KEY", "k"), ("AZURE_SPEECH_ENDPOINT", value)]).unwrap();
        config.handlers.speech.unwrap().endpoint.to_string()
    };
    for (value, url) in [
        (
            "https://westeurope.api.cognitive.microsoft.com/sts/v1.0/issuetoken",
            "https://westeurope.stt.speech.microsoft.com/",
        ),
        (
            "https://westeurope.api.cognitive.microsoft.com/",
            "https://westeurope.stt.speech.microsoft.com/",
        ),
        (
            "https://usgovvirginia.api.cognitive.microsoft.us/sts/v1.0/issueToken",
            "https://usgovvirginia.stt.speech.azure.us/",
        ),
        (
            "https://chinaeast2.api.cognitive.azure.cn",
            "https://chinaeast2.stt.speech.azure.cn/",
        ),
        (
            "https://westeurope.stt.speech.microsoft.com/speech/recognition/conversation/cognitiveservices/v1?language=en-US",
            "https://westeurope.stt.speech.microsoft.com/",
        ),
        (
            "https://x.cognitiveservices.azure.com/",
            "https://x.cognitiveservices.azure.com/stt",
        ),
        (
            "https://x.cognitiveservices.azure.us/stt/speech/recognition/conversation/cognitiveservices/v1",
            "https://x.cognitiveservices.azure.us/stt",
        ),
        (
            "https://eastus.stt.speech.microsoft.com/speech/universal/v2",
            "https://eastus.stt.speech.microsoft.com/",
        ),
        ("http://127.0.0.1:9/base/", "http://127.0.0.1:9/base/"),
    ] {
        assert_eq!(endpoint(value), url, "{value}");
    }
    let vision = |value: &str| {
        let config = read(&[("AZURE_VISION_KEY", "k"), ("AZURE_VISION_ENDPOINT", value)]).unwrap();
        config.handlers.vision.unwrap().endpoint.to_string()
    };
    for path in [
        "/",
        "/computervision/imageanalysis:analyze?api-version=2024-02-01",
        "/vision/v3.2/read/analyze",
        "/documentintelligence/documentModels/prebuilt-read:analyze?api-version=2024-11-30",
        "/formrecognizer/documentModels/prebuilt-read:analyze?api-version=2023-07-31",
    ] {
        let value = format!("https://x.cognitiveservices.azure.com{path}");
        assert_eq!(
            vision(&value),
            "https://x.cognitiveservices.azure.com/",
            "{value}"
        );
    }
    let openai = |value: &str| {
        let config = read(&[("OPENAI_API_KEY", "k"), ("OPENAI_BASE_URL", value)]).unwrap();
        config.handlers.openai.unwrap().base_url.to_string()
    };
    for (value, url) in [
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/"),
        (
            "https://api.openai.com/v1/chat/completions",
            "https://api.openai.com/v1",
        ),
        (
            "'https://x.openai.azure.com/'",
            "https://x.openai.azure.com/openai/v1",
        ),
        (
            "https://x.openai.azure.com/openai/v1/",
            "https://x.openai.azure.com/openai/v1/",
        ),
        (
            "https://x.openai.azure.us/openai/v1/chat/completions?api-version=preview",
            "https://x.openai.azure.us/openai/v1",
        ),
        (
            "https://x.openai.azure.com/openai/responses?api-version=2025-04-01-preview",
            "https://x.openai.azure.com/openai/v1",
        ),
        (
            "https://x.cognitiveservices.azure.cn/",
            "https://x.cognitiveservices.azure.cn/openai/v1",
        ),
        (
            "https://x.services.ai.azure.com/models",
            "https://x.services.ai.azure.com/openai/v1",
        ),
        (
            "https://x.services.ai.azure.com/api/projects/cards",
            "https://x.services.ai.azure.com/openai/v1",
        ),
        ("http://proxy:8080/v1/models ", "http://proxy:8080/v1"),
        ("http://proxy:8080", "http://proxy:8080/"),
    ] {
        assert_eq!(openai(value), url, "{value}");
    }
    let redis = |value: &str| {
        read(&[("REDIS_URL", value)])
            .unwrap()
            .redis
            .url()
            .expose_secret()
            .to_owned()
    };
    for (value, url) in [
        ("\"redis://h:1\"", "redis://h:1"),
        ("valkey://h:1", "redis://h:1"),
        ("rediss://default:p@h:1", "rediss://default:p@h:1"),
        (
            "redis-cli --tls -u redis://default:p@h:1",
            "rediss://default:p@h:1",
        ),
        ("redis://h:1?family=0&lazyConnect=true", "redis://h:1"),
        ("redis://h:1/?ssl=true", "rediss://h:1/"),
        ("redis://h:1?family=6", "redis://h:1"),
        ("rediss://h:1?ssl_cert_reqs=CERT_REQUIRED", "rediss://h:1"),
        (
            "redis://default:p@h:1?pool_timeout=20&retryDelay=50&Max_Retries=3",
            "redis://default:p@h:1",
        ),
        ("rediss://h:1?ssl_cert_reqs=required", "rediss://h:1"),
        ("redis://h:1?db=3", "redis://h:1/3"),
        ("REDIS://h:1", "redis://h:1"),
    ] {
        assert_eq!(redis(value), url, "{value}");
    }
    let headers = |value: &str| {
        let pairs = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", value),
        ];
        let headers = read(&pairs).unwrap().traces.unwrap().headers;
        let (name, value) = headers.into_iter().next().unwrap();
        format!("{name}: {}", value.to_str().unwrap())
    };
    for value in [
        "Authorization=Basic dXNlcjp0b2s=",
        "Authorization=Basic%20dXNlcjp0b2s%3D",
        "authorization = Basic dXNlcjp0b2s= ,",
    ] {
        assert_eq!(headers(value), "authorization: Basic dXNlcjp0b2s=", "{value}");
    }
    for (value, is_on) in [
        ("true", true),
        ("1", true),
        ("YES", true),
        ("On", true),
        ("FALSE", false),
        ("0", false),
        ("no", false),
    ] {
        assert_eq!(
            read(&[("TRUST_PROXY", value)]).unwrap().access.trust_proxy,
            is_on,
            "{value}"
        );
    }
    let deadline = |value| read(&[("JOB_DEADLINE", value)]).unwrap().deadline.as_secs();
    assert_eq!(
        (
            deadline("90s "),
            deadline("'2m'"),
            deadline("10M"),
            deadline("1 min")
        ),
        (90, 120, 600, 60)
    );
    assert_eq!(
        (
            deadline("90"),
            deadline("300000"),
            deadline("1H"),
            deadline("0.5h")
        ),
        (90, 300, 3_600, 1_800)
    );
    let told = |pairs: &[(&str, &str)]| read(pairs).unwrap().warnings().join("; ");
    assert!(
        told(&[("JOB_DEADLINE", "90")]).contains("JOB_DEADLINE has no unit: 90 is read as 90s"),
        "{}",
        told(&[("JOB_DEADLINE", "90")])
    );
    let queues = |value: &str| {
        let queues = read(&[("QUEUES", value)]).unwrap().queues;
        let named = queues
            .iter()
            .map(|queue| format!("{}:{}", queue.layout, queue.name));
        named.collect::<Vec<_>>().join(",")
    };
    for value in [
        "bullmq:Jobs,apalis:mail",
        " BullMQ: Jobs=3 ,\n apalis:mail=4,",
        "[\"bullmq:Jobs\", \"mail\"]",
        "'bullmq:Jobs; mail'",
        "\u{201c}bullmq:Jobs,mail\u{201d}",
    ] {
        assert_eq!(queues(value), "bullmq:Jobs,apalis:mail", "{value}");
    }
}

#[test]
fn quotes_are_left_out_with_a_warning() {
    use secrecy::ExposeSecret;
    for quoted in [
        "\"sk-hunter2\"",
        "'sk-hunter2'",
        " \"sk-hunter2\"\n",
        "\u{201c}sk-hunter2\u{201d}",
        "\u{201e}sk-hunter2\u{201c}",
        "\u{ab}\u{a0}sk-hunter2\u{a0}\u{bb}",
        "\u{2018}sk-hunter2\u{2019}",
        "\"'sk-hunter2'\"",
    ] {
        let config = read(&[("OPENAI_API_KEY", quoted)]).unwrap();
        let warnings = config.warnings().join("; ");
        assert_eq!(
            config.handlers.openai.unwrap().key.expose_secret(),
            "sk-hunter2",
            "{quoted}"
        );
        assert!(
            warnings.contains("OPENAI_API_KEY stands in quotes") && !warnings.contains("hunter2"),
            "{warnings}"
        );
    }
    // A line of a file, and a line break as some panels store it.
    for copied in [
        "OPENAI_API_KEY=sk-hunter2",
        "export OPENAI_API_KEY = \"sk-hunter2\"",
        "\"sk-hunter2\\n\"",
        "sk-hunter2\\r\\n",
    ] {
        let config = read(&[("OPENAI_API_KEY", copied)]).unwrap();
        let warnings = config.warnings().join("; ");
        let key = config.handlers.openai.unwrap().key;
        assert_eq!(key.expose_secret(), "sk-hunter2", "{copied}");
        assert!(
            warnings.contains("OPENAI_API_KEY") && warnings.contains("left out"),
            "{warnings}"
        );
        assert!(!warnings.contains("hunter2"), "{warnings}");
    }
    let config = read(&[("ADMIN_TOKEN", "\"0123456789abcdef\""), ("READ_TOKEN", "\"\"")]).unwrap();
    assert_eq!(config.access.admin.unwrap().expose_secret(), "0123456789abcdef");
    assert!(config.access.read.is_none());
    assert!(read(&[("OPENAI_API_KEY", "sk-1")]).unwrap().warnings().is_empty());
}

/// A refusal says what was found and what works, and shows no secret.
#[test]
fn refusals_name_the_right_form() {
    for (name, value, part) in [
        (
            "OPENAI_BASE_URL",
            "https://x.openai.azure.com/openai/deployments/gpt-4o-mini?api-version=2024-10-21",
            "OPENAI_BASE_URL=https://x.openai.azure.com/openai/v1 and OPENAI_MODEL=gpt-4o-mini",
        ),
        ("REDIS_URL", "redis://h:1?hunter2=1", "option number 1"),
        ("REDIS_URL", "rediss://h:1?ssl_cert_reqs=none", "REDIS_CA_FILE"),
        (
            "REDIS_URL",
            "rediss://h:1?ssl_cert_reqs=none",
            "REDIS_TLS_INSECURE=on",
        ),
        (
            "REDIS_URL",
            "rediss://h:1?ssl_cert_reqs=CERT_NONE",
            "REDIS_TLS_INSECURE=on",
        ),
        (
            "REDIS_URL",
            "rediss://h:1?rejectUnauthorized=off",
            "REDIS_TLS_INSECURE=on",
        ),
        (
            "REDIS_URL",
            "redis://h:1?cluster=true",
            "REDIS_CLUSTER_TAG serves a Redis Cluster",
        ),
        (
            "OPENAI_BASE_URL",
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "OPENAI_BASE_URL=https://x.openai.azure.com/openai/v1 and OPENAI_MODEL=d,",
        ),
        (
            "REDIS_URL",
            "rediss://h:1?ssl_ca_certs=x",
            "without ssl_ca_certs: REDIS_CA_FILE",
        ),
        (
            "REDIS_URL",
            "rediss://h:1?ssl_keyfile=x",
            "without ssl_keyfile: certificates of clients",
        ),
        (
            "REDIS_URL",
            "redis://h:1?keyPrefix=x",
            "without keyprefix: BULLMQ_PREFIX",
        ),
        (
            "REDIS_URL",
            "redis-sentinel://h:1",
            "the name that they give the primary",
        ),
        ("REDIS_URL", "redis+sentinel://h:x/main", "hosts with their ports"),
        ("REDIS_TLS_INSECURE", "on", "is for a rediss:// URL"),
        ("BULLMQ_PREFIX", "a b", "printable ASCII"),
        ("SPOOL_DIR", "/no/such/folder", "a folder that is there"),
        ("REDIS_URL", "redis://h:1,i:2", "several hosts"),
        ("REDIS_URL", "redis+cluster://h:1,i:x", "hosts with their ports"),
        ("REDIS_CLUSTER_TAG", "a:b", "up to 50 letters"),
        ("REDIS_URL", "redis://:hunter2#x@h:1", "%23"),
        (
            "REDIS_URL",
            "h:6379",
            "such as redis://default:password@host:6379",
        ),
        ("JOB_DEADLINE", "2000", "2000s or 2000ms?"),
        ("PORT", "http", "(example: PORT=3002)"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "hunter2",
            "example: OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer%20token",
        ),
        ("OPENAI_API_KEY", "hunter2 x", "the value (9 characters)"),
    ] {
        let message = fault(&[(name, value)]);
        assert!(
            message.contains(name) && message.contains(part),
            "{name}={value}: {message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }
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
