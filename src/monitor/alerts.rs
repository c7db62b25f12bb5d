//! The alerts: each rule once, as a verdict over the whole fleet, and for Prometheus (`docs/alerts.yml` is written from
//! here).

mod measure;
mod rules;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use self::measure::{AlertMeasure, MeasuredValue};
use super::FleetReading;
use crate::time_format::millis;

pub use rules::RULES;

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

/// One rule.
#[derive(Debug)]
pub struct AlertRule {
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub severity: AlertSeverity,
    /// It fires above this.
    pub threshold: f64,
    /// The value that is compared to it.
    pub about: &'static str,
    /// The operator's next step.
    pub action: &'static str,
    /// The same for Prometheus.
    pub expr: &'static str,
    /// For how long it must hold there.
    pub hold: &'static str,
    measure: AlertMeasure,
}

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
    /// The value that was compared; `null` while Redis is away and the value is not known.
    pub value: Option<f64>,
    /// It fires above this.
    pub threshold: f64,
    /// The meaning of the value.
    pub about: &'static str,
    /// The breaker or queue that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Since when it fires, ms since 1970 by Redis's clock; unknown while Redis is away.
    #[serde(skip)]
    pub since: Option<u64>,
    /// The operator's next step.
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
