//! Requests whose caller may not: counted, and logged now and then. A guess at a token leaves a trace, and a thousand
//! of them do not fill the log.

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{locks::locked, telemetry::metrics::PROCESS};

/// Shortest time between two lines.
const EVERY: Duration = Duration::from_secs(10);
/// Of a path, so much is shown, characters.
const LONGEST_PATH: usize = 100;

static LOGGED: Mutex<DenialLog> = Mutex::new(DenialLog {
    last: None,
    silent: 0,
});

struct DenialLog {
    last: Option<Instant>,
    /// Requests since the last line.
    silent: u64,
}

impl DenialLog {
    /// How many requests a line stands for; `None` where it is too early for one.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.silent += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silent))
    }
}

/// Notes a request that was refused.
pub(super) fn note(peer: SocketAddr, path: &str) {
    PROCESS.http_denied.add(1);
    let counted = locked(&LOGGED).count(Instant::now());
    if let Some(requests) = counted {
        let path: String = path.chars().take(LONGEST_PATH).collect();
        warn!(requests, %peer, path, "HTTP: a caller without the token that the route wants was refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stands_for_all_since_the_last() {
        let mut logged = DenialLog {
            last: None,
            silent: 0,
        };
        let start = Instant::now();
        assert_eq!(logged.count(start), Some(1));
        for _ in 0..5 {
            assert_eq!(logged.count(start + EVERY / 2), None);
        }
        assert_eq!(logged.count(start + EVERY), Some(6));
    }
}
