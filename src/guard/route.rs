//! The order in which a call tries the deployments of its provider.

use rand::RngExt;

/// Deployments that a route can tell apart.
const MOST: usize = 32;

/// The results of one call at the deployments so far, as one bit for each deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CallRoute {
    /// Deployments that failed this call. The next try asks the others first.
    failed: u32,
    /// Deployments that cannot serve it, for a reason that another try does not change.
    barred: u32,
    /// The next try asks only deployments that have not failed.
    skips_failed: bool,
}

impl CallRoute {
    /// Records a failed try at this deployment. `barred` says that the next try would fail too.
    pub(super) fn has_failed(&mut self, deployment: usize, barred: bool) {
        let bit = 1u32
            .checked_shl(u32::try_from(deployment).unwrap_or(u32::MAX))
            .unwrap_or(0);
        self.failed |= bit;
        if barred {
            self.barred |= bit;
        }
    }

    /// Returns true if one of so many deployments is left that is not barred.
    pub(super) fn has_other(self, count: usize) -> bool {
        (0..count.min(MOST)).any(|deployment| self.barred >> deployment & 1 == 0)
    }

    /// Returns true if one of so many deployments has not been tried.
    pub(super) fn has_untried(self, count: usize) -> bool {
        (0..count.min(MOST)).any(|deployment| (self.failed | self.barred) >> deployment & 1 == 0)
    }

    /// Sets whether the next try asks only deployments that have not failed.
    pub(super) fn skip_failed(&mut self, skips_failed: bool) {
        self.skips_failed = skips_failed;
    }

    /// The deployments in the order in which they are asked. Those that have not failed come first, and barred ones only
    /// if all are barred. `weights` spreads first choices by share.
    pub(super) fn order(self, count: usize, weights: &[u32]) -> Vec<usize> {
        let first = match weights.iter().map(|weight| u64::from(*weight)).sum::<u64>() {
            0 => 0,
            total => chosen(weights, rand::rng().random_range(0..total)),
        };
        let count = count.min(MOST);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|deployment| {
            let failed = self.failed >> deployment & 1;
            let barred = self.barred >> deployment & 1;
            (barred, failed, *deployment != first)
        });
        if self.has_other(count) {
            order.retain(|deployment| self.barred >> deployment & 1 == 0);
        }
        if self.skips_failed && self.has_untried(count) {
            order.retain(|deployment| self.failed >> deployment & 1 == 0);
        }
        order
    }
}

/// The deployment whose share contains `at`, a number below the sum of the weights.
fn chosen(weights: &[u32], mut at: u64) -> usize {
    for (deployment, weight) in weights.iter().enumerate() {
        match at.checked_sub(u64::from(*weight)) {
            Some(rest) => at = rest,
            None => return deployment,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_that_has_failed_comes_last_and_a_barred_one_not_at_all() {
        let mut route = CallRoute::default();
        assert_eq!(route.order(1, &[]), [0]);
        assert_eq!(route.order(3, &[]), [0, 1, 2]);
        route.has_failed(0, false);
        assert_eq!(route.order(3, &[]), [1, 2, 0]);
        route.skip_failed(true);
        assert_eq!(route.order(3, &[]), [1, 2]);
        assert_eq!(route.order(1, &[]), [0], "one has to be asked");
        route.skip_failed(false);
        assert!(route.has_untried(2) && !route.has_untried(1));
        route.has_failed(1, true);
        assert_eq!(route.order(3, &[]), [2, 0]);
        assert!(
            route.has_other(3)
                && route.has_other(1)
                && !CallRoute {
                    failed: 1,
                    barred: 1,
                    skips_failed: false
                }
                .has_other(1)
        );
        route.has_failed(0, true);
        route.has_failed(2, true);
        assert_eq!(route.order(3, &[]), [0, 1, 2], "one has to be asked");
        route.has_failed(usize::MAX, true);
    }

    #[test]
    fn shares_choose_the_first() {
        assert_eq!([0, 2, 3, 9].map(|at| chosen(&[3, 0, 7], at)), [0, 0, 2, 2]);
        let firsts: Vec<usize> = (0..200)
            .map(|_| CallRoute::default().order(2, &[1, 1])[0])
            .collect();
        assert!(firsts.contains(&0) && firsts.contains(&1));
        assert_eq!(CallRoute::default().order(2, &[0, 5]), [1, 0]);
    }
}
