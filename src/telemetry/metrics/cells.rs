//! The cells that counts are kept in.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How many bounds a histogram has; what is longer than the last goes into one bucket more.
pub const BOUNDS: usize = 12;

/// Upper bounds of buckets, microseconds.
pub type BucketBounds = [u64; BOUNDS];

/// For calls of providers and for jobs: 10 ms to 5 min.
pub const CALLS: BucketBounds = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
];
/// For waits between tries: 50 ms to 5 min.
pub const WAITS: BucketBounds = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    4_000_000,
    8_000_000,
    15_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];
/// For calls of Redis: 100 µs to 2 s, after which none waits.
pub const REDIS: BucketBounds = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_000_000,
];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static BucketBounds,
    buckets: [Counter; BOUNDS + 1],
    sum_us: Counter,
}

impl Histogram {
    /// An empty one.
    pub const fn new(bounds: &'static BucketBounds) -> Self {
        Self {
            bounds,
            buckets: [const { Counter::new() }; BOUNDS + 1],
            sum_us: Counter::new(),
        }
    }

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < us);
        self.buckets[bucket].add(1);
        self.sum_us.add(us);
    }

    /// The upper bound of each bucket in seconds (the last has none), and how many lie below it.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let bounds = self.bounds.iter().map(|us| Some(seconds(*us)));
        let counts = self.buckets.iter().scan(0, |sum, bucket| {
            *sum += bucket.get();
            Some(*sum)
        });
        bounds.chain([None]).zip(counts)
    }

    /// Returns true if nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.get() == 0)
    }

    /// All of them together, seconds.
    pub fn sum(&self) -> f64 {
        seconds(self.sum_us.get())
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_buckets_add_up() {
        let histogram = Histogram::new(&REDIS);
        for us in [0, 100, 101, 3_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let counts: Vec<_> = histogram.cumulative().collect();
        assert_eq!(counts[0], (Some(0.0001), 2));
        assert_eq!(counts[1], (Some(0.000_25), 3));
        assert_eq!(counts[BOUNDS - 1], (Some(2.0), 3));
        assert_eq!(counts[BOUNDS], (None, 4));
        assert_eq!(histogram.sum(), 3.000_201);
    }

    #[test]
    fn bounds_grow() {
        for bounds in [CALLS, WAITS, REDIS] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }

    #[test]
    fn no_count_is_lost_between_threads() {
        let counter = Counter::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.add(1)));
            }
        });
        assert_eq!(counter.get(), 40_000);
    }
}
