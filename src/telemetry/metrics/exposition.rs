//! Prometheus's text format, version 0.0.4.

use std::fmt::Write;

use super::{
    cells::{Counter, Histogram},
    families::MetricFamily,
};

/// The content type of an answer in this format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer in the making. Families follow each other; the samples of one stand together.
#[derive(Debug, Default)]
pub struct Exposition {
    out: String,
    /// The family whose head was written last.
    family: Option<&'static str>,
}

impl Exposition {
    /// One sample of a counter or gauge; `values` are those of the family's labels, in their order.
    pub fn sample(&mut self, family: &'static MetricFamily, values: &[&str], value: f64) {
        self.head(family);
        self.line(family, "", values, None, value);
    }

    /// One counter.
    pub fn counter(&mut self, family: &'static MetricFamily, values: &[&str], counter: &Counter) {
        self.sample(family, values, counter.get() as f64);
    }

    /// One counter, unless it has never counted: for families with many combinations, most of which never occur.
    pub fn counter_if_any(&mut self, family: &'static MetricFamily, values: &[&str], counter: &Counter) {
        if counter.get() > 0 {
            self.counter(family, values, counter);
        }
    }

    /// One histogram.
    pub fn histogram(&mut self, family: &'static MetricFamily, values: &[&str], histogram: &Histogram) {
        self.head(family);
        let mut count = 0;
        for (bound, below) in histogram.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            self.line(family, "_bucket", values, Some(&bound), below as f64);
            count = below;
        }
        self.line(family, "_sum", values, None, histogram.sum());
        self.line(family, "_count", values, None, count as f64);
    }

    /// The answer.
    pub fn finish(self) -> String {
        self.out
    }

    fn head(&mut self, family: &'static MetricFamily) {
        if self.family != Some(family.name) {
            self.family = Some(family.name);
            let MetricFamily {
                name, kind, about, ..
            } = family;
            // Writing into a String never fails.
            let _ = write!(
                self.out,
                "# HELP {name} {about}\n# TYPE {name} {}\n",
                kind.as_str()
            );
        }
    }

    fn line(
        &mut self,
        family: &MetricFamily,
        suffix: &str,
        values: &[&str],
        bound: Option<&str>,
        value: f64,
    ) {
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        self.out.push_str(family.name);
        self.out.push_str(suffix);
        let labels = family.labels.iter().copied().zip(values.iter().copied());
        let mut open = false;
        for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            self.out.push(if open { ',' } else { '{' });
            open = true;
            let _ = write!(self.out, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        if open {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::{cells, families};

    #[test]
    fn a_family_has_one_head_and_its_labels_are_escaped() {
        let mut text = Exposition::default();
        text.sample(&families::SLOTS, &["a\"b\\c\nd", "bullmq"], 3.0);
        text.sample(&families::SLOTS, &["e", "apalis"], 0.5);
        let expected = "# HELP backend_worker_slots jobs that the queue may have in flight on this replica\n\
            # TYPE backend_worker_slots gauge\n\
            backend_worker_slots{queue=\"a\\\"b\\\\c\\nd\",layout=\"bullmq\"} 3\n\
            backend_worker_slots{queue=\"e\",layout=\"apalis\"} 0.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_ends_with_everything_its_sum_and_count() {
        let histogram = Histogram::new(&cells::REDIS);
        histogram.observe(Duration::from_micros(150));
        histogram.observe(Duration::from_secs(9));
        let mut text = Exposition::default();
        text.histogram(&families::REDIS_SECONDS, &[], &histogram);
        let text = text.finish();
        let tail: Vec<&str> = text.lines().rev().take(3).collect();
        assert_eq!(
            tail,
            [
                "backend_worker_redis_call_seconds_count 2",
                "backend_worker_redis_call_seconds_sum 9.00015",
                "backend_worker_redis_call_seconds_bucket{le=\"+Inf\"} 2",
            ]
        );
        assert!(text.contains("_bucket{le=\"0.00025\"} 1\n"), "{text}");
    }
}
