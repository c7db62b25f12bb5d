//! The variables of the process: its name, its logs, its memory, and the time that the platform gives it to stop.

use std::{path::PathBuf, time::Duration};

use super::{reader::EnvReader, vars};
use crate::container_memory;

/// Reads which logs are written.
pub(super) fn log_filter(env: &mut EnvReader<'_>) -> String {
    env.parse(&vars::RUST_LOG, |text| {
        // Its parser panics at some others, and names of modules hold none.
        if !text.is_ascii() {
            return Err("only ASCII".to_owned());
        }
        tracing_subscriber::EnvFilter::try_new(text)
            .map(|_| text.to_owned())
            .map_err(|e| e.to_string())
    })
}

/// Bytes, or what this host's limit allows.
pub(super) fn media_memory(text: &str) -> Result<u64, String> {
    /// Where nothing limits the process.
    const UNLIMITED: u64 = 1 << 30;
    /// Below this, media of the largest size would run one at a time.
    const LEAST: u64 = 64 << 20;
    if text == "auto" {
        return Ok(container_memory::limit().map_or(UNLIMITED, |limit| (limit / 2).max(LEAST)));
    }
    let bytes = text
        .parse()
        .ok()
        .filter(|bytes| (LEAST..=1 << 40).contains(bytes));
    bytes.ok_or_else(|| format!("auto, or bytes from {LEAST} to {}", 1u64 << 40))
}

/// A folder that is there.
pub(super) fn folder(text: &str) -> Result<PathBuf, String> {
    match std::fs::metadata(text) {
        Ok(meta) if meta.is_dir() => Ok(PathBuf::from(text)),
        Ok(_) => Err("a folder".to_owned()),
        Err(error) => Err(format!("a folder that is there ({error})")),
    }
}

/// Drain time of the platform. Railway kills at once unless configured to wait; on other platforms it is unknown.
pub(super) fn platform_drain(env: &mut EnvReader<'_>) -> Option<Duration> {
    let seconds = env.optional(&vars::RAILWAY_DEPLOYMENT_DRAINING_SECONDS, |text| {
        text.parse()
            .map(Duration::from_secs)
            .map_err(|_| "a number of seconds".to_owned())
    });
    seconds.or_else(|| env.is_set(&vars::RAILWAY_REPLICA_ID).then_some(Duration::ZERO))
}

/// `<replica id or host name>-<nonce>`: two replicas never share a name, whatever the platform calls them.
pub(super) fn replica(env: &mut EnvReader<'_>) -> String {
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
pub(super) fn fit_for_a_name(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(40)
        .collect()
}
