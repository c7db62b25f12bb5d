//! Reads the figures of the dashboard once for all viewers. Each call to Redis has a deadline, and the sampler keeps
//! the last figures while Redis is away.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use jobs::Provider;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;

use crate::{
    http_api::jobs_admin,
    monitor::{FleetReading, Monitor, alerts::Alert, heartbeats::ReplicaHeartbeat},
    operator::view::{breaker, limit},
    operator::{JobFilter, ListedIn, Operator},
    queue::JobState,
    time_format::{iso, millis},
};

/// A reading that a scrape made a moment ago will do.
const FRESH: Duration = Duration::from_secs(1);
/// How long Redis may take for what the monitor has not read already.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long the plots reach back.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Failures that are shown, and the characters of each reason.
const FAILURES: usize = 12;
const REASON: usize = 300;
/// The list of failures is read when their number changes, and at least so often.
const FAILURES_EVERY: Duration = Duration::from_secs(10);
/// Minutes of the fleet's counts.
const MINUTES: u64 = 60;
/// A replica without a heartbeat for longer counts as idle.
const SILENT: u64 = 15_000;

/// One point of the plots.
#[derive(Debug, Clone)]
pub(super) struct PlotPoint {
    /// By Redis's clock, ms.
    at: u64,
    /// For each queue, how many jobs wait, how many end in a second, and whether it is paused.
    queues: Vec<(u64, Option<f64>, bool)>,
    names: Arc<[String]>,
}

/// The points so far.
#[derive(Debug, Default)]
pub(super) struct PlotHistory(VecDeque<PlotPoint>);

impl PlotHistory {
    pub(super) fn add(&mut self, point: PlotPoint) {
        let oldest = point.at.saturating_sub(millis(REMEMBERED));
        // A clock that was set back makes what came before worthless.
        self.0.retain(|known| (oldest..point.at).contains(&known.at));
        self.0.push_back(point);
    }

    pub(super) fn to_json(&self) -> String {
        let names = self.0.back().map(|point| point.names.clone()).unwrap_or_default();
        let points: Vec<Value> = self
            .0
            .iter()
            .map(|point| json!([point.at, point.queues]))
            .collect();
        json!({ "queues": &*names, "points": points }).to_string()
    }
}

/// One event of the stream.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DashboardFrame<'a> {
    away_ms: Option<u64>,
    age_ms: u64,
    alerts: Vec<Value>,
    figures: Option<&'a RawValue>,
}

/// Reads, and remembers what the next reading is compared to.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    rates: JobRates,
    replicas: Option<Vec<ReplicaHeartbeat>>,
    failures: Option<RecentFailures>,
    /// The limits that are exhausted, and what waits for them.
    full: Vec<(Provider, String)>,
    last: Option<(Instant, Box<RawValue>)>,
}

#[derive(Debug)]
struct RecentFailures {
    read_at: Instant,
    /// How many there were.
    number: u64,
    listed: Vec<Value>,
}

impl Sampler {
    /// The next frame, and its point of the plots.
    pub(super) async fn sample(
        &mut self,
        monitor: &Monitor,
        operator: &Operator,
    ) -> (Arc<str>, Option<PlotPoint>) {
        let (reading, away) = monitor.reading(FRESH).await;
        let mut point = None;
        if let Some(reading) = &reading {
            let failed = reading.queues.iter().map(|queue| queue.counts.failed).sum();
            let (replicas, failures, full) = tokio::join!(
                timeout(DEADLINE, monitor.replicas()),
                self.look_at_failures(operator, failed),
                timeout(DEADLINE, operator.full_limits(&reading.gates)),
            );
            if let Ok(Ok(full)) = full {
                self.full = full;
            }
            // A failed read keeps the earlier heartbeats; their age shows in their timestamps.
            if let Ok(Ok(replicas)) = replicas {
                self.replicas = Some(replicas);
            }
            if let Some(failures) = failures {
                self.failures = Some(failures);
            }
            let sampled = self.figures(reading, operator);
            point = Some(sampled.1);
            // A Value holds nothing that cannot be written.
            self.last = serde_json::value::to_raw_value(&sampled.0)
                .ok()
                .map(|figures| (Instant::now(), figures));
        }
        let alerts = monitor.judge(reading.as_deref(), away);
        let frame = DashboardFrame {
            away_ms: away.map(millis),
            age_ms: self.last.as_ref().map_or(0, |(at, _)| millis(at.elapsed())),
            alerts: alerts.iter().filter(|alert| alert.firing).map(alert).collect(),
            figures: self.last.as_ref().map(|(_, figures)| &**figures),
        };
        (serde_json::to_string(&frame).unwrap_or_default().into(), point)
    }

    /// The newest failures, where it is time to read them.
    async fn look_at_failures(&self, operator: &Operator, number: u64) -> Option<RecentFailures> {
        let known = self.failures.as_ref();
        if known.is_some_and(|known| known.number == number && known.read_at.elapsed() < FAILURES_EVERY) {
            return None;
        }
        let wanted = JobFilter {
            state: JobState::Failed,
            queue: None,
            kind: None,
            since: None,
        };
        let list = timeout(DEADLINE, operator.list_jobs(&wanted, None, FAILURES)).await;
        Some(RecentFailures {
            read_at: Instant::now(),
            number,
            listed: list.ok()?.ok()?.jobs.iter().map(failure).collect(),
        })
    }

    fn figures(&mut self, reading: &FleetReading, operator: &Operator) -> (Value, PlotPoint) {
        let rates = self
            .rates
            .hear(self.replicas.as_deref().unwrap_or_default(), reading.now);
        let (mut queues, mut point, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for queue in &reading.queues {
            let name = format!("{}:{}", queue.layout, queue.queue);
            let rate = rates.get(&name).copied();
            let mut shown = json!(queue.counts);
            shown["queue"] = json!(queue.queue);
            shown["layout"] = json!(queue.layout.as_str());
            shown["oldestWaitingMs"] = json!(millis(queue.oldest));
            shown["perSecond"] = json!(rate);
            queues.push(shown);
            point.push((queue.counts.waiting, rate, queue.counts.paused));
            names.push(name);
        }
        let behind: HashMap<&str, _> = operator.breaker_names().into_iter().collect();
        let breakers = reading.breakers().into_iter().map(|status| {
            let mut shown = breaker(status);
            let services = behind.get(status.name.as_str()).into_iter().flatten();
            shown["providers"] = json!(services.map(|service| service.name()).collect::<Vec<_>>());
            shown
        });
        let limits = reading.gates.iter().map(|status| {
            let mut shown = limit(status);
            shown["provider"] = json!(status.name());
            let full = self
                .full
                .iter()
                .find(|(provider, _)| provider.as_str() == status.name());
            shown["full"] = json!(full.map(|(_, words)| words));
            shown
        });
        let replicas = self.replicas.iter().flatten().map(|replica| {
            let mut shown = json!(replica.work);
            shown["name"] = json!(replica.name);
            shown["silentMs"] = json!(reading.now.saturating_sub(replica.seen));
            shown
        });
        let this = reading.now / 60_000;
        let minutes = (this.saturating_sub(MINUTES - 1)..=this).map(|minute| {
            let came = reading.minutes.window(minute, 1);
            json!([minute * 60_000, came.succeeded, came.failed, came.retried])
        });
        let figures = json!({
            "now": reading.now,
            "queues": queues,
            "breakers": breakers.collect::<Vec<_>>(),
            "limits": limits.collect::<Vec<_>>(),
            "replicas": replicas.collect::<Vec<_>>(),
            "failures": self.failures.as_ref().map(|failures| &failures.listed),
            "minutes": minutes.collect::<Vec<_>>(),
        });
        let point = PlotPoint {
            at: reading.now,
            queues: point,
            names: names.into(),
        };
        (figures, point)
    }
}

fn alert(alert: &Alert) -> Value {
    let mut shown = json!(alert);
    shown["since"] = json!(alert.since.map(iso));
    shown
}

fn failure(listed: &ListedIn) -> Value {
    let mut shown = jobs_admin::job(listed);
    let reason = listed.job.error.as_deref();
    shown["error"] = json!(reason.map(|reason| reason.chars().take(REASON).collect::<String>()));
    shown
}

/// How fast jobs end, from what replicas count: each between two of its heartbeats.
#[derive(Debug, Default)]
struct JobRates(HashMap<(String, String), HeartbeatCounts>);

#[derive(Debug)]
struct HeartbeatCounts {
    seen: u64,
    ended: u64,
    per_second: Option<f64>,
}

impl JobRates {
    /// Jobs a second for each `layout:queue`, as far as two heartbeats of a replica tell.
    fn hear(&mut self, replicas: &[ReplicaHeartbeat], now: u64) -> HashMap<String, f64> {
        let (mut heard, mut sums) = (HashMap::new(), HashMap::new());
        let alive = |replica: &&ReplicaHeartbeat| now.saturating_sub(replica.seen) < SILENT;
        for replica in replicas.iter().filter(alive) {
            for work in &replica.work.queues {
                let name = format!("{}:{}", work.layout, work.queue);
                let (seen, ended) = (replica.seen, work.succeeded.saturating_add(work.failed));
                let key = (replica.name.clone(), name.clone());
                let before = self.0.remove(&key);
                let per_second = before.and_then(|before| {
                    let ms = seen.saturating_sub(before.seen);
                    if ms == 0 {
                        return before.per_second;
                    }
                    Some(ended.saturating_sub(before.ended) as f64 * 1000.0 / ms as f64)
                });
                if let Some(rate) = per_second {
                    *sums.entry(name).or_insert(0.0) += rate;
                }
                heard.insert(
                    key,
                    HeartbeatCounts {
                        seen,
                        ended,
                        per_second,
                    },
                );
            }
        }
        self.0 = heard;
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::heartbeats::{QueueWork, ReplicaWork};

    fn replica(name: &str, seen: u64, ended: u64) -> ReplicaHeartbeat {
        let work = QueueWork {
            queue: "q".to_owned(),
            layout: "apalis".to_owned(),
            slots: 1,
            in_flight: 0,
            succeeded: ended,
            failed: 0,
            jobs: Vec::new(),
        };
        let work = ReplicaWork {
            version: "1".to_owned(),
            uptime_ms: 1,
            queues: vec![work],
        };
        ReplicaHeartbeat {
            name: name.to_owned(),
            seen,
            work,
        }
    }

    #[test]
    fn a_rate_is_what_replicas_count_between_two_heartbeats() {
        let mut rates = JobRates::default();
        let mut hear =
            |replicas: &[ReplicaHeartbeat], now| rates.hear(replicas, now).get("apalis:q").copied();
        assert_eq!(
            hear(&[replica("a", 1000, 500)], 1000),
            None,
            "one beat tells nothing"
        );
        let both = [replica("a", 6000, 510), replica("b", 6000, 7)];
        assert_eq!(hear(&both, 6000), Some(2.0));
        assert_eq!(hear(&both, 8000), Some(2.0), "until the next beat");
        let next = [replica("a", 11_000, 510), replica("b", 11_000, 12)];
        assert_eq!(hear(&next, 11_000), Some(1.0));
        assert_eq!(hear(&next, 11_000 + SILENT), None, "silent ones do nothing");
        assert_eq!(
            hear(&[replica("a", 90_000, 600)], 90_000),
            None,
            "and begin again"
        );
    }

    #[test]
    fn a_history_ends_and_does_not_run_backwards() {
        let mut history = PlotHistory::default();
        let names: Arc<[String]> = ["apalis:q".to_owned()].into();
        let mut add = |at| {
            history.add(PlotPoint {
                at,
                queues: vec![(1, None, false)],
                names: names.clone(),
            });
            history.0.iter().map(|point| point.at).collect::<Vec<_>>()
        };
        let length = millis(REMEMBERED);
        assert_eq!(add(1000), [1000]);
        assert_eq!(add(2000), [1000, 2000]);
        assert_eq!(add(length + 1500), [2000, length + 1500]);
        assert_eq!(add(1500), [1500], "a clock that was set back");
    }
}
