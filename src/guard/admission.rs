//! Asks the gates for a call, and has the gate that admits it open the call's entry in the ledger: one round trip.

use std::{sync::atomic::Ordering, time::Duration};

use jobs::{Failure, ProviderCall};
use tokio::time::Instant;

use super::{JobGuard, route::CallRoute};
use crate::{
    gate::{Admission, DeploymentGates, Gates, Permit, Reason, Rejection},
    retry::LONGEST_WAIT_IN_SLOT,
    spend_ledger::{LedgerEntry, OpeningAnswer},
};

/// A job waits at the gate in its slot up to this long: to give the job back would take as long.
const LONGEST_WAIT_AT_THE_GATE: Duration = Duration::from_millis(250);

/// Longest time that a job keeps its slot at a limit, however short each wait is.
const LONGEST_WAIT_AT_A_LIMIT: Duration = Duration::from_millis(400);

/// A call that may be sent, as its deployment is asked.
pub(super) struct AdmittedCall<'a> {
    /// `None` where there are no gates.
    pub(super) permit: Option<Permit>,
    pub(super) deployment: usize,
    pub(super) call: ProviderCall,
    /// Its entry, and the ledger's answer to it. `None` for a call that costs nothing.
    pub(super) entry: Option<(LedgerEntry<'a>, OpeningAnswer)>,
}

impl JobGuard<'_> {
    /// A call that no gate is asked for. Its entry is still to be opened.
    pub(super) fn without_gate(&self, call: &ProviderCall) -> AdmittedCall<'_> {
        let call = self.at_deployment(call, 0);
        let entry = self.entry(&call).map(|entry| (entry, OpeningAnswer::NotOpened));
        AdmittedCall {
            permit: None,
            deployment: 0,
            call,
            entry,
        }
    }

    /// Asks the gates of the deployments until one admits the call. The gate that admits it opens its entry in the ledger.
    ///
    /// If all refuse, the refusal with the shortest wait counts. A short wait for a limit is preferred to the next deployment.
    async fn ask(
        &self,
        deployments: &DeploymentGates,
        call: &ProviderCall,
        route: CallRoute,
    ) -> Result<AdmittedCall<'_>, Rejection> {
        let gates = deployments.gates();
        let mut refused: Option<Rejection> = None;
        let waits = |rejection: &Rejection| rejection.retry_after.unwrap_or(Duration::MAX);
        for index in route.order(gates.len(), deployments.weights()) {
            let (tokens, call) = (call.estimated_tokens, self.at_deployment(call, index));
            let entry = self.entry(&call);
            let opening = entry.as_ref().map(LedgerEntry::opening);
            let (admission, answer) = gates[index].admit_and_open(tokens, opening).await;
            let rejection = match admission {
                Admission::Admitted(permit) => {
                    return Ok(AdmittedCall {
                        permit: Some(permit),
                        deployment: index,
                        call,
                        entry: entry.map(|entry| (entry, answer)),
                    });
                }
                Admission::Rejected(rejection) => rejection,
            };
            if let Some(entry) = entry {
                entry.not_admitted(answer).await;
            }
            let is_worth_waiting = rejection.reason.is_limit()
                && rejection
                    .retry_after
                    .is_some_and(|wait| deployments.is_worth_waiting(index, wait));
            if refused
                .as_ref()
                .is_none_or(|earliest| waits(&rejection) < waits(earliest))
            {
                refused = Some(rejection);
            }
            if is_worth_waiting {
                break;
            }
        }
        Err(refused.unwrap_or_else(|| Rejection {
            // Not reached: each provider has at least one deployment.
            provider: call.provider,
            breaker: deployments.first().breaker().to_owned(),
            reason: Reason::Open,
            retry_after: Some(LONGEST_WAIT_IN_SLOT),
            fault: None,
        }))
    }

    /// Asks the gates, and sits out the short waits. A longer one is for the queue: the slot is needed.
    pub(super) async fn admit(
        &self,
        gates: &Gates,
        call: &ProviderCall,
        route: CallRoute,
    ) -> Result<AdmittedCall<'_>, Failure> {
        let (asked, patience) = (Instant::now(), self.patience());
        let deployments = gates.deployments(call.provider);
        loop {
            let rejection = match self.ask(deployments, call, route).await {
                Ok(admitted) => {
                    self.reporter.asked(deployments, None);
                    return Ok(admitted);
                }
                Err(refused) => refused,
            };
            // A job that a limit has refused keeps its place in the line: only a moment is worth waiting for.
            let limit = rejection.reason.is_limit() && !self.paid.load(Ordering::Relaxed);
            let patience = match limit {
                // A job that was lost before runs apart from others: none of these is lost with it while it waits.
                true if !self.waits_in_slot => self.stops.deadline.min(asked + LONGEST_WAIT_AT_A_LIMIT),
                true => patience.min(asked + LONGEST_WAIT_AT_A_LIMIT),
                false => patience,
            };
            match rejection.retry_after {
                Some(wait) if self.is_short(wait) && Instant::now() + wait < patience => {
                    self.wait(call, wait).await?;
                }
                wait => {
                    // The claimer leaves the queue alone until then, whether the job has paid or not.
                    self.reporter
                        .asked(deployments, wait.filter(|_| rejection.reason.is_limit()));
                    return Err(rejection.into());
                }
            }
        }
    }

    fn is_short(&self, wait: Duration) -> bool {
        wait <= LONGEST_WAIT_AT_THE_GATE || self.paid.load(Ordering::Relaxed)
    }
}
