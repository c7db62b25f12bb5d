//! The alerts: each rule once, as a verdict over the whole fleet, and for Prometheus (`docs/alerts.yml` is written from
//! here).

use std::time::Duration;

use serde::Serialize;

use super::{
    FleetReading, millis,
    outcome_counts::{MinuteCounts, OutcomeCounts},
};
use crate::{spending::webhook::MOST_EVENTS, worker::worker_health::REDIS_ABSENCE};

/// The window of shares, minutes.
const SHARES: u64 = 15;
/// The window of counts, minutes.
const COUNTS: u64 = 60;
/// Fewest jobs for which the alerts judge a share: a share of fewer jobs is noise.
const FEWEST: u64 = 10;

/// So long before its shutdown a model needs a successor.
const RETIRING: Duration = Duration::from_hours(30 * 24);
const DAY: f64 = 86_400.0;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertSeverity {
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

impl AlertSeverity {
    #[cfg(test)]
    const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
enum AlertMeasure {
    /// The share of some jobs in others, in the last [`SHARES`] minutes.
    Share(fn(&OutcomeCounts) -> (u64, u64)),
    /// How often something happened in the last [`COUNTS`] minutes.
    Count(fn(&OutcomeCounts) -> u64),
    /// The longest that a breaker has not been closed for, seconds.
    BreakerDown,
    /// How many breakers stand for an account that jobs wait for.
    AccountFaults,
    /// The oldest job that is next in line, seconds.
    Oldest,
    /// The largest share of a budget of the fleet that is spent or reserved.
    BudgetUsed,
    /// Whether the kill switch is on.
    KillSwitch,
    /// Age of the oldest usage event that is not forwarded, seconds; the stream's bound counts as a day.
    WebhookBehind,
    /// Usage events that the receiver of the webhook refuses.
    WebhookRefused,
    /// Absence of Redis, seconds.
    RedisAway,
    /// Days of the last [`RETIRING`] before the model's shutdown that have passed.
    ModelShutdown,
}

/// One rule.
#[derive(Debug)]
pub struct AlertRule {
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub severity: AlertSeverity,
    /// It fires above this.
    pub threshold: f64,
    /// What is compared to it.
    pub about: &'static str,
    /// What to do.
    pub action: &'static str,
    /// The same for Prometheus.
    pub expr: &'static str,
    /// For how long it must hold there.
    pub hold: &'static str,
    measure: AlertMeasure,
}

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
        action: "Look at the provider's status page, its key and its credit. The jobs wait, and go on by themselves; \
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
        action: "`spend` tells on what; `budget month <USD>` raises the budget of the month at once. Jobs wait, or fail with \
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
        action: "`spend` tells on what; decide whether the budget is to be raised before jobs wait for it.",
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
        action: "The worker does not retry them: find the reason, mend it, and add the jobs again.",
        expr: "sum(max by (queue, layout) (delta(backend_worker_queue_jobs{state=\"failed\"}[1h]))) > 10",
        hold: "0s",
        measure: AlertMeasure::Count(|came| came.failed),
    },
];

/// The verdict on one rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// The rule's name.
    pub name: &'static str,
    /// How bad it is.
    pub severity: AlertSeverity,
    /// True if the alert fires.
    pub firing: bool,
    /// What was compared; `null` when it cannot be known, because Redis is away.
    pub value: Option<f64>,
    /// It fires above this.
    pub threshold: f64,
    /// What the value is.
    pub about: &'static str,
    /// The breaker or queue that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Since when it fires, ms since 1970 by Redis's clock; unknown while Redis is away.
    #[serde(skip)]
    pub since: Option<u64>,
    /// What to do.
    pub action: &'static str,
}

/// Judges every rule: over the fleet by a reading, and this replica's absence of Redis.
pub fn judge(reading: Option<&FleetReading>, redis_away: Duration) -> Vec<Alert> {
    let verdicts = RULES.iter().map(|rule| {
        let found = match (rule.measure, reading) {
            (AlertMeasure::RedisAway, reading) => Some(MeasuredValue {
                value: redis_away.as_secs_f64(),
                subject: None,
                since: reading.map(|r| r.now.saturating_sub(millis(redis_away))),
            }),
            (_, None) => None,
            (measure, Some(reading)) => Some(measure.of(rule.threshold, reading)),
        };
        let firing = found.as_ref().is_some_and(|found| found.value > rule.threshold);
        let (value, subject, since) =
            found.map_or((None, None, None), |f| (Some(f.value), f.subject, f.since));
        Alert {
            name: rule.name,
            severity: rule.severity,
            firing,
            value,
            threshold: rule.threshold,
            about: rule.about,
            subject: subject.filter(|_| firing),
            since: since.filter(|_| firing),
            action: rule.action,
        }
    });
    verdicts.collect()
}

struct MeasuredValue {
    value: f64,
    subject: Option<String>,
    /// Since when the value has been above the threshold, if it is.
    since: Option<u64>,
}

impl AlertMeasure {
    fn of(self, threshold: f64, reading: &FleetReading) -> MeasuredValue {
        let now = reading.now;
        // Something that grows with the clock passed the threshold so long ago.
        let aged = |subject: Option<String>, seconds: f64| MeasuredValue {
            value: seconds,
            subject,
            since: Some(now.saturating_sub(((seconds - threshold).max(0.0) * 1000.0) as u64)),
        };
        match self {
            Self::Share(of) => in_minutes(reading, threshold, |minutes, last| {
                let (part, whole) = of(&minutes.window(last, SHARES));
                if whole < FEWEST {
                    0.0
                } else {
                    part as f64 / whole as f64
                }
            }),
            Self::Count(of) => in_minutes(reading, threshold, |minutes, last| {
                of(&minutes.window(last, COUNTS)) as f64
            }),
            Self::BreakerDown => {
                let down = reading.breakers().into_iter().filter_map(|breaker| {
                    // That is the alert on the account: one cause, one alert.
                    if breaker.account_fault.is_some() {
                        return None;
                    }
                    let since = breaker.not_closed_since?;
                    Some((now.saturating_sub(since), breaker.name.clone()))
                });
                let (ms, name) = down.max().map_or((0, None), |(ms, name)| (ms, Some(name)));
                aged(name, ms as f64 / 1000.0)
            }
            Self::AccountFaults => {
                let faults = reading.breakers().into_iter().filter_map(|breaker| {
                    let fault = breaker.account_fault?;
                    Some((
                        format!("{}: {}", breaker.name, fault.in_words()),
                        breaker.not_closed_since,
                    ))
                });
                let faults: Vec<(String, Option<u64>)> = faults.collect();
                MeasuredValue {
                    value: faults.len() as f64,
                    since: faults.iter().filter_map(|(_, since)| *since).min(),
                    subject: faults.into_iter().next().map(|(subject, _)| subject),
                }
            }
            Self::Oldest => {
                let oldest = reading.queues.iter().max_by_key(|queue| queue.oldest);
                let name = oldest.map(|queue| format!("{}:{}", queue.layout, queue.queue));
                aged(name, oldest.map_or(0.0, |queue| queue.oldest.as_secs_f64()))
            }
            Self::ModelShutdown => {
                let left = reading.model_shutdown.map(|at| at.saturating_sub(now));
                let passed = left.map_or(0, |left| millis(RETIRING).saturating_sub(left));
                MeasuredValue {
                    value: passed as f64 / 1000.0 / DAY,
                    subject: None,
                    since: Some(now.saturating_sub(passed)),
                }
            }
            Self::BudgetUsed => {
                let money = reading.money.as_ref();
                let used = money.into_iter().flat_map(|money| [&money.day, &money.month]);
                let shares = used.filter_map(|used| Some((used.percent?, used.period.clone())));
                let (percent, period) = shares
                    .max()
                    .map_or((0, None), |(share, period)| (share, Some(period)));
                MeasuredValue {
                    value: percent as f64 / 100.0,
                    subject: period,
                    since: None,
                }
            }
            Self::KillSwitch => MeasuredValue {
                value: f64::from(u8::from(
                    reading.money.as_ref().is_some_and(|money| money.kill_switch),
                )),
                subject: None,
                since: None,
            },
            Self::WebhookBehind => {
                let webhook = reading.webhook.as_ref();
                let oldest = webhook.map_or(0.0, |webhook| webhook.oldest_ms as f64 / 1000.0);
                // A full stream loses events however young they are.
                let is_full = webhook.is_some_and(|webhook| webhook.waiting > MOST_EVENTS / 2);
                aged(None, if is_full { oldest.max(DAY) } else { oldest })
            }
            Self::WebhookRefused => MeasuredValue {
                value: reading
                    .webhook
                    .as_ref()
                    .map_or(0.0, |webhook| webhook.refused as f64),
                subject: None,
                since: None,
            },
            Self::RedisAway => aged(None, 0.0),
        }
    }
}

/// The value of this minute, and since which minute it has been above the threshold without a break.
fn in_minutes(
    reading: &FleetReading,
    threshold: f64,
    value: impl Fn(&MinuteCounts, u64) -> f64,
) -> MeasuredValue {
    let this = reading.now / 60_000;
    let above = |minute: &u64| value(&reading.minutes, *minute) > threshold;
    let first = (this.saturating_sub(COUNTS)..=this)
        .rev()
        .take_while(above)
        .last();
    MeasuredValue {
        value: value(&reading.minutes, this),
        subject: None,
        since: first.map(|minute| minute * 60_000),
    }
}

#[cfg(test)]
mod tests;
