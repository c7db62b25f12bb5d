//! `GET /api/health`: the body that the replaced Node worker gave, which operators' scripts read, and a 503 with the
//! reason.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::HttpState;
use crate::worker::worker_health::OutcomeTotals;

/// The body of a health answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthBody {
    status: &'static str,
    service: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Milliseconds.
    uptime: u64,
    /// With two decimals, as text.
    uptime_minutes: String,
    stats: HealthStats,
    /// ISO 8601, by this replica's clock.
    timestamp: String,
    pid: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthStats {
    processed: u64,
    succeeded: u64,
    failed: u64,
    currently_processing: usize,
    peak_concurrency: usize,
    /// `"97.5%"`; `"0%"` before the first job.
    success_rate: String,
}

pub(super) async fn get(State(ops): State<Arc<HttpState>>) -> (StatusCode, Json<HealthBody>) {
    let mut complaints: Vec<String> = ops
        .workers
        .iter()
        .filter_map(|worker| {
            let complaint = worker.health().problem()?;
            Some(format!(
                "{}:{}: {complaint}",
                worker.broker().layout(),
                worker.broker().queue()
            ))
        })
        .collect();
    if let Some(words) = ops.monitor.write_refusal().await {
        complaints.push(format!("Redis refuses writes: {words}"));
    }
    let (code, status) = match complaints.is_empty() {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    };
    let tally = ops
        .workers
        .iter()
        .map(|w| w.health().outcome_totals())
        .fold(OutcomeTotals::default(), OutcomeTotals::plus);
    let uptime = ops.started.elapsed();
    let health = HealthBody {
        status,
        service: "worker",
        reason: (!complaints.is_empty()).then(|| complaints.join("; ")),
        uptime: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        uptime_minutes: format!("{:.2}", uptime.as_secs_f64() / 60.0),
        stats: HealthStats {
            processed: tally.processed(),
            succeeded: tally.succeeded,
            failed: tally.failed,
            currently_processing: ops.workers.iter().map(|w| w.slots().len()).sum(),
            peak_concurrency: ops.workers.iter().map(|w| w.slots().peak()).sum(),
            success_rate: success_rate(tally),
        },
        timestamp: crate::time_format::timestamp(),
        pid: std::process::id(),
    };
    (code, Json(health))
}

fn success_rate(tally: OutcomeTotals) -> String {
    match tally.processed() {
        0 => "0%".to_owned(),
        processed => format!("{:.1}%", tally.succeeded as f64 * 100.0 / processed as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_success_rate_reads_as_before() {
        assert_eq!(success_rate(OutcomeTotals::default()), "0%");
        assert_eq!(
            success_rate(OutcomeTotals {
                succeeded: 2,
                failed: 1,
                ..OutcomeTotals::default()
            }),
            "66.7%"
        );
    }
}
