//! Times as Redis and the web API have them: whole milliseconds, and ISO 8601 with milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, ISO 8601, by this replica's clock.
pub(crate) fn timestamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// A time of Redis's clock, ms since 1970, in ISO 8601.
pub(crate) fn iso(ms: u64) -> String {
    // Cuts times beyond the calendar's end, because a key can hold any number.
    let ms = ms.min(253_402_300_799_000);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// Whole milliseconds. An absurd duration is cut, so that a sum with it still fits.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(u64::MAX / 4)
}
