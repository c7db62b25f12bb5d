//! Why a helper died: from its exit status, and from what it wrote before.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use jobs::media::decoder::DecodeError;
use tokio::{io::AsyncReadExt, process::Child, time::timeout};

use super::{HelperLimits, helper::LONGEST_REASON};

/// Why a helper gave no result.
pub(super) enum HelperVerdict {
    /// It ran out of time; with more of it, it may succeed.
    OutOfTime(DecodeError),
    /// Another try ends in the same way, or is not for the pool to make.
    Final(DecodeError),
}

impl HelperVerdict {
    pub(super) fn into_error(self) -> DecodeError {
        match self {
            Self::OutOfTime(error) | Self::Final(error) => error,
        }
    }
}

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
) -> HelperVerdict {
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    const SIGXCPU: i32 = 24;
    let megabytes = limits.memory / 1_000_000;
    let error = |why: String| DecodeError::Medium(format!("{what} cannot be decoded: {why}"));
    let recording = |why: String| HelperVerdict::Final(error(why));
    if words.contains("memory allocation of") || words.contains("memory allocation failed") {
        return recording(format!("it takes more than {megabytes} MB of memory"));
    }
    if words.contains("overflowed its stack") {
        return recording("it nests too deeply".to_owned());
    }
    match status.and_then(|status| status.signal()) {
        Some(SIGXCPU) => HelperVerdict::OutOfTime(error(format!(
            "it takes more than {} s of CPU time",
            limits.cpu_seconds
        ))),
        // Nothing in a helper does that: the host ran out of memory, or another process ended it.
        Some(SIGKILL | SIGTERM) => HelperVerdict::Final(DecodeError::Interrupted(format!(
            "the process that decoded the {what} was killed; the host may be out of memory"
        ))),
        Some(signal) => recording(format!("its decoder died of signal {signal}")),
        None => recording("its decoder ended".to_owned()),
    }
}
