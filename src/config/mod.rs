//! The configuration: the only reader of the environment (and of a `.env` file, which the environment overrides).
//!
//! Every variable is declared once, in [`vars`]; everything is read and checked before a socket opens, and all that
//! is wrong is reported at once, by the variable's name. The process then exits with [`EXIT_CODE`].

mod endpoints;
mod exposure;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/environment.rs"]
pub(crate) mod fuzz;
mod gates;
mod handlers;
mod reader;
mod redis_address;
mod redis_url;
mod spending;
mod traces;
pub mod vars;
mod webhook;

use std::{
    collections::HashMap,
    fmt,
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

use jobs::{JobType, Settings};
use secrecy::{ExposeSecret, SecretString};

use self::reader::EnvReader;
pub use self::spending::SpendingSettings;
use crate::{
    connection::RedisAddress,
    deduplication::{Deduplicate, DeduplicationSettings},
    gate::GatesSettings,
    http_api::AccessControl,
    media_helper::HelperProgram,
    queue::{BrokerOptions, Layout, PayloadField},
    ratelimit::RateWindow,
    retry::{Backoff, LONGEST_WAIT_IN_SLOT, RetryPolicy},
    spend_ledger::UnknownCalls,
    spending::webhook::WebhookSettings,
    telemetry::{LogFormat, trace::TraceSettings},
    worker::dispatcher::UnknownTypes,
};

/// Exit code for a wrong configuration (`EX_USAGE`).
pub const EXIT_CODE: u8 = 64;

/// A queue to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// How it is laid out.
    pub layout: Layout,
    /// Its name.
    pub name: String,
    /// Jobs at a time.
    pub concurrency: usize,
}

/// Everything that can be configured, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Redis is.
    pub redis: RedisAddress,
    /// Port of the HTTP server; 0 takes a free one.
    pub port: u16,
    /// The queues to serve.
    pub queues: Vec<QueueSpec>,
    /// Settings of the handlers.
    pub handlers: Settings,
    /// How provider calls are retried.
    pub retry: RetryPolicy,
    /// Tries of each provider call, for job types that differ.
    pub tries_by_type: HashMap<JobType, NonZeroU8>,
    /// Breakers and limits; `None` with both switched off.
    pub gates: Option<GatesSettings>,
    /// Access rules of the HTTP routes.
    pub access: AccessControl,
    /// How often one user may enqueue over HTTP.
    pub user_window: RateWindow,
    /// How often one address may enqueue over HTTP.
    pub ip_window: RateWindow,
    /// How long a job may be made to wait by an open breaker, or for credit, in all.
    pub max_wait: Duration,
    /// Longest run of one delivery.
    pub deadline: Duration,
    /// How long jobs in flight may go on after a stop signal.
    pub drain: Duration,
    /// How long after the stop signal the platform kills, where it says so.
    pub platform_drain: Option<Duration>,
    /// How long the answers of paid calls are kept; `None` with the ledger switched off.
    pub ledger_ttl: Option<Duration>,
    /// Prices and budgets of provider calls.
    pub spending: SpendingSettings,
    /// Where usage events are forwarded; `None`: nowhere.
    pub webhook: Option<WebhookSettings>,
    /// Which jobs are equal, and get one result.
    pub deduplication: DeduplicationSettings,
    /// The rule for a paid call whose answer was lost.
    pub unknown_calls: UnknownCalls,
    /// True if this worker's back-off spaces retries of BullMQ jobs whose producer names none.
    pub spreads_retries: bool,
    /// The rule for jobs of unknown types.
    pub unknown_types: UnknownTypes,
    /// How queues are kept.
    pub broker: BrokerOptions,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs are written.
    pub log_filter: String,
    /// Where traces are sent; `None`: nowhere.
    pub traces: Option<TraceSettings>,
    /// Memory that payloads and media of all jobs may take at a time, bytes.
    pub media_memory: u64,
    /// The program of the processes in which recordings are decoded.
    pub media_helper: HelperProgram,
    /// Names this replica: unique, and recognisable to an operator.
    pub replica: String,
    effective: Vec<(&'static str, String)>,
    warnings: Vec<String>,
}

/// All that is wrong with the environment, a line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is wrong:\n  {}", .0.join("\n  "))]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// All that is wrong.
    pub fn faults(&self) -> &[String] {
        &self.0
    }
}

impl Config {
    /// Reads the process's environment, and a `.env` file in the working directory or above it.
    ///
    /// # Errors
    /// All that is wrong, by the variables' names.
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut values = HashMap::new();
        match dotenvy::dotenv_iter() {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|e| ConfigError(vec![dotenv_fault(&e)]))?;
                    values.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(error) => return Err(ConfigError(vec![dotenv_fault(&error)])),
        }
        let mut unreadable = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(values.insert(name, value)),
                // Ignored, a token of these bytes would leave open what it is to close.
                Err(_) if vars::ALL.iter().any(|var| var.name == name) => {
                    unreadable.push(format!("{name}: the value is refused: it is not UTF-8"));
                }
                Err(_) => {}
            }
        }
        if !unreadable.is_empty() {
            return Err(ConfigError(unreadable));
        }
        Self::from_lookup(|name| values.get(name).cloned())
    }

    /// Reads variables from anywhere: tests and the demo pass a map.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut env = EnvReader::new(&lookup);
        let concurrency = env.number(&vars::CONCURRENCY, 1..=10_000);
        // A call to Redis may take two seconds, and a lease has to outlast a few of them.
        let lease_ttl = env.duration(&vars::LEASE_TTL, Duration::from_secs(5), 10 * MINUTE);
        let window = env.duration(&vars::RATE_LIMIT_WINDOW, Duration::from_secs(1), 24 * HOUR);
        let mut config = Self {
            redis: redis_address::read(&mut env),
            port: env.number(&vars::PORT, 0..=65_535),
            queues: env.parse(&vars::QUEUES, |text| parse_queues(text, concurrency)),
            handlers: handlers::read(&mut env),
            retry: retry(&mut env),
            tries_by_type: env
                .optional(&vars::RETRY_MAX_ATTEMPTS_BY_TYPE, tries_by_type)
                .unwrap_or_default(),
            gates: gates::read(&mut env, lease_ttl),
            access: AccessControl {
                admin: env.token(&vars::ADMIN_TOKEN),
                enqueue: env.token(&vars::ENQUEUE_TOKEN),
                read: env.token(&vars::READ_TOKEN),
                admin_from_loopback: env.switch(&vars::ADMIN_FROM_LOOPBACK),
                trust_proxy: env.switch(&vars::TRUST_PROXY),
            },
            user_window: RateWindow {
                limit: env.number(&vars::USER_RATE_LIMIT, 0..=1_000_000),
                length: window,
            },
            ip_window: RateWindow {
                limit: env.number(&vars::IP_RATE_LIMIT, 0..=1_000_000),
                length: window,
            },
            max_wait: env.duration(&vars::CIRCUIT_MAX_WAIT, Duration::ZERO, 24 * HOUR),
            deadline: env.duration(&vars::JOB_DEADLINE, Duration::from_secs(1), HOUR),
            drain: env.duration(&vars::DRAIN_TIMEOUT, Duration::ZERO, HOUR),
            platform_drain: platform_drain(&mut env),
            ledger_ttl: Some(env.duration(&vars::LEDGER_TTL, Duration::ZERO, 30 * 24 * HOUR))
                .filter(|ttl| !ttl.is_zero()),
            spending: spending::read(&mut env),
            webhook: webhook::read(&mut env),
            deduplication: DeduplicationSettings {
                mode: env.parse(&vars::DEDUPLICATE, |text| match text {
                    "off" => Ok(Deduplicate::Off),
                    "user" => Ok(Deduplicate::User),
                    "shared" => Ok(Deduplicate::Shared),
                    _ => Err("off, user or shared".to_owned()),
                }),
                keep_for: env.duration(&vars::DEDUPLICATE_TTL, Duration::from_secs(1), 30 * 24 * HOUR),
            },
            unknown_calls: env.parse(&vars::UNKNOWN_CALL, |text| match text {
                "retry" => Ok(UnknownCalls::Retry),
                "fail" => Ok(UnknownCalls::Fail),
                _ => Err("retry or fail".to_owned()),
            }),
            spreads_retries: env.parse(&vars::QUEUE_BACKOFF, |text| match text {
                "spread" => Ok(true),
                "as-bullmq" => Ok(false),
                _ => Err("spread or as-bullmq".to_owned()),
            }),
            unknown_types: env.parse(&vars::UNKNOWN_JOB_TYPE, |text| match text {
                "fail" => Ok(UnknownTypes::Fail),
                "give-back" => Ok(UnknownTypes::GiveBack),
                _ => Err("fail or give-back".to_owned()),
            }),
            broker: BrokerOptions {
                lease_ttl,
                keep_completed_for: env.duration(&vars::KEEP_COMPLETED_FOR, Duration::ZERO, 366 * 24 * HOUR),
                keep_completed_count: env.number(&vars::KEEP_COMPLETED_COUNT, 0..=10_000_000),
                leave_out_large: true,
                ..shares(&mut env)
            },
            log_format: env.parse(&vars::LOG_FORMAT, |text| text.parse()),
            log_filter: env.parse(&vars::RUST_LOG, |text| {
                // Its parser panics at some others, and names of modules hold none.
                if !text.is_ascii() {
                    return Err("only ASCII".to_owned());
                }
                tracing_subscriber::EnvFilter::try_new(text)
                    .map(|_| text.to_owned())
                    .map_err(|e| e.to_string())
            }),
            traces: traces::read(&mut env),
            media_memory: env.parse(&vars::MEDIA_MEMORY, media_memory),
            media_helper: HelperProgram::of_this_process(),
            replica: replica(&mut env),
            effective: Vec::new(),
            warnings: Vec::new(),
        };
        (config.effective, config.warnings) = env.finish().map_err(ConfigError)?;
        Ok(config)
    }

    /// Describes the effect on jobs in flight if the platform grants less drain time than the configuration promises.
    pub fn drain_fault(&self) -> Option<String> {
        let platform = self.platform_drain.filter(|drain| *drain < self.drain)?;
        Some(format!(
            "RAILWAY_DEPLOYMENT_DRAINING_SECONDS is {} s, shorter than DRAIN_TIMEOUT ({} s): jobs in flight will be \
             killed at a deployment",
            platform.as_secs(),
            self.drain.as_secs()
        ))
    }

    /// All that must not be shown: keys, tokens and passwords.
    pub fn secrets(&self) -> Vec<SecretString> {
        let Settings {
            openai,
            speech,
            vision,
            ..
        } = &self.handlers;
        let keys = [
            openai.as_ref().map(|s| &s.key),
            speech.as_ref().map(|s| &s.key),
            vision.as_ref().map(|s| &s.key),
            self.access.admin.as_ref(),
            self.access.enqueue.as_ref(),
            self.access.read.as_ref(),
        ];
        let mut secrets: Vec<SecretString> = keys.into_iter().flatten().cloned().collect();
        // In the URL it may be percent-encoded, which Redis's client shows decoded.
        if let Ok(info) = redis::IntoConnectionInfo::into_connection_info(self.redis.url().expose_secret())
            && let Some(password) = info.redis_settings().password()
        {
            secrets.push(password.into());
        }
        if let Ok(url) = self.redis.url().expose_secret().parse::<url::Url>()
            && let Some(password) = url.password()
        {
            secrets.push(password.into());
        }
        let of_webhook = self.webhook.iter().flat_map(|webhook| &webhook.headers);
        let headers = self.traces.iter().flat_map(|traces| &traces.headers);
        let headers = headers.chain(of_webhook);
        secrets.extend(headers.filter_map(|(_, value)| value.to_str().ok().map(SecretString::from)));
        secrets
    }

    /// Lines about values that were changed before they were used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Each variable with the value in force, secrets left out.
    pub fn effective(&self) -> impl fmt::Display {
        struct Pairs(Vec<(&'static str, String)>);
        impl fmt::Display for Pairs {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, (name, value)) in self.0.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i == 0 { "" } else { " " })?;
                }
                Ok(())
            }
        }
        Pairs(self.effective.clone())
    }
}

/// Bytes, or what this host's limit allows.
fn media_memory(text: &str) -> Result<u64, String> {
    /// Where nothing limits the process.
    const UNLIMITED: u64 = 1 << 30;
    /// Below this, media of the largest size would run one at a time.
    const LEAST: u64 = 64 << 20;
    if text == "auto" {
        // Of cgroups of version 2, and 1.
        let limits = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        let limit = limits
            .iter()
            .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
        // Version 1 writes a number near the end of the range where there is none.
        return Ok(limit
            .filter(|limit| *limit < 1 << 50)
            .map_or(UNLIMITED, |limit| (limit / 2).max(LEAST)));
    }
    let bytes = text
        .parse()
        .ok()
        .filter(|bytes| (LEAST..=1 << 40).contains(bytes));
    bytes.ok_or_else(|| format!("auto, or bytes from {LEAST} to {}", 1u64 << 40))
}

/// The place of an error in the file, without its text, which may be a secret.
fn dotenv_fault(error: &dotenvy::Error) -> String {
    match error {
        dotenvy::Error::LineParse(_, at) => format!(".env: a line cannot be read, at its byte {at}"),
        other => format!(".env: {other}"),
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Drain time of the platform. Railway kills at once unless configured to wait; on other platforms it is unknown.
fn platform_drain(env: &mut EnvReader<'_>) -> Option<Duration> {
    let seconds = env.optional(&vars::RAILWAY_DEPLOYMENT_DRAINING_SECONDS, |text| {
        text.parse()
            .map(Duration::from_secs)
            .map_err(|_| "a number of seconds".to_owned())
    });
    seconds.or_else(|| env.is_set(&vars::RAILWAY_REPLICA_ID).then_some(Duration::ZERO))
}

/// `[layout:]name[=concurrency]`, separated by commas.
fn parse_queues(text: &str, concurrency: usize) -> Result<Vec<QueueSpec>, String> {
    let mut queues: Vec<QueueSpec> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, concurrency) = match entry.split_once('=') {
            Some((name, number)) => {
                let number = number.trim().parse().ok().filter(|n| (1..=10_000).contains(n));
                (
                    name,
                    number.ok_or_else(|| format!("{entry:?}: the concurrency must be from 1 to 10000"))?,
                )
            }
            None => (entry, concurrency),
        };
        let (layout, name) = match name.split_once(':') {
            Some((layout, name)) => (
                layout.parse().map_err(|e| format!("{entry:?}: {e}"))?,
                name.trim(),
            ),
            None => (Layout::Apalis, name.trim()),
        };
        let name = check_queue_name(name).map_err(|fault| format!("{entry:?}: {fault}"))?;
        if queues.iter().any(|q| q.layout == layout && q.name == name) {
            return Err(format!("{entry:?} is there twice"));
        }
        queues.push(QueueSpec {
            layout,
            name,
            concurrency,
        });
    }
    if queues.is_empty() {
        Err("at least one queue".to_owned())
    } else {
        Ok(queues)
    }
}

/// Checks the name of a queue.
pub(crate) fn check_queue_name(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains(':') {
        true => Err("a queue's name is not empty and holds no colon".to_owned()),
        false => Ok(name.to_owned()),
    }
}

/// The value of `QUEUES` where it is not set: the queue of each job type, in every layout.
pub(crate) fn default_queues() -> String {
    let mut queues = Vec::new();
    for layout in Layout::ALL {
        for kind in JobType::ALL {
            let queue = format!("{layout}:{}", kind.default_queue());
            // Job types can share a queue.
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
    }
    queues.join(",")
}

/// The payload field that names a job's owner.
fn fairness(text: &str) -> Result<Option<PayloadField>, String> {
    if text == "off" {
        return Ok(None);
    }
    let name = PayloadField::new(text);
    let fault = || "off, or the name of a field: up to 64 letters, digits, `_`, `-` and `.`".to_owned();
    name.map(Some).ok_or_else(fault)
}

/// `process-image:5,generate-flashcards:2`.
fn tries_by_type(text: &str) -> Result<HashMap<JobType, NonZeroU8>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (kind, tries) = entry
                .split_once(':')
                .ok_or("a list of type:tries, such as process-image:5,generate-flashcards:2")?;
            let kind = kind.trim().parse().map_err(|_| {
                let known = JobType::ALL.map(JobType::as_str).join(", ");
                format!("the types of job are {known}")
            })?;
            let tries = tries.trim().parse().ok().filter(|tries| (1..=10).contains(tries));
            let tries = tries.and_then(NonZeroU8::new).ok_or("tries from 1 to 10")?;
            Ok((kind, tries))
        })
        .collect()
}

/// How a queue is shared between owners. The cap on an owner's jobs needs owners.
fn shares(env: &mut EnvReader<'_>) -> BrokerOptions {
    let fairness = env.parse(&vars::FAIRNESS_KEY, fairness);
    let most_per_owner = NonZeroU32::new(env.number(&vars::USER_MAX_CONCURRENT, 0..=1_000));
    if most_per_owner.is_some() && fairness.is_none() {
        let fault =
            "is set, and FAIRNESS_KEY=off names no field that tells owners apart: unset one of the two";
        env.complain::<()>(&vars::USER_MAX_CONCURRENT, fault);
    }
    BrokerOptions {
        fairness,
        most_per_owner,
        ..BrokerOptions::default()
    }
}

fn retry(env: &mut EnvReader<'_>) -> RetryPolicy {
    let tries = env.number::<u8>(&vars::RETRY_MAX_ATTEMPTS, 1..=10);
    let base = env.duration(&vars::RETRY_BASE_DELAY, Duration::from_millis(1), HOUR);
    // A longer wait would not be sat out in the slot.
    let max = env.duration(
        &vars::RETRY_MAX_DELAY,
        Duration::from_millis(1),
        LONGEST_WAIT_IN_SLOT,
    );
    let jitter = env.parse(&vars::RETRY_JITTER, |text| {
        text.parse().map_err(|_| "a share from 0 to 1".to_owned())
    });
    let backoff = Backoff::new(base, 2.0, max, jitter).unwrap_or_else(|error| {
        env.complain::<()>(
            &vars::RETRY_BASE_DELAY,
            &format!("with RETRY_MAX_DELAY and RETRY_JITTER: {error}"),
        );
        Backoff::default()
    });
    RetryPolicy {
        tries: NonZeroU8::new(tries).unwrap_or(NonZeroU8::MIN),
        backoff,
    }
}

/// `<replica id or host name>-<nonce>`: two replicas never share a name, whatever the platform calls them.
fn replica(env: &mut EnvReader<'_>) -> String {
    let host = env.optional(&vars::RAILWAY_REPLICA_ID, |text| Ok(text.to_owned()));
    let host = host.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned());
    let short = fit_for_a_name(&host);
    format!(
        "{}-{:08x}",
        if short.is_empty() { "replica" } else { &short },
        rand::random::<u32>()
    )
}

/// Reduces a text to the characters that a name may contain.
fn fit_for_a_name(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(40)
        .collect()
}

#[cfg(test)]
mod tests;
