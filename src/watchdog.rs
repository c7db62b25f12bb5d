//! Ends the process when one of its loops stops making progress. Platforms check health at deployments only, so a
//! wedged worker has to end by itself; other replicas take over its jobs.
//!
//! It looks from a thread of its own, because a runtime whose thread is blocked cannot look at itself. It counts its
//! looks instead of asking a clock: a process that was frozen finds its loops silent, but has not looked at them
//! either.

use std::{
    io,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::error;

use crate::locks::locked;

/// How long a loop may make no progress. Loops stir every fifteen seconds when there is nothing to do, and no call to
/// Redis takes more than two.
pub const WEDGED_AFTER: Duration = Duration::from_secs(180);
/// Exit code of a process whose loop is wedged.
pub const EXIT_CODE: i32 = 70;
/// Number of checks within the time; the last one decides.
const LOOKS: u32 = 12;
/// How long the last words may take: what is wedged may be the log.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// When a loop last made progress; `None` when it has ended.
#[derive(Debug)]
pub struct LoopProgress(Mutex<Option<Instant>>);

impl Default for LoopProgress {
    fn default() -> Self {
        Self(Mutex::new(Some(Instant::now())))
    }
}

impl LoopProgress {
    /// The loop makes progress.
    pub fn beat(&self) {
        self.set(Some(Instant::now()));
    }

    /// The loop has ended, as it should.
    pub fn end(&self) {
        self.set(None);
    }

    /// For how long it has made none. A loop that has ended is not silent.
    pub fn silence(&self) -> Duration {
        self.last().map(|at| at.elapsed()).unwrap_or_default()
    }

    fn set(&self, at: Option<Instant>) {
        *locked(&self.0) = at;
    }

    fn last(&self) -> Option<Instant> {
        *locked(&self.0)
    }
}

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct Watchdog {
    _stop: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches the pulses, each with the name of its loop. The first of them that has not beaten for `limit` is
    /// reported, once.
    ///
    /// # Errors
    /// When the operating system has no thread to spare.
    pub fn start(
        limit: Duration,
        pulses: Vec<(String, Arc<LoopProgress>)>,
        report: impl FnOnce(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                let mut seen: Vec<(Option<Instant>, u32)> = vec![(None, 0); pulses.len()];
                while stopped.recv_timeout(limit / LOOKS) == Err(RecvTimeoutError::Timeout) {
                    for ((name, pulse), (last, silent)) in pulses.iter().zip(&mut seen) {
                        let now = pulse.last();
                        *silent = if now.is_some() && now == *last {
                            *silent + 1
                        } else {
                            0
                        };
                        *last = now;
                        if *silent >= LOOKS {
                            return report(name);
                        }
                    }
                }
            })?;
        Ok(Self { _stop: stop })
    }
}

/// Says which loop is wedged, and ends the process at once: nothing that should run before that can be relied on.
pub fn leave(name: &str, limit: Duration) -> ! {
    let words = format!(
        "{name} has made no progress for {} s: leaving, for a new process to take over",
        limit.as_secs_f64()
    );
    let again = words.clone();
    let _ = within(LAST_WORDS, move || error!("{words}")) || within(LAST_WORDS, move || eprintln!("{again}"));
    std::process::exit(EXIT_CODE)
}

/// Runs `act` on a thread of its own, and says whether it ended in time.
fn within(limit: Duration, act: impl FnOnce() + Send + 'static) -> bool {
    let (end, ended) = mpsc::channel();
    thread::spawn(move || {
        act();
        let _ = end.send(()); // An error means that the receiver has timed out.
    });
    ended.recv_timeout(limit).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(limit: Duration, pulses: &[&Arc<LoopProgress>]) -> (Watchdog, mpsc::Receiver<String>) {
        let (bark, barks) = mpsc::channel();
        let named = pulses.iter().enumerate();
        let named = named.map(|(n, pulse)| (format!("loop {n}"), Arc::clone(pulse)));
        let watchdog = Watchdog::start(limit, named.collect(), move |name| {
            let _ = bark.send(name.to_owned());
        });
        (watchdog.unwrap(), barks)
    }

    #[test]
    fn the_loop_that_stands_still_is_named_and_no_other() {
        let [lively, wedged, ended] = [(); 3].map(|()| Arc::new(LoopProgress::default()));
        ended.end();
        let (_watchdog, barks) = watch(Duration::from_millis(1200), &[&lively, &ended, &wedged]);
        let name = loop {
            lively.beat();
            match barks.recv_timeout(Duration::from_millis(1)) {
                Ok(name) => break name,
                Err(error) => assert_eq!(error, RecvTimeoutError::Timeout),
            }
        };
        assert_eq!(name, "loop 2");
    }

    #[test]
    fn a_watchdog_that_is_let_go_says_nothing() {
        let pulse = Arc::new(LoopProgress::default());
        let (watchdog, barks) = watch(Duration::from_millis(1200), &[&pulse]);
        drop(watchdog);
        // The thread has ended, and with it its end of the channel.
        assert_eq!(barks.recv(), Err(mpsc::RecvError));
    }
}
