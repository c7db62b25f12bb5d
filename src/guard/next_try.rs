//! Decides what follows a failed try: a wait, another deployment, or the end of the call.

use std::time::Duration;

use jobs::{CalledService, Culprit, Failure, FailureClass, ProviderCall};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{JobGuard, route::CallRoute};
use crate::{
    retry::{BackoffDelay, RetryDecision},
    telemetry::metrics::PROCESS,
};

/// How far the tries of one call are.
pub(super) struct CallProgress {
    /// The number of the try, from 1.
    pub(super) nth: u8,
    pub(super) route: CallRoute,
    /// The service that was asked last.
    pub(super) asked: CalledService,
    /// The wait before the deployments are asked again that have failed, while others are asked without a wait.
    put_off: Option<BackoffDelay>,
}

impl CallProgress {
    pub(super) fn new(call: &ProviderCall) -> Self {
        Self {
            nth: 0,
            route: CallRoute::default(),
            asked: call.service.clone(),
            put_off: None,
        }
    }
}

impl JobGuard<'_> {
    /// Decides on the next try after a failed one, and waits until it is due.
    ///
    /// # Errors
    /// The failure that no other try follows; cancelled when the replica stops during the wait.
    pub(super) async fn before_next_try(
        &self,
        call: &ProviderCall,
        progress: &mut CallProgress,
        failure: Failure,
    ) -> Result<(), Failure> {
        let (provider, tries, class, nth) = (call.provider, self.policy.tries, failure.class(), progress.nth);
        progress.route.skip_failed(false);
        let put_off = progress.put_off.take();
        if let Some(delay) = put_off.filter(|_| class == FailureClass::Blocked && !failure.lacks_money()) {
            progress.nth = nth.saturating_sub(1); // The other deployments admit no call: nothing was tried.
            return self.wait(call, delay.total()).await;
        }
        if !matches!(class, FailureClass::Cancelled | FailureClass::Blocked) {
            warn!(%provider, %class, status = failure.status(), step = %call.step, nth,
                "Attempt {nth}/{tries} failed: {failure}");
        }
        if failure.culprit() == Culprit::Account && self.has_other_deployment(call, progress.route) {
            warn!(%provider, step = %call.step, "the account of a deployment is at fault: the call goes to the next one");
            // This try does not count, because the others have not been tried. The deployments bound such tries.
            progress.nth = nth.saturating_sub(1);
            return Ok(());
        }
        let verdict = self.policy.judge(nth, &failure, &mut rand::rng());
        // A wait that the provider asks for uses no try up.
        let has_tries = nth < tries.get() || verdict == RetryDecision::HandBack;
        if has_tries && self.goes_elsewhere(call, progress.route, verdict) {
            info!(%provider, step = %call.step, "the next try goes to another deployment at once");
            PROCESS.retried(&progress.asked, class, Duration::ZERO);
            self.reporter.retrying(nth, &failure, BackoffDelay::NONE).await;
            progress.put_off = match verdict {
                RetryDecision::Retry(delay) => Some(delay),
                _ => None,
            };
            progress.route.skip_failed(true);
            return Ok(());
        }
        let delay = match verdict {
            RetryDecision::Retry(delay) if Instant::now() + delay.total() < self.stops.deadline => delay,
            RetryDecision::Exhausted => {
                error!(%provider, %class, "Max attempts ({tries}) reached, giving up");
                return Err(failure);
            }
            RetryDecision::HandBack if Instant::now() + requested_wait(&failure) < self.patience() => {
                return self.wait(call, requested_wait(&failure)).await;
            }
            RetryDecision::Retry(_) | RetryDecision::HandBack | RetryDecision::Hopeless => {
                return Err(failure);
            }
        };
        info!(
            delay_ms = delay.total().as_millis(),
            "Backoff delay: {delay} (attempt {nth}, base: {}ms, jitter: {}ms)",
            delay.base().as_millis(),
            delay.jitter_ms()
        );
        PROCESS.retried(&progress.asked, class, delay.total());
        self.reporter.retrying(nth, &failure, delay).await;
        self.wait(call, delay.total()).await?;
        info!(%provider, nth = nth + 1, "Retrying {provider} call (attempt {}): {failure}", nth + 1);
        Ok(())
    }

    /// Returns true if the next try goes to a deployment that was not tried yet, without a wait.
    fn goes_elsewhere(&self, call: &ProviderCall, route: CallRoute, verdict: RetryDecision) -> bool {
        let count = self.deployments_of(call);
        matches!(verdict, RetryDecision::Retry(_) | RetryDecision::HandBack)
            && count > 1
            && route.has_untried(count)
            && Instant::now() < self.stops.deadline
    }

    /// Returns true if a deployment is left whose account is not known to be at fault.
    fn has_other_deployment(&self, call: &ProviderCall, route: CallRoute) -> bool {
        let count = self.deployments_of(call);
        count > 1 && route.has_other(count)
    }
}

/// How long the provider asks to wait.
fn requested_wait(failure: &Failure) -> Duration {
    failure.retry_after().unwrap_or_default()
}
