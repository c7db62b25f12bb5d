//! The table of alerts: each rule once, for this crate and for Prometheus.

use super::{AlertRule, AlertSeverity, measure::AlertMeasure};
use crate::worker::worker_health::REDIS_ABSENCE;

/// The tried deliveries of the last 15 minutes.
macro_rules! tried {
    () => {
        "sum(increase(backend_worker_jobs_total{outcome=~\"succeeded|failed|retried\"}[15m]))"
    };
}
/// The ended jobs of the last 15 minutes.
macro_rules! ended {
    () => {
        "sum(increase(backend_worker_jobs_total{outcome=~\"succeeded|failed\"}[15m]))"
    };
}

/// All of them.
pub static RULES: &[AlertRule] = &[
    AlertRule {
        name: "BreakerOpen",
        severity: AlertSeverity::Critical,
        threshold: 300.0,
        about: "seconds since a breaker was last closed, for another reason than the account",
        action: "Look at the provider's status page, and at the network. The jobs wait, and go on by themselves; \
                 once the provider is well, `breaker reset <name>` saves the rest of the wait.",
        expr: "max by (breaker) (backend_worker_breaker_not_closed_seconds) > 300 unless on (breaker) \
               backend_worker_account_fault > 0",
        hold: "0s",
        measure: AlertMeasure::BreakerDown,
    },
    AlertRule {
        name: "ProviderAccount",
        severity: AlertSeverity::Critical,
        threshold: 0.0,
        about: "providers whose account makes jobs wait (credit, key, scope, model, parameter)",
        action: "Pay the provider's bill, replace the key, or correct the model: `check` and the reason of a waiting job \
                 tell which. The jobs wait and go on by themselves; `breaker reset <name>` saves the rest of the wait.",
        expr: "max by (breaker, fault) (backend_worker_account_fault) > 0",
        hold: "0s",
        measure: AlertMeasure::AccountFaults,
    },
    AlertRule {
        name: "ModelRetiring",
        severity: AlertSeverity::Critical,
        threshold: 0.0,
        about: "days that have passed of the last 30 before a provider shuts down the flashcards' model or the service that reads images",
        action: "Set OPENAI_MODEL, or AZURE_VISION_API, to the successor (`check` names it), and look at a few results before that day. Without it \
                 the worker moves to OPENAI_MODEL_SUCCESSOR by itself when the model is gone; images are not read any more.",
        expr: "min(backend_worker_model_shutdown_timestamp_seconds) - time() < 30 * 86400",
        hold: "0s",
        measure: AlertMeasure::ModelShutdown,
    },
    AlertRule {
        name: "BudgetUsedUp",
        severity: AlertSeverity::Critical,
        // The last call that fits leaves a rest that is smaller than the next one.
        threshold: 0.99,
        about: "share of the budget of the day or month that is spent or reserved",
        action: "`spend --by user`, `type` or `model` shows what it was spent on; `budget month <USD>` raises the budget of the month at once. Jobs wait, or fail with \
                 BUDGET_EXHAUSTED=fail.",
        expr: "max by (period) (backend_worker_budget_used_ratio) > 0.99",
        hold: "0s",
        measure: AlertMeasure::BudgetUsed,
    },
    AlertRule {
        name: "BudgetNearlyUsedUp",
        severity: AlertSeverity::Warning,
        threshold: 0.8,
        about: "share of the budget of the day or month that is spent or reserved",
        action: "`spend --by user`, `type` or `model` shows what it was spent on; decide whether the budget is to be raised before jobs wait for it.",
        expr: "max by (period) (backend_worker_budget_used_ratio) > 0.8",
        hold: "0s",
        measure: AlertMeasure::BudgetUsed,
    },
    AlertRule {
        name: "BudgetKillSwitch",
        severity: AlertSeverity::Critical,
        threshold: 0.0,
        about: "1 while the kill switch stops all paid calls",
        action: "`budget status` tells who has set it, and why; `budget resume` lets paid calls pass again.",
        expr: "max(backend_worker_budget_kill_switch) > 0",
        hold: "0s",
        measure: AlertMeasure::KillSwitch,
    },
    AlertRule {
        name: "UsageWebhookBehind",
        severity: AlertSeverity::Critical,
        threshold: 900.0,
        about: "age of the oldest usage event that USAGE_WEBHOOK_URL has not taken, seconds",
        action: "Look at the receiver, and at the warnings of the replica that forwards. Jobs go on, and events wait in Redis: \
                 up to 200,000, then the oldest are dropped (`budget webhook` counts them).",
        expr: "max(backend_worker_usage_webhook_oldest_seconds) > 900 or max(backend_worker_usage_webhook_backlog) > 100000",
        hold: "0s",
        measure: AlertMeasure::WebhookBehind,
    },
    AlertRule {
        name: "UsageWebhookRefused",
        severity: AlertSeverity::Warning,
        threshold: 0.0,
        about: "usage events that USAGE_WEBHOOK_URL has refused for their content",
        action: "The receiver's log tells why (a student that it does not know, a field that it does not take). `budget resend` \
                 forwards them again; `redis-cli DEL usage:refused` gives them up.",
        expr: "max(backend_worker_usage_webhook_refused_events) > 0",
        hold: "0s",
        measure: AlertMeasure::WebhookRefused,
    },
    AlertRule {
        name: "RedisAway",
        severity: AlertSeverity::Critical,
        threshold: REDIS_ABSENCE.as_secs() as f64,
        about: "seconds without an answer from Redis",
        action: "Look at Redis: is it up, full, loading, or slow? The worker keeps its jobs and goes on when it is back.",
        expr: "min(backend_worker_redis_up) < 1",
        hold: "15s",
        measure: AlertMeasure::RedisAway,
    },
    AlertRule {
        name: "FailureRate",
        severity: AlertSeverity::Critical,
        threshold: 0.05,
        about: "share of ended jobs that failed, last 15 minutes",
        action: "`job show <id>` of a failed job tells the reason; the label `class` of backend_worker_jobs_total tells \
                 whose fault it is.",
        expr: concat!(
            "sum(increase(backend_worker_jobs_total{outcome=\"failed\"}[15m])) / ",
            ended!(),
            " > 0.05 and ",
            ended!(),
            " >= 10"
        ),
        hold: "0s",
        measure: AlertMeasure::Share(|came| (came.failed, came.failed + came.succeeded)),
    },
    AlertRule {
        name: "PermanentErrors",
        severity: AlertSeverity::Warning,
        threshold: 0.05,
        about: "share of ended jobs that were wrong themselves, last 15 minutes",
        action: "Check the data of the jobs: their reason names the field, or the provider's refusal. Look at what the \
                 producer changed last.",
        expr: concat!(
            "sum(increase(backend_worker_jobs_total{outcome=\"failed\",class=\"permanent\"}[15m])) / ",
            ended!(),
            " > 0.05 and ",
            ended!(),
            " >= 10"
        ),
        hold: "0s",
        measure: AlertMeasure::Share(|came| (came.permanent, came.failed + came.succeeded)),
    },
    AlertRule {
        name: "RetryRate",
        severity: AlertSeverity::Warning,
        threshold: 0.2,
        about: "share of deliveries that needed another try, last 15 minutes",
        action: "Check what the retries are for: backend_worker_provider_retries_total by class. Rate limits: lower \
                 the limit here or raise it there. Time-outs: look at the provider's latency.",
        expr: concat!(
            "sum(increase(backend_worker_jobs_retried_total[15m])) / ",
            tried!(),
            " > 0.2 and ",
            tried!(),
            " >= 10"
        ),
        hold: "0s",
        measure: AlertMeasure::Share(|came| (came.retried, came.tried)),
    },
    AlertRule {
        name: "BreakerTransitions",
        severity: AlertSeverity::Warning,
        threshold: 10.0,
        about: "moves of breakers, last hour",
        action: "The provider is unstable: it recovers and fails again. Lower its limits, or open its breaker by hand \
                 until it is well.",
        expr: "sum(increase(backend_worker_breaker_transitions_total{scope=\"fleet\"}[1h])) > 10",
        hold: "0s",
        measure: AlertMeasure::Count(|came| came.transitions),
    },
    AlertRule {
        name: "OldestWaiting",
        severity: AlertSeverity::Warning,
        threshold: 300.0,
        about: "seconds that the next job in line has waited",
        action: "The queue is not served as fast as it fills: is it paused, are replicas up, are their slots full, does \
                 a limit hold them? Add replicas, or raise CONCURRENCY or the limit.",
        expr: "max by (queue, layout) (backend_worker_queue_oldest_waiting_seconds) > 300",
        hold: "1m",
        measure: AlertMeasure::Oldest,
    },
    AlertRule {
        name: "DeadLettersGrowing",
        severity: AlertSeverity::Warning,
        threshold: 10.0,
        about: "jobs that became dead letters, last hour",
        action: "The worker does not retry them by itself: find the reason (`job list --state failed`), mend it, and run \
                 `job retry --all`.",
        expr: "sum(max by (queue, layout) (delta(backend_worker_queue_jobs{state=\"failed\"}[1h]))) > 10",
        hold: "0s",
        measure: AlertMeasure::Count(|came| came.failed),
    },
];
