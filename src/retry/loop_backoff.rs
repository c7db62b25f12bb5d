//! The pauses of a loop that calls Redis again until it answers. Pauses between provider calls are configured
//! ([`super::Backoff`]), and the producer sets those between a job's attempts.
//!
//! A crate such as backon does not fit: these loops also wake at events between two tries, and begin again with the first
//! pause after a success.

use std::time::Duration;

use rand::RngExt;

/// A pause that doubles each time up to a longest, with jitter.
#[derive(Debug)]
pub(crate) struct LoopBackoff {
    first: Duration,
    next: Duration,
    longest: Duration,
}

impl LoopBackoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            next: first,
            longest,
        }
    }

    /// The next pause. The one after it is longer.
    pub(crate) fn pause(&mut self) -> Duration {
        let spread = rand::rng().random_range(0.75..=1.25);
        let pause = self.next.mul_f64(spread);
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.pause()).await;
    }

    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns true before the first pause: an outage is logged once.
    pub(crate) fn is_first(&self) -> bool {
        self.next == self.first
    }

    pub(crate) fn is_longest(&self) -> bool {
        self.next >= self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over() {
        let mut backoff = LoopBackoff::new(Duration::from_millis(100), Duration::from_millis(300));
        for (expected, is_first) in [(100, true), (200, false), (300, false), (300, false)] {
            assert_eq!(backoff.is_first(), is_first);
            let pause = backoff.pause().as_secs_f64() * 1000.0;
            let share = pause / f64::from(expected);
            assert!((0.75..=1.251).contains(&share), "{pause} is not about {expected}");
        }
        assert!(backoff.is_longest());
        backoff.reset();
        assert!(backoff.is_first());
    }
}
