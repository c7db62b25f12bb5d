//! The values that the rules look at, and how each is read out of the figures of the fleet.

use std::time::Duration;

use crate::{
    monitor::{
        FleetReading,
        outcome_counts::{MinuteCounts, OutcomeCounts},
    },
    spending::webhook::MOST_EVENTS,
    time_format::millis,
};

/// The window of shares, minutes.
const SHARES: u64 = 15;
/// The window of counts, minutes.
const COUNTS: u64 = 60;
/// Fewest jobs for which the alerts judge a share: a share of fewer jobs is noise.
const FEWEST: u64 = 10;

/// So long before its shutdown a model needs a successor.
const RETIRING: Duration = Duration::from_hours(30 * 24);
const DAY: f64 = 86_400.0;

/// The measure of a rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum AlertMeasure {
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
    /// True if the kill switch is on.
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

/// The result of a rule.
pub(super) struct MeasuredValue {
    pub(super) value: f64,
    pub(super) subject: Option<String>,
    /// Since when the value has been above the threshold, if it is.
    pub(super) since: Option<u64>,
}

impl MeasuredValue {
    /// A value of which it is not known since when it holds.
    const fn plain(value: f64) -> Self {
        Self {
            value,
            subject: None,
            since: None,
        }
    }
}

impl AlertMeasure {
    pub(super) fn of(self, threshold: f64, reading: &FleetReading) -> MeasuredValue {
        let now = reading.now;
        // Something that grows with the clock passed the threshold so long ago.
        let aged = |(subject, seconds): (Option<String>, f64)| MeasuredValue {
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
            Self::BreakerDown => aged(longest_down(reading)),
            Self::AccountFaults => account_faults(reading),
            Self::Oldest => aged(oldest_waiting(reading)),
            Self::ModelShutdown => model_shutdown(reading),
            Self::BudgetUsed => budget_used(reading),
            Self::KillSwitch => {
                let is_on = reading.money.as_ref().is_some_and(|money| money.kill_switch);
                MeasuredValue::plain(f64::from(u8::from(is_on)))
            }
            Self::WebhookBehind => aged((None, webhook_behind(reading))),
            Self::WebhookRefused => {
                let refused = reading.webhook.as_ref().map_or(0, |webhook| webhook.refused);
                MeasuredValue::plain(refused as f64)
            }
            Self::RedisAway => aged((None, 0.0)),
        }
    }
}

/// The breaker that has not been closed for longest, and for how long, seconds.
fn longest_down(reading: &FleetReading) -> (Option<String>, f64) {
    let down = reading.breakers().into_iter().filter_map(|breaker| {
        // That is the alert on the account: one cause, one alert.
        if breaker.account_fault.is_some() {
            return None;
        }
        let since = breaker.not_closed_since?;
        Some((reading.now.saturating_sub(since), breaker.name.clone()))
    });
    let (ms, name) = down.max().map_or((0, None), |(ms, name)| (ms, Some(name)));
    (name, ms as f64 / 1000.0)
}

fn account_faults(reading: &FleetReading) -> MeasuredValue {
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

/// The queue whose next job has waited longest, and for how long, seconds.
fn oldest_waiting(reading: &FleetReading) -> (Option<String>, f64) {
    let oldest = reading.queues.iter().max_by_key(|queue| queue.oldest);
    let name = oldest.map(|queue| format!("{}:{}", queue.layout, queue.queue));
    (name, oldest.map_or(0.0, |queue| queue.oldest.as_secs_f64()))
}

fn model_shutdown(reading: &FleetReading) -> MeasuredValue {
    let first = reading.model_shutdown.as_ref();
    let left = first.map(|(_, at)| at.saturating_sub(reading.now));
    let passed = left.map_or(0, |left| millis(RETIRING).saturating_sub(left));
    MeasuredValue {
        value: passed as f64 / 1000.0 / DAY,
        subject: first.map(|(service, _)| service.clone()),
        since: Some(reading.now.saturating_sub(passed)),
    }
}

fn budget_used(reading: &FleetReading) -> MeasuredValue {
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

/// Age of the oldest usage event, seconds.
fn webhook_behind(reading: &FleetReading) -> f64 {
    let webhook = reading.webhook.as_ref();
    let oldest = webhook.map_or(0.0, |webhook| webhook.oldest_ms as f64 / 1000.0);
    // A full stream loses events however young they are.
    let is_full = webhook.is_some_and(|webhook| webhook.waiting > MOST_EVENTS / 2);
    if is_full { oldest.max(DAY) } else { oldest }
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
