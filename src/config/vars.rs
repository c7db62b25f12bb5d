//! Every environment variable, declared once. The table in `docs/configuration.md` is generated from this list.

/// Where a variable's value comes from when it is not set.
#[derive(Debug, Clone, Copy)]
pub enum DefaultValue {
    /// From nowhere: it is optional.
    None,
    /// A fixed text.
    Value(&'static str),
    /// A text that depends on the job types.
    Computed(fn() -> String),
}

/// An environment variable.
#[derive(Debug)]
pub struct EnvVar {
    /// Its name.
    pub name: &'static str,
    /// Its value when it is not set.
    pub default: DefaultValue,
    /// Its effect.
    pub about: &'static str,
    /// True if its value must never be shown.
    pub secret: bool,
}

impl EnvVar {
    /// Its row in the documented table.
    pub fn row(&self) -> String {
        let default = match self.default {
            DefaultValue::None => String::new(),
            DefaultValue::Value(text) => format!("`{text}`"),
            DefaultValue::Computed(compute) => format!("`{}`", compute()),
        };
        format!("| `{}` | {} | {} |", self.name, default, self.about)
    }
}

macro_rules! is_secret {
    () => {
        false
    };
    (secret) => {
        true
    };
}

macro_rules! vars {
    ($($name:ident $(: $secret:ident)? = $default:expr, $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $name: EnvVar = EnvVar {
                name: stringify!($name),
                default: $default,
                about: $about,
                secret: is_secret!($($secret)?),
            };
        )*
        /// All of them, in the order of the documentation.
        pub const ALL: &[&EnvVar] = &[$(&$name),*];
    };
}

use self::DefaultValue::{Computed, None, Value};

vars! {
    REDIS_URL: secret = Value("redis://127.0.0.1:6379"), "Redis, `redis://` or `rediss://` (TLS); behind Sentinels `redis+sentinel://user:password@host:26379,host:26379/name/0`";
    REDIS_PUBLIC_URL: secret = None, "used only when `REDIS_URL` is not set";
    REDIS_CA_FILE = None, "certificates (PEM) of the authority that Redis's own is checked against, instead of the system's; for `rediss://`. A change is followed when Redis cannot be reached";
    REDIS_TLS_INSECURE = Value("off"), "`on` accepts any certificate of Redis, for hosts whose self-signed certificates change: an attacker on the network path can then read and change everything";
    REDIS_CLUSTER_TAG = None, "serves a Redis Cluster: the hash tag that all keys of the fleet carry, such as `app` for `{app}`, so that they lie in one slot. `REDIS_URL` may then name several nodes, `redis://host:7000,host:7001`, and `BULLMQ_PREFIX` is `{app}` where it is not set";
    PORT = Value("3002"), "port of the HTTP server, on every address (`[::]`)";
    QUEUES = Computed(super::queue_list::default_queues), "queues to serve: `[layout:]name[=concurrency]`, separated by commas; the layout is `bullmq` or, where none is named, `apalis`";
    BULLMQ_PREFIX = Value("bull"), "prefix of the keys of BullMQ queues, the `prefix` of their producers' `Queue`; in braces (`{app}`) it keeps them in one slot of a cluster";
    CONCURRENCY = Value("20"), "jobs at a time in each queue that names no concurrency";
    OPENAI_API_KEY: secret = None, "without it flashcard jobs fail";
    OPENAI_BASE_URL = Value("https://api.openai.com/v1"), "OpenAI, or a proxy that speaks like it";
    OPENAI_MODEL = Value("gpt-6-luna"), "the model that writes flashcards";
    OPENAI_REASONING_EFFORT = Value("lowest"), "how hard the model thinks before it answers, which is billed as output: `lowest` (of those that the model takes), `provider-default` (none is sent), or `none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`";
    OPENAI_MODEL_SUCCESSOR = Value("recommended"), "the model that takes over when `OPENAI_MODEL` is gone: a name, `recommended` (the one that OpenAI names) or `none`";
    MODELS_FILE = None, "a table of models (TOML) instead of the built-in `jobs/providers/models.toml`";
    OPENAI_TIMEOUT = Value("180s"), "longest time of a call";
    OPENAI_IDLE_TIMEOUT = Value("20s"), "longest silence of the provider in a call whose answer is streamed: the call is then given up, and counts as a failure of the provider. A model that may reason for N tokens has N/50 seconds more to begin";
    FLEX_QUEUES = Value(""), "names of queues, separated by commas, whose flashcard jobs use the provider's cheaper tier (`service_tier: flex`), for jobs that no student waits for; a producer's `opts.serviceTier` (`flex` or `standard`) decides for its job";
    FLEX_FROM_PRIORITY = Value("0"), "BullMQ jobs of this priority, or a larger number, use the cheaper tier; 0: none";
    FLEX_TIMEOUT = Value("60s"), "longest wait for the cheaper tier to begin an answer; then the usual tier is asked, and before the job's time is up in any case";
    OPENAI_API = Value("openai"), "how it is addressed: `openai` (so does every compatible endpoint), or `azure`: the classic interface, with the deployment of the name `OPENAI_MODEL` in the path and `OPENAI_API_VERSION`";
    OPENAI_API_VERSION = Value("2024-10-21"), "`api-version` of requests with `OPENAI_API=azure`";
    LLM_DEPLOYMENTS = Value("primary"), "names of the deployments of the language model, in the order in which calls try them, separated by commas. The `OPENAI_` variables configure the first one. Each further one has its own: `LLM_<NAME>_BASE_URL`, `_API_KEY` and `_MODEL`, and where they differ from those of the first `_API`, `_API_VERSION`, `_MODEL_SUCCESSOR`, `_RATE_LIMIT_RPM`, `_RATE_LIMIT_TPM`, `_MAX_CONCURRENT`, `_WEIGHT`; its breaker is called `llm-<name>`";
    LLM_FALLBACK_AFTER = Value("15s"), "longest time that calls wait for the limits of a deployment while another is left: then the next one is asked, and for as long as calls keep filling that deployment";
    LLM_STRATEGY = Value("ordered"), "`ordered`: the first deployment that admits a call gets it; `weighted`: first choices are spread by `LLM_<NAME>_WEIGHT` (1 where it is not set)";
    AZURE_SPEECH_KEY: secret = None, "without it pronunciation jobs fail";
    AZURE_SPEECH_REGION = None, "such as `westeurope`";
    AZURE_SPEECH_ENDPOINT = None, "instead of the region: the base URL of speech to text";
    AZURE_SPEECH_TIMEOUT = Value("60s"), "longest wait for an assessment";
    AZURE_VISION_KEY: secret = None, "without it image jobs fail";
    AZURE_VISION_ENDPOINT = None, "such as `https://name.cognitiveservices.azure.com`";
    AZURE_VISION_API = Value("4.0"), "`4.0` (Image Analysis), `3.2` (Read) or `document-intelligence` (its model `prebuilt-read`)";
    AZURE_VISION_TIMEOUT = Value("30s"), "longest wait for an answer";
    AZURE_VISION_POLL = Value("1s"), "shortest pause between two polls of an operation of `3.2` and `document-intelligence`";
    RETRY_MAX_ATTEMPTS = Value("3"), "tries of each provider call, 1 to 10";
    RETRY_MAX_ATTEMPTS_BY_TYPE = None, "job types with other tries, `type:tries`: `process-image:5,generate-flashcards:2`";
    RETRY_BASE_DELAY = Value("2s"), "wait before the second try; it doubles from there, and starts doubled for a rate limit";
    RETRY_MAX_DELAY = Value("10s"), "longest wait between two tries, before jitter";
    RETRY_JITTER = Value("0.25"), "share by which each wait is spread";
    QUEUE_BACKOFF = Value("spread"), "retries of BullMQ jobs whose producer names no backoff: `spread` waits between the attempts as `RETRY_BASE_DELAY` says, `as-bullmq` retries at once";
    CIRCUIT_BREAKER = Value("on"), "`off` lets every call pass: no breaker, no limit";
    OPENAI_RATE_LIMIT_RPM = Value("50"), "OpenAI requests in any minute, over all replicas; `0` is no limit";
    OPENAI_RATE_LIMIT_TPM = Value("0"), "OpenAI tokens in any minute";
    OPENAI_MAX_CONCURRENT = Value("5"), "OpenAI calls at a time";
    AZURE_SPEECH_RATE_LIMIT_RPM = Value("0"), "Azure Speech requests in any minute";
    AZURE_SPEECH_MAX_CONCURRENT = Value("20"), "Azure Speech calls at a time";
    AZURE_VISION_RATE_LIMIT_RPM = Value("20"), "Azure Vision requests in any minute";
    AZURE_VISION_MAX_CONCURRENT = Value("5"), "Azure Vision calls at a time";
    OPENAI_BREAKER = Value("openai"), "name of OpenAI's breaker: the keys `circuit:<name>:*`";
    AZURE_SPEECH_BREAKER = Value("azure"), "name of Azure Speech's breaker";
    AZURE_VISION_BREAKER = Value("azure"), "name of Azure Vision's breaker; the same name is the same breaker";
    OPENAI_BREAKER_FAILURES = Value("5"), "failures within the window that it takes to open it";
    OPENAI_BREAKER_SUCCESSES = Value("2"), "successful probes that close it";
    OPENAI_BREAKER_OPEN_FOR = Value("60s"), "time until a probe may pass; it doubles with each opening in a row, up to 10 minutes";
    OPENAI_BREAKER_WINDOW = Value("60s"), "how long a failure counts";
    OPENAI_BREAKER_HALF_OPEN = Value("3"), "probes at most, not fewer than the successes";
    OPENAI_BREAKER_SHARE = Value("0.5"), "share of the last 10 calls that must have failed as well before it opens; `0`: the failures in the window decide alone";
    OPENAI_BREAKER_SLOW_AFTER = Value("0s"), "a call that takes longer counts as a failure, whatever it has brought; `0s`: none does";
    AZURE_BREAKER_FAILURES = Value("3"), "failures within the window that it takes to open an Azure breaker";
    AZURE_BREAKER_SUCCESSES = Value("2"), "successful probes that close it";
    AZURE_BREAKER_OPEN_FOR = Value("30s"), "time until a probe may pass; it doubles with each opening in a row, up to 10 minutes";
    AZURE_BREAKER_WINDOW = Value("60s"), "how long a failure counts";
    AZURE_BREAKER_HALF_OPEN = Value("3"), "probes at most, not fewer than the successes";
    AZURE_BREAKER_SHARE = Value("0.5"), "share of the last 10 calls that must have failed as well before it opens; `0`: the failures in the window decide alone";
    AZURE_BREAKER_SLOW_AFTER = Value("0s"), "a call that takes longer counts as a failure, whatever it has brought; `0s`: none does";
    CIRCUIT_MAX_WAIT = Value("24h"), "how long an open breaker, or a lack of credit, may hold a job up in all; `0` fails it at once. Set it to what a user waits for where jobs are interactive, such as `2m`. Limits never fail a job";
    FAIRNESS_KEY = Value("userId"), "field of a job's payload that names its owner: within a priority owners take turns, so that a burst of one owner does not delay the others; `off` takes jobs first come, first served";
    USER_MAX_CONCURRENT = Value("0"), "jobs that one owner (`FAIRNESS_KEY`) may have in flight at a time, over the fleet and in each queue; others' jobs pass his. `0`: any number. Not with `FAIRNESS_KEY=off`. What Node workers and replicas of a version without this setting have in flight does not count";
    JOB_DEADLINE = Value("5m"), "longest run of one attempt of a job";
    DRAIN_TIMEOUT = Value("25s"), "how long jobs in flight may go on after SIGTERM; what is left goes back to its queue";
    IDLE_REST = Value("0s"), "how long a queue that was found empty is left alone: its next job waits up to this long, and an idle replica sends fewer commands, which some hosts charge for; `0s`: jobs are announced, and start at once";
    SPOOL_DIR = None, "folder on a disk that outlives the process: an outcome that Redis does not take while the worker stops waits there, in a file of its own, for the next start; without it such a job runs again";
    LEASE_TTL = Value("15s"), "silence of a replica after which others take over its jobs, and the slots of its calls come free";
    KEEP_COMPLETED_FOR = Value("24h"), "how long completed jobs stay readable";
    KEEP_COMPLETED_COUNT = Value("10000"), "how many completed jobs stay readable, in each queue";
    LEDGER_TTL = Value("24h"), "how long the answers of paid calls are kept for jobs that are not completed; `0s`: not at all";
    PRICES_FILE = None, "file of prices to use instead of this version's own (`prices.toml` in the repository shows the form)";
    BUDGET_DAILY_USD = None, "what all calls of a day may cost, UTC; without it: anything";
    BUDGET_MONTHLY_USD = None, "what all calls of a month may cost; `system:monthly_budget_limit` in Redis wins, and is followed at once";
    USER_BUDGET_MONTHLY_USD = None, "what the calls for one student may cost a month, such as `5`; a job beyond it fails";
    BUDGET_EXHAUSTED = Value("wait"), "jobs when the budget of the day or month is used up: `wait`, or `fail`";
    UNPRICED_CALLS = Value("refuse"), "calls of models without a price where there is a budget, which cannot hold them: `refuse` treats them as if it were used up, `allow` makes them";
    USAGE_WEBHOOK_URL: secret = None, "receiver of usage events, one `POST` for each call that costs (docs/spending.md); without it they stay in the stream `usage`";
    USAGE_WEBHOOK_SECRET: secret = None, "key of the signature (Standard Webhooks): `whsec_` and the base64 of 24 to 64 bytes; without it nothing is signed";
    USAGE_WEBHOOK_HEADERS: secret = None, "headers for the receiver: `name=value`, separated by commas";
    USAGE_WEBHOOK_BODY: secret = None, "body of a usage event: JSON with `{{field}}` in it; without it all fields";
    USAGE_WEBHOOK_TIMEOUT = Value("10s"), "longest wait for the receiver's answer";
    DEDUPLICATE = Value("off"), "jobs without `opts.idempotencyKey` that ask for the same: `user`: those of one student with the same type and payload get one result, `shared`: those of all students, `off`: each is paid for";
    DEDUPLICATE_TTL = Value("24h"), "how long the result of such a job is given to equal ones";
    UNKNOWN_CALL = Value("retry"), "a paid call whose answer was lost: `retry` makes it again, `fail` fails the job";
    UNKNOWN_JOB_TYPE = Value("fail"), "`fail`, or `give-back` where another worker serves the queue too";
    UPLOADS_DIR = None, "folder below which the files of `audioFilePath` and `imageFilePath` lie; without it they are refused";
    MEDIA_ALLOWED_HOSTS = Value(""), "hosts (`host` or `host:port`) that media may be fetched from over http and at private addresses, for development";
    MEDIA_MAX_BYTES = Value("20971520"), "largest audio or image file";
    MEDIA_MEMORY = Value("auto"), "bytes that large payloads and media of all jobs may take at a time; further jobs wait for room. `auto`: half of the container's memory limit, 1 GB without one";
    MEDIA_TIMEOUT = Value("30s"), "longest download of one file";
    ADMIN_TOKEN: secret = None, "opens the routes that change something; without it they are off; 16 characters or more, like the other tokens";
    ADMIN_FROM_LOOPBACK = Value("off"), "`on`, without `ADMIN_TOKEN`: they answer to 127.0.0.1 and ::1; not where a proxy or a sidecar on this host forwards to the port";
    ENQUEUE_TOKEN: secret = None, "opens the routes that add jobs, and no others";
    READ_TOKEN: secret = None, "closes the reading routes to everyone without it; where it is not set they answer under `localhost` and literal addresses only";
    TRUST_PROXY = Value("off"), "`on`: the last address of `X-Forwarded-For` is the caller's";
    USER_RATE_LIMIT = Value("200"), "jobs that one user may enqueue over HTTP within the window; `0` is no limit";
    IP_RATE_LIMIT = Value("0"), "the same for one address";
    RATE_LIMIT_WINDOW = Value("1h"), "length of both windows";
    LOG_FORMAT = Value("auto"), "`json`, `pretty`, or `auto`: pretty on a terminal";
    RUST_LOG = Value("info"), "which logs are written, such as `info,backend_worker=debug`";
    OTEL_EXPORTER_OTLP_ENDPOINT = None, "collector that traces are sent to (OTLP over HTTP, protobuf), such as `http://collector:4318`; without it nothing is traced";
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = None, "the whole URL for traces, instead: `/v1/traces` is not added";
    OTEL_EXPORTER_OTLP_HEADERS: secret = None, "headers for it: `name=value`, separated by commas";
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: secret = None, "headers for traces, instead";
    OTEL_EXPORTER_OTLP_TIMEOUT = None, "how long the collector may take, milliseconds (10000)";
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT = None, "the same for traces, instead";
    OTEL_EXPORTER_OTLP_COMPRESSION = None, "`gzip` or `none`";
    OTEL_EXPORTER_OTLP_TRACES_COMPRESSION = None, "the same for traces, instead";
    OTEL_EXPORTER_OTLP_PROTOCOL = None, "`http/protobuf`; others are refused";
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL = None, "the same for traces";
    OTEL_SERVICE_NAME = Value("backend-worker"), "what traces call this service";
    OTEL_RESOURCE_ATTRIBUTES = None, "more attributes of this service, such as `deployment.environment.name=production`: `name=value`, separated by commas";
    OTEL_TRACES_SAMPLER = Value("parentbased_always_on"), "which traces are kept: `always_on`, `always_off`, `traceidratio`, or `parentbased_` and one of these, which follows the producer's trace where there is one";
    OTEL_TRACES_SAMPLER_ARG = Value("1.0"), "the share of traces that `traceidratio` keeps";
    OTEL_TRACES_EXPORTER = Value("otlp"), "`otlp`, or `none`: nothing is traced";
    OTEL_SDK_DISABLED = Value("false"), "`true`: nothing is traced";
    OTEL_BSP_MAX_QUEUE_SIZE = Value("8192"), "spans that wait for the collector at most; more are dropped";
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE = Value("512"), "spans in one request at most";
    OTEL_BSP_SCHEDULE_DELAY = Value("2000"), "how long a span waits for others, milliseconds";
    RAILWAY_REPLICA_ID = None, "names the replica; the host name where it is not set";
    RAILWAY_DEPLOYMENT_DRAINING_SECONDS = None, "set it to more than `DRAIN_TIMEOUT`: Railway kills when it is over (0 s where it is not set)";
}
