//! Values in the forms in which they are really set, and refusals of others.

use super::*;

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
