//! Warns about the other programs of a queue: producers of an unknown or mixed BullMQ version, and job schedulers.
//!
//! A v6 worker loses jobs beside a v5 producer: v6 has no list of paused jobs, and a resume by v5 erases the jobs that
//! v6 has put back since the pause. This worker speaks v5 to both versions, which loses nothing under either, but it
//! cannot keep the two apart. So it reports the mixture.

use std::sync::Mutex;

use crate::locks::locked;

/// Findings about a queue so far, so that the log reports each of them once.
#[derive(Debug, Default)]
pub(super) struct ProducerVersions(Mutex<SeenVersions>);

#[derive(Debug, Default)]
struct SeenVersions {
    major: Option<u32>,
    schedulers: bool,
}

/// A fact that the log reports.
#[derive(Debug, PartialEq, Eq)]
enum ProducerFinding {
    Newer(u32),
    Mixed(u32, u32),
    Schedulers,
}

impl ProducerVersions {
    /// Takes note of the version that a producer has left (`bullmq:5.81.5`), and of the number of schedulers.
    pub(super) fn record(&self, queue: &str, version: &str, schedulers: u64) {
        let findings = locked(&self.0).update(version, schedulers);
        for finding in findings {
            match finding {
                ProducerFinding::Newer(major) => tracing::warn!(
                    queue,
                    version,
                    "the queue's producer is BullMQ v{major}: served as v5, which loses nothing"
                ),
                ProducerFinding::Mixed(one, other) => tracing::error!(
                    queue,
                    version,
                    "producers of BullMQ v{one} and v{other} share the queue: a job added by the newer while the \
                    older has paused it is lost when the older resumes it; use one of them"
                ),
                ProducerFinding::Schedulers => tracing::error!(
                    queue,
                    schedulers,
                    "the queue has job schedulers: their jobs fail here, because only a BullMQ worker creates the \
                    next run; move them to a queue of their own"
                ),
            }
        }
    }
}

impl SeenVersions {
    fn update(&mut self, version: &str, schedulers: u64) -> Vec<ProducerFinding> {
        let mut findings = Vec::new();
        let major = version
            .split_once(':')
            .and_then(|(_, number)| number.split('.').next()?.parse().ok());
        if let Some(major) = major
            && self.major != Some(major)
        {
            match self.major.replace(major) {
                Some(before) => findings.push(ProducerFinding::Mixed(before.min(major), before.max(major))),
                None if major > 5 => findings.push(ProducerFinding::Newer(major)),
                None => {}
            }
        }
        if schedulers > 0 && !self.schedulers {
            findings.push(ProducerFinding::Schedulers);
        }
        self.schedulers = schedulers > 0;
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_told_once() {
        let mut seen = SeenVersions::default();
        for version in [
            "",
            "bullmq",
            "bullmq:",
            "bullmq:x.y",
            "bullmq:5.81.5",
            "bullmq:5.1.0",
        ] {
            assert_eq!(seen.update(version, 0), [], "{version}");
        }
        assert_eq!(seen.update("bullmq:6.7.0", 0), [ProducerFinding::Mixed(5, 6)]);
        assert_eq!(seen.update("bullmq:6.7.0", 2), [ProducerFinding::Schedulers]);
        assert_eq!(seen.update("bullmq:6.7.1", 3), []);
        assert_eq!(seen.update("bullmq:5.81.5", 0), [ProducerFinding::Mixed(5, 6)]);
        assert_eq!(
            SeenVersions::default().update("bullmq:6.0.0", 0),
            [ProducerFinding::Newer(6)]
        );
    }
}
