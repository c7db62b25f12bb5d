//! Chooses the jobs that use the cheaper tier of their provider, `flex`, because no student waits for them.
//!
//! A producer chooses it for a job (`opts.serviceTier`), the operator for all jobs from a priority on, or of a queue. The
//! calls of such a job ask for `flex` first, and for the usual tier when `flex` is refused or late (`jobs::FLEX`).

use std::time::Duration;

use jobs::FlexTerms;
use tokio::time::Instant;

use crate::queue::{Delivery, ServiceTier};

/// The operator's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierRules {
    /// Queues whose jobs use the cheaper tier.
    pub flex_queues: Vec<String>,
    /// Jobs of this priority of BullMQ, or a larger number, use it; 0 for none.
    pub flex_from_priority: u32,
    /// Longest wait for the beginning of an answer from the cheaper tier.
    pub patience: Duration,
    /// Time that a call to the usual tier may need.
    pub usual_call: Duration,
}

impl TierRules {
    /// How long a job's calls may wait for the cheaper tier; `None` for a job that does not use it. The job has to end by
    /// `deadline`.
    pub(super) fn terms(&self, queue: &str, delivery: &Delivery, deadline: Instant) -> Option<FlexTerms> {
        let by_priority = self.flex_from_priority > 0 && delivery.priority >= self.flex_from_priority;
        let is_flex = match delivery.tier {
            Some(tier) => tier == ServiceTier::Flex,
            None => by_priority || self.flex_queues.iter().any(|name| name == queue),
        };
        // If little time is left, the usual tier gets half of it.
        let left = deadline.saturating_duration_since(Instant::now());
        is_flex.then(|| FlexTerms {
            patience: self.patience,
            until: deadline - self.usual_call.min(left / 2),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_producer_decides_then_the_priority_and_the_queue() {
        let rules = TierRules {
            flex_queues: vec!["bulk".to_owned()],
            flex_from_priority: 100,
            patience: Duration::from_secs(60),
            usual_call: Duration::from_secs(180),
        };
        let deadline = Instant::now() + Duration::from_secs(300);
        let is_flex = |queue: &str, tier, priority| {
            let delivery = Delivery {
                tier,
                priority,
                ..Delivery::first_of(None, None)
            };
            rules.terms(queue, &delivery, deadline).is_some()
        };
        assert!(is_flex("ai-jobs", Some(ServiceTier::Flex), 0));
        assert!(!is_flex("bulk", Some(ServiceTier::Standard), 100));
        assert!(is_flex("bulk", None, 0) && is_flex("ai-jobs", None, 100));
        assert!(!is_flex("ai-jobs", None, 99) && !is_flex("ai-jobs", None, 0));
        let off = TierRules {
            flex_from_priority: 0,
            ..rules.clone()
        };
        assert_eq!(
            off.terms("ai-jobs", &Delivery::first_of(None, None), deadline),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_usual_tier_keeps_the_time_that_it_needs() {
        let rules = TierRules {
            flex_queues: vec!["bulk".to_owned()],
            flex_from_priority: 0,
            patience: Duration::from_secs(60),
            usual_call: Duration::from_secs(180),
        };
        for (left, until) in [(600, 420), (300, 150), (100, 50), (0, 0)] {
            let deadline = Instant::now() + Duration::from_secs(left);
            let terms = rules
                .terms("bulk", &Delivery::first_of(None, None), deadline)
                .unwrap();
            assert_eq!(terms.until, Instant::now() + Duration::from_secs(until), "{left}");
        }
    }
}
