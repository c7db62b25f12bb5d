//! Every metric, declared once. `docs/metrics.md` is written from this table.

/// The type of a metric, in Prometheus's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number of now.
    Gauge,
    /// How often something took how long.
    Histogram,
}

impl MetricKind {
    /// Its name in the text format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric, with all its labels.
#[derive(Debug)]
pub struct MetricFamily {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, for the help text.
    pub about: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $about:literal;)*) => {
        $(
            #[doc = $about]
            pub static $constant: MetricFamily = MetricFamily {
                name: $name,
                kind: MetricKind::$kind,
                labels: &[$($label),*],
                about: $about,
            };
        )*
        /// All of them, in the order of an answer.
        pub static ALL: &[&MetricFamily] = &[$(&$constant),*];
    };
}

families! {
    BUILD_INFO = Gauge "backend_worker_build_info" ["version"] "1; the label tells which build runs";
    JOBS = Counter "backend_worker_jobs_total" ["queue", "layout", "type", "outcome", "class"] "deliveries that ended here, by outcome and class of failure (series appear with their first job)";
    RETRIED = Counter "backend_worker_jobs_retried_total" ["queue", "layout", "type"] "deliveries that needed a second try, or that used up an attempt and come again";
    JOB_SECONDS = Histogram "backend_worker_job_seconds" ["queue", "layout", "type"] "time from claim to outcome (series appear with their first job)";
    RECOVERED = Counter "backend_worker_jobs_recovered_total" ["queue", "layout", "fate"] "jobs of dead replicas that this one put back or failed as poison";
    IN_FLIGHT = Gauge "backend_worker_jobs_in_flight" ["queue", "layout"] "jobs that this replica holds";
    SLOTS = Gauge "backend_worker_slots" ["queue", "layout"] "jobs that the queue may have in flight on this replica";
    CALLS = Counter "backend_worker_provider_calls_total" ["provider", "class", "status"] "tries of provider calls, by class of failure and answer (series appear with their first call)";
    CALL_SECONDS = Histogram "backend_worker_provider_call_seconds" ["provider"] "time of one try, without waits";
    RETRIES = Counter "backend_worker_provider_retries_total" ["provider", "class"] "tries that followed a failed one in the same delivery (series appear with their first retry)";
    RETRY_DELAY = Histogram "backend_worker_provider_retry_delay_seconds" ["provider"] "wait before a try that follows a failed one";
    PAID_CALLS = Counter "backend_worker_paid_calls_total" ["provider"] "answers that cost money";
    SPENT = Counter "backend_worker_spent_usd_total" ["provider", "certainty"] "USD that this replica's calls have cost, by the prices in force; possible: of calls whose answer was lost, at most";
    UNPRICED_CALLS = Counter "backend_worker_unpriced_calls_total" ["provider"] "answers of models that have no price: what they cost is not known";
    USAGE_WEBHOOK = Counter "backend_worker_usage_webhook_total" ["result"] "usage events: delivered to USAGE_WEBHOOK_URL; failed: tries that were not taken; refused: set aside for their content; skipped: without the student that the body needs";
    DEDUPLICATED = Counter "backend_worker_deduplicated_jobs_total" ["type", "how"] "jobs that were given the result of an equal one and paid for nothing; waited: times that a job waited for an equal one that ran";
    SAVED = Counter "backend_worker_saved_usd_total" ["type"] "USD that the results had cost which this replica gave to equal jobs";
    USELESS_ANSWERS = Counter "backend_worker_useless_answers_total" ["provider"] "answers that arrived and were of no use to their job; they do not count for the breaker";
    LEDGER = Counter "backend_worker_ledger_total" ["event"] "paid calls sent; answers reused instead of sending; unknown: sent once and the answer lost; resent: of these, sent again; unrecorded: not written down";
    TOKENS = Counter "backend_worker_tokens_total" ["provider"] "tokens that the provider charged";
    ADMISSIONS = Counter "backend_worker_gate_admissions_total" ["provider", "scope"] "calls that the gate let pass: the fleet's, or the replica's own while Redis is away";
    REJECTIONS = Counter "backend_worker_gate_rejections_total" ["provider", "reason"] "calls that the gate refused";
    TRANSITIONS = Counter "backend_worker_breaker_transitions_total" ["breaker", "to", "scope"] "changes of a breaker's state, each counted by one replica";
    REDIS_SECONDS = Histogram "backend_worker_redis_call_seconds" [] "time of one call to Redis, those that fail included";
    REDIS_ERRORS = Counter "backend_worker_redis_errors_total" ["kind"] "calls to Redis that failed";
    REDIS_RECONNECTS = Counter "backend_worker_redis_reconnects_total" [] "times that Redis was reached again";
    HTTP_DENIED = Counter "backend_worker_http_denied_total" [] "HTTP requests that were refused for want of a valid token, or because of where they came from";
    MODEL_SHUTDOWN = Gauge "backend_worker_model_shutdown_timestamp_seconds" ["provider"] "when the provider shuts down the deployment's model, or the service that reads images, seconds since 1970; absent where no day is known";
    TRACE_SPANS = Counter "backend_worker_trace_spans_total" ["fate"] "spans for OpenTelemetry";
    REDIS_UP = Gauge "backend_worker_redis_up" [] "1 when this replica could read the fleet's metrics from Redis; they are absent when it is 0";
    QUEUE_JOBS = Gauge "backend_worker_queue_jobs" ["queue", "layout", "state"] "jobs in the queue; every replica reports the same";
    QUEUE_OLDEST = Gauge "backend_worker_queue_oldest_waiting_seconds" ["queue", "layout"] "age of the job that is next in line, 0 without one; every replica reports the same";
    BUDGET_USED = Gauge "backend_worker_budget_used_ratio" ["period"] "share of the fleet's budget that is spent or reserved, absent where there is none; every replica reports the same";
    KILL_SWITCH = Gauge "backend_worker_budget_kill_switch" [] "1 while the kill switch stops all paid calls, else 0; every replica reports the same";
    WEBHOOK_WAITING = Gauge "backend_worker_usage_webhook_backlog" [] "usage events that USAGE_WEBHOOK_URL has not taken yet, absent without it; every replica reports the same";
    WEBHOOK_OLDEST = Gauge "backend_worker_usage_webhook_oldest_seconds" [] "age of the oldest usage event that USAGE_WEBHOOK_URL has not taken, 0 without any; every replica reports the same";
    WEBHOOK_REFUSED = Gauge "backend_worker_usage_webhook_refused_events" [] "usage events that are set aside because the receiver refuses their content; every replica reports the same";
    BREAKER_STATE = Gauge "backend_worker_breaker_state" ["breaker", "state"] "1 for the state that the fleet's breaker is in; every replica reports the same";
    BREAKER_DOWN = Gauge "backend_worker_breaker_not_closed_seconds" ["breaker"] "time since the fleet's breaker was last closed, 0 while it is; every replica reports the same";
    ACCOUNT_FAULT = Gauge "backend_worker_account_fault" ["breaker", "fault"] "1 while jobs wait for the provider's account: its credit, key, scope, model and so on, else 0; every replica reports the same";
    LIMIT = Gauge "backend_worker_limit" ["provider", "limit"] "limit of the provider, absent where there is none; every replica reports the same";
    LIMIT_USED = Gauge "backend_worker_limit_used" ["provider", "limit"] "part of a provider's limit that the fleet uses; every replica reports the same";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" [] "memory of the process";
    PROCESS_CPU = Counter "process_cpu_seconds_total" [] "CPU time of the process";
    PROCESS_FDS = Gauge "process_open_fds" [] "open files and sockets of the process";
    PROCESS_START = Gauge "process_start_time_seconds" [] "when the process started, seconds since 1970";
}

/// How equal jobs are counted.
pub const DEDUPLICATED_AS: [&str; 2] = ["reused", "waited"];

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fmt::Write, fs, path::Path};

    use jobs::{AccountFault, Provider};
    use strum::VariantArray;

    use super::*;
    use crate::{
        gate::{Reason, State},
        queue::Layout,
        telemetry::metrics::labels::{Answer, JobClass, JobLabel, JobOutcome, RedisFault, WebhookResult},
    };

    /// The values of a label.
    fn values(label: &str) -> String {
        let list = |values: Vec<&str>| {
            let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            quoted.join(", ")
        };
        match label {
            "version" => "of the build".to_owned(),
            "queue" => "those of `QUEUES`".to_owned(),
            "breaker" => {
                "the names in the variables `*_BREAKER`, and `llm-<name>` of further deployments".to_owned()
            }
            "layout" => list(Layout::ALL.map(Layout::as_str).to_vec()),
            "type" => list(JobLabel::all().map(JobLabel::as_str).collect()),
            "outcome" => list(JobOutcome::VARIANTS.iter().map(|v| v.into_str()).collect()),
            "class" => list(JobClass::all().map(JobClass::as_str).collect()),
            "fate" => "of jobs `requeued`, `poisoned`; of spans `exported`, `dropped`".to_owned(),
            "event" => list(vec!["sent", "reused", "unknown", "resent", "unrecorded"]),
            "provider" => {
                let providers = list(Provider::ALL.map(Provider::as_str).to_vec());
                format!("{providers}; `llm-<name>` for each further deployment of `LLM_DEPLOYMENTS`")
            }
            "period" => list(vec!["day", "month"]),
            "how" => list(DEDUPLICATED_AS.to_vec()),
            "certainty" => list(vec!["certain", "possible"]),
            "status" => list(Answer::VARIANTS.iter().map(|v| v.into_str()).collect()),
            "scope" => list(vec!["fleet", "replica"]),
            "reason" => list(Reason::VARIANTS.iter().map(|v| v.into_str()).collect()),
            "to" => list(State::VARIANTS.iter().map(|v| v.into_str()).collect()),
            "result" => list(WebhookResult::VARIANTS.iter().map(|v| v.into_str()).collect()),
            "kind" => list(RedisFault::VARIANTS.iter().map(|v| v.into_str()).collect()),
            "state" => format!(
                "of a breaker {}; of jobs `waiting`, `active`, `completed`, `failed`, `delayed`",
                values("to")
            ),
            "fault" => list(AccountFault::ALL.map(AccountFault::as_str).to_vec()),
            "limit" => list(vec!["concurrent", "requests_per_minute", "tokens_per_minute"]),
            unknown => panic!("the label {unknown} has no values"),
        }
    }

    fn document() -> String {
        let mut text = String::from(
            "# Metrics\n\nWritten from `src/telemetry/metrics/families.rs` by `UPDATE_SCHEMAS=1 cargo test metrics_table`. \
             `GET /metrics` serves them.\n\n| metric | kind | labels | tells |\n|---|---|---|---|\n",
        );
        for family in ALL {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, about) = (family.name, family.kind.as_str(), family.about);
            writeln!(text, "| `{name}` | {kind} | {} | {about} |", labels.join(", ")).unwrap();
        }
        text.push_str("\n| label | values |\n|---|---|\n");
        let mut seen = HashSet::new();
        for label in ALL.iter().flat_map(|family| family.labels) {
            if seen.insert(label) {
                writeln!(text, "| `{label}` | {} |", values(label)).unwrap();
            }
        }
        text
    }

    #[test]
    fn metrics_table_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var("UPDATE_SCHEMAS").is_ok_and(|value| value == "1") {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, document()).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap_or_default() == document(),
            "docs/metrics.md differs from the table. Run `UPDATE_SCHEMAS=1 cargo test metrics_table`."
        );
    }

    #[test]
    fn metrics_table_keeps_to_prometheus_rules() {
        let mut names = HashSet::new();
        for family in ALL {
            assert!(names.insert(family.name), "{} is there twice", family.name);
            assert_eq!(
                family.kind == MetricKind::Counter,
                family.name.ends_with("_total"),
                "{}",
                family.name
            );
            for name in family.labels.iter().chain([&family.name]) {
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            }
            assert!(!family.about.contains(['\n', '\\']), "{}", family.name);
        }
    }
}
