//! The payloads of the demo's jobs: the samples of each job type, each time with another text where it has one.

use jobs::JobType;
use serde_json::value::RawValue;

/// The payload of the `n`th job.
pub(super) fn payload(kind: JobType, n: u32) -> anyhow::Result<Box<RawValue>> {
    let mut samples = kind.samples();
    let pick = n as usize / JobType::ALL.len() % samples.len().max(1);
    anyhow::ensure!(pick < samples.len(), "job type {kind} has no sample for the demo");
    let mut value = samples.swap_remove(pick);
    // Distinguishes the jobs in the simulator's journal.
    if let Some(serde_json::Value::String(content)) = value.get_mut("content") {
        content.push_str(&format!(" (job-{n})"));
    }
    Ok(serde_json::value::to_raw_value(&value)?)
}
