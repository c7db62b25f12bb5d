//! Why a helper died: from its exit status, and from what it wrote before.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use jobs::media::decoder::DecodeError;
use tokio::{io::AsyncReadExt, process::Child, time::timeout};

use super::pool::{HelperLimits, LONGEST_REASON};

/// A helper's text without control characters.
pub(super) fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The end of a helper's standard error.
pub(super) async fn last_words(child: &mut Child) -> String {
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr.take(LONGEST_REASON);
        let _ = timeout(Duration::from_secs(5), stderr.read_to_end(&mut words)).await;
    }
    plain(&words)
}

/// Names the cause of a helper's death, by its exit status and the last lines that it wrote to stderr.
pub(super) fn judge(
    status: Option<ExitStatus>,
    words: &str,
    (what, limits): (&str, HelperLimits),
) -> DecodeError {
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    const SIGXCPU: i32 = 24;
    let megabytes = limits.memory / 1_000_000;
    let recording = |why: String| DecodeError::Medium(format!("{what} cannot be decoded: {why}"));
    if words.contains("memory allocation of") || words.contains("memory allocation failed") {
        return recording(format!("it takes more than {megabytes} MB of memory"));
    }
    if words.contains("overflowed its stack") {
        return recording("it nests too deeply".to_owned());
    }
    match status.and_then(|status| status.signal()) {
        Some(SIGXCPU) => recording(format!("it takes more than {} s of CPU time", limits.cpu_seconds)),
        // Nothing in a helper does that: the host ran out of memory, or another process ended it.
        Some(SIGKILL | SIGTERM) => DecodeError::Interrupted(format!(
            "the process that decoded the {what} was killed; the host may be out of memory"
        )),
        Some(signal) => recording(format!("its decoder died of signal {signal}")),
        None => recording("its decoder ended".to_owned()),
    }
}
