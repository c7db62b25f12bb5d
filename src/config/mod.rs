//! The configuration: the only reader of the environment (and of a `.env` file, which the environment overrides).
//!
//! Every variable is declared once, in [`vars`]; everything is read and checked before a socket opens, and all that
//! is wrong is reported at once, by the variable's name. The process then exits with [`EXIT_CODE`].

mod broker;
mod cluster;
mod deployments;
mod durations;
mod endpoints;
mod examples;
mod exposure;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/environment.rs"]
pub(crate) mod fuzz;
mod gates;
mod handlers;
mod process;
mod queue_list;
mod reader;
mod redis_address;
mod redis_url;
mod retries;
mod spending;
mod traces;
pub mod vars;
mod webhook;

use std::{collections::HashMap, fmt, num::NonZeroU8, path::PathBuf, time::Duration};

use jobs::{JobType, Settings};
use secrecy::{ExposeSecret, SecretString};

pub(crate) use self::queue_list::check_queue_name;
pub use self::{queue_list::QueueSpec, spending::SpendingSettings};
use self::{queue_list::parse_queues, reader::EnvReader};
use crate::{
    connection::RedisAddress,
    deduplication::{Deduplicate, DeduplicationSettings},
    gate::GatesSettings,
    http_api::AccessControl,
    media_helper::HelperProgram,
    queue::BrokerOptions,
    ratelimit::RateWindow,
    retry::RetryPolicy,
    spend_ledger::UnknownCalls,
    spending::webhook::WebhookSettings,
    telemetry::{LogFormat, trace::TraceSettings},
    worker::{dispatcher::UnknownTypes, service_tier::TierRules},
};

/// Exit code for a wrong configuration (`EX_USAGE`).
pub const EXIT_CODE: u8 = 64;

/// Everything that can be configured, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Redis is.
    pub redis: RedisAddress,
    /// Port of the HTTP server; 0 takes a free one.
    pub port: u16,
    /// The queues to serve.
    pub queues: Vec<QueueSpec>,
    /// Prefix of the keys of queues in the BullMQ layout.
    pub bullmq_prefix: String,
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
    /// How long a queue without work is left alone.
    pub idle_rest: Duration,
    /// Folder for outcomes that Redis does not take while the replica stops.
    pub spool: Option<PathBuf>,
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
    /// Which jobs use the cheaper tier of their provider.
    pub tiers: TierRules,
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
        let mut config = Self::from_lookup(|name| values.get(name).cloned())?;
        let named = values
            .get("LLM_DEPLOYMENTS")
            .map(String::as_str)
            .filter(|names| !names.is_empty());
        let unnamed = deployments::unnamed(values.keys().map(String::as_str), named);
        config.warnings.extend(unnamed);
        Ok(config)
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
            bullmq_prefix: String::new(),
            handlers: handlers::read(&mut env),
            retry: retries::policy(&mut env),
            tries_by_type: env
                .optional(&vars::RETRY_MAX_ATTEMPTS_BY_TYPE, retries::tries_by_type)
                .unwrap_or_default(),
            gates: gates::read(&mut env, lease_ttl),
            access: access(&mut env),
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
            idle_rest: env.duration(&vars::IDLE_REST, Duration::ZERO, 5 * MINUTE),
            spool: env.optional(&vars::SPOOL_DIR, process::folder),
            platform_drain: process::platform_drain(&mut env),
            ledger_ttl: Some(env.duration(&vars::LEDGER_TTL, Duration::ZERO, 30 * 24 * HOUR))
                .filter(|ttl| !ttl.is_zero()),
            spending: spending::read(&mut env),
            webhook: webhook::read(&mut env),
            deduplication: deduplication(&mut env),
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
            tiers: retries::tiers(&mut env),
            unknown_types: env.parse(&vars::UNKNOWN_JOB_TYPE, |text| match text {
                "fail" => Ok(UnknownTypes::Fail),
                "give-back" => Ok(UnknownTypes::GiveBack),
                _ => Err("fail or give-back".to_owned()),
            }),
            broker: broker::read(&mut env, lease_ttl),
            log_format: env.parse(&vars::LOG_FORMAT, |text| text.parse()),
            log_filter: process::log_filter(&mut env),
            traces: traces::read(&mut env),
            media_memory: env.parse(&vars::MEDIA_MEMORY, process::media_memory),
            media_helper: HelperProgram::of_this_process(),
            replica: process::replica(&mut env),
            effective: Vec::new(),
            warnings: Vec::new(),
        };
        config.bullmq_prefix = cluster::bullmq_prefix(&mut env, config.redis.namespace());
        cluster::check_queues(&mut env, config.redis.namespace(), &config.queues);
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
            fallbacks,
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
        let of_fallbacks = fallbacks.iter().map(|s| &s.key);
        let keys = keys.into_iter().flatten().chain(of_fallbacks);
        let mut secrets: Vec<SecretString> = keys.cloned().collect();
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
        let sentinels = self.redis.sentinels();
        secrets.extend(sentinels.and_then(|sentinels| sentinels.password.clone()));
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

/// Reads who may call which HTTP routes.
fn access(env: &mut EnvReader<'_>) -> AccessControl {
    AccessControl {
        admin: env.token(&vars::ADMIN_TOKEN),
        enqueue: env.token(&vars::ENQUEUE_TOKEN),
        read: env.token(&vars::READ_TOKEN),
        admin_from_loopback: env.switch(&vars::ADMIN_FROM_LOOPBACK),
        trust_proxy: env.switch(&vars::TRUST_PROXY),
    }
}

/// Reads which jobs are equal.
fn deduplication(env: &mut EnvReader<'_>) -> DeduplicationSettings {
    DeduplicationSettings {
        mode: env.parse(&vars::DEDUPLICATE, |text| match text {
            "off" => Ok(Deduplicate::Off),
            "user" => Ok(Deduplicate::User),
            "shared" => Ok(Deduplicate::Shared),
            _ => Err("off, user or shared".to_owned()),
        }),
        keep_for: env.duration(&vars::DEDUPLICATE_TTL, Duration::from_secs(1), 30 * 24 * HOUR),
    }
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

#[cfg(test)]
mod tests;
