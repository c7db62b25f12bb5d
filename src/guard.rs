//! The guard around every provider call: retry( admit → record → call → classify → settle ).
//!
//! The guard asks the gate inside the retry loop, once for each try. So a breaker that opens between two tries ends the
//! loop, a rejection costs no try, and the breaker counts each request once.

mod route;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::OptionFuture;
use jobs::{
    CallAttempt, Culprit, DEPLOYMENT, Failure, FailureClass, ProviderCall, ProviderGuard, ProviderReply,
    TRACEPARENT,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use self::route::CallRoute;
use crate::{
    gate::{Admission, Gates, Permit, ProviderGate, Reason, Rejection, Settlement},
    locks::locked,
    retry::{BackoffDelay, LONGEST_WAIT_IN_SLOT, RetryDecision, RetryPolicy},
    spend_ledger::{LedgerPage, OpenedCall},
    spending::JobSpend,
    suspects::Suspect,
    telemetry::{
        metrics::{
            PROCESS,
            labels::{Answer, CellIndex, JobClass},
        },
        trace::{self, SpanEnd},
    },
};

/// A job waits at the gate in its slot up to this long: to give the job back would take as long.
const LONGEST_WAIT_AT_THE_GATE: Duration = Duration::from_millis(250);

/// Longest time that a job keeps its slot at a limit, however short each wait is.
const LONGEST_WAIT_AT_A_LIMIT: Duration = Duration::from_millis(400);

/// Receives the events of a job's calls: retries, and verdicts of gates.
#[async_trait]
pub trait CallObserver: Send + Sync {
    /// The `nth` try (from 1) failed, and the next follows after `delay`.
    async fn retrying(&self, nth: u8, failure: &Failure, delay: BackoffDelay);

    /// The job says how much of it is done.
    async fn progressed(&self, _percent: u8) {}

    /// The job shows the parts of its result so far, which `write` writes as a JSON array.
    async fn has_parts(&self, _write: &(dyn Fn() -> String + Sync)) {}

    /// A gate has decided on a call; `refused` is the wait after a refusal by a limit.
    fn asked(&self, _gate: &Arc<ProviderGate>, _refused: Option<Duration>) {}
}

/// The conditions under which a job must stop.
#[derive(Debug, Clone)]
pub struct StopSignals {
    /// The replica is stopping: running calls may finish, waiting jobs stop waiting.
    pub drain: CancellationToken,
    /// The job is lost, or the drain time is over: stop at once.
    pub abort: CancellationToken,
    /// The job must have ended by then.
    pub deadline: Instant,
}

/// Guards the provider calls of one delivery of one job.
pub struct JobGuard<'a> {
    policy: RetryPolicy,
    stops: StopSignals,
    gates: Option<&'a Gates>,
    page: Option<LedgerPage>,
    reporter: &'a dyn CallObserver,
    tries: AtomicU8,
    /// The cost of the answers that the job has received.
    cost: Mutex<JobSpend>,
    /// A call of this delivery has been paid for. If the job went back to the queue, the worker would pay again.
    paid: AtomicBool,
    waits_in_slot: bool,
    suspect: Option<Suspect>,
}

impl<'a> JobGuard<'a> {
    /// Creates a guard that retries by `policy` until `stops` end it. Each try passes its provider's gate, if any, and
    /// is recorded in the job's page of the ledger, if any.
    pub fn new(
        policy: RetryPolicy,
        gates: Option<&'a Gates>,
        page: Option<LedgerPage>,
        stops: StopSignals,
        reporter: &'a dyn CallObserver,
    ) -> Self {
        Self {
            policy,
            stops,
            gates,
            page,
            reporter,
            tries: AtomicU8::new(0),
            cost: Mutex::default(),
            paid: AtomicBool::new(false),
            waits_in_slot: true,
            suspect: None,
        }
    }

    /// Sets whether the job may keep its slot while it waits for a gate, before its first paid call. Allowed by
    /// default.
    #[must_use]
    pub fn waiting_in_slot(self, waits_in_slot: bool) -> Self {
        Self {
            waits_in_slot,
            ..self
        }
    }

    /// Names the job as a suspect: it calls when no suspect beside it can kill the replica any more.
    #[must_use]
    pub fn of_suspect(self, suspect: Option<Suspect>) -> Self {
        Self { suspect, ..self }
    }

    /// How often the last call has been tried.
    pub fn tries(&self) -> u8 {
        self.tries.load(Ordering::Relaxed)
    }

    /// The cost of the answers that the job was given, those of earlier deliveries included.
    pub fn cost(&self) -> JobSpend {
        *locked(&self.cost)
    }

    /// Notes an answer that costs money.
    fn paid_for(&self, call: &ProviderCall, reply: &ProviderReply) {
        if !call.paid {
            return;
        }
        self.paid.store(true, Ordering::Relaxed);
        if let Some(page) = &self.page {
            let cost = page.cost_of(call, reply);
            locked(&self.cost).add(cost);
        }
    }

    /// One try: through the gate, to the provider, and back; written down before and after.
    async fn try_once(
        &self,
        call: &ProviderCall,
        attempt: &CallAttempt<'_>,
        route: &mut CallRoute,
    ) -> Result<ProviderReply, Failure> {
        let (mut permit, deployment) = match self.gates {
            Some(gates) => {
                let (permit, deployment) = self.admit(gates, call, *route).await?;
                (Some(permit), deployment)
            }
            None => (None, 0),
        };
        let entry = match self.open(call).await? {
            Some(OpenedCall::Kept(reply)) => return Ok(reply), // The permit, dropped unsent, is refunded.
            Some(OpenedCall::Send(entry)) => Some(entry),
            None => None,
        };
        // The call will not be sent, so its mark and its permit must go.
        if let Some(stopped) = self.stopped(call) {
            if let Some(entry) = entry {
                entry.withdraw().await;
            }
            return Err(stopped);
        }
        let result = match &mut permit {
            Some(permit) => {
                permit.sent();
                let sending = self.measured(call, attempt, permit.lost());
                match deployment {
                    0 => sending.await,
                    // The first deployment needs no task-local: it is the client's default.
                    other => DEPLOYMENT.scope(other, sending).await,
                }
            }
            None => self.measured(call, attempt, std::future::pending()).await,
        };
        if let Err(failure) = &result {
            route.has_failed(deployment, failure.culprit() == Culprit::Account);
        }
        let settle = OptionFuture::from(permit.map(|permit| permit.settle(Settlement::of(&result))));
        let close = OptionFuture::from(entry.map(|entry| entry.close(call, &result)));
        tokio::join!(close, settle);
        result
    }

    /// Why a call that is about to be sent must not be: the job is lost, the replica stops at once, or the time is up.
    fn stopped(&self, call: &ProviderCall) -> Option<Failure> {
        if self.stops.abort.is_cancelled() {
            return Some(cancelled(call));
        }
        let is_late = self.stops.deadline <= Instant::now();
        is_late.then(|| Failure::transient("the job's deadline passed before the call").by(call.provider))
    }

    /// Opens the call's entry in the ledger. What costs nothing has none.
    async fn open(&self, call: &ProviderCall) -> Result<Option<OpenedCall<'_>>, Failure> {
        match &self.page {
            Some(page) if call.paid => page.open(call).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The call itself, counted.
    async fn measured(
        &self,
        call: &ProviderCall,
        attempt: &CallAttempt<'_>,
        lost: impl Future<Output = ()>,
    ) -> Result<ProviderReply, Failure> {
        let sent = Instant::now();
        let span = info_span!("call", provider = %call.provider);
        let end = SpanEnd::of(&span);
        let sending = self.attempt(call, attempt, lost).instrument(span.clone());
        let result = match trace::context(&span) {
            Some(context) => TRACEPARENT.scope(context.to_string(), sending).await,
            None => sending.await,
        };
        let (class, answer) = match &result {
            Ok(_) => (JobClass(None), Answer::Success),
            Err(failure) => (JobClass(Some(failure.class())), Answer::of(failure)),
        };
        trace::note(&span, "http.response.status_class", answer.into_str());
        trace::note(&span, "error.type", class.as_str());
        end.set(result.is_err());
        PROCESS.called(call.provider, class, answer, sent.elapsed());
        if let Ok(reply) = &result {
            PROCESS.tokens[call.provider.index()].add(reply.tokens.unwrap_or_default());
            PROCESS.paid_calls[call.provider.index()].add(u64::from(call.paid));
        }
        result
    }

    /// Asks the gates of the deployments until one admits the call.
    ///
    /// If all refuse, the refusal with the shortest wait counts. A short wait for a limit is preferred to the next deployment.
    async fn ask<'g>(
        gates: &'g Gates,
        call: &ProviderCall,
        route: CallRoute,
    ) -> Result<(Permit, usize, &'g Arc<ProviderGate>), (Rejection, &'g Arc<ProviderGate>)> {
        let deployments = gates.deployments(call.provider);
        let mut refused: Option<(Rejection, &Arc<ProviderGate>)> = None;
        for index in route.order(deployments.len(), gates.weights()) {
            let gate = &deployments[index];
            let rejection = match gate.admit(call.estimated_tokens).await {
                Admission::Admitted(permit) => return Ok((permit, index, gate)),
                Admission::Rejected(rejection) => rejection,
            };
            let waits = |rejection: &Rejection| rejection.retry_after.unwrap_or(Duration::MAX);
            let is_worth_waiting = rejection.reason.is_limit() && waits(&rejection) <= gates.fallback_after();
            if refused
                .as_ref()
                .is_none_or(|(earliest, _)| waits(&rejection) < waits(earliest))
            {
                refused = Some((rejection, gate));
            }
            if is_worth_waiting {
                break;
            }
        }
        Err(refused.unwrap_or_else(|| {
            // Not reached: each provider has at least one deployment.
            let gate = gates.gate(call.provider);
            let rejection = Rejection {
                provider: call.provider,
                breaker: gate.breaker().to_owned(),
                reason: Reason::Open,
                retry_after: Some(LONGEST_WAIT_IN_SLOT),
                fault: None,
            };
            (rejection, gate)
        }))
    }

    /// Asks the gates, and sits out the short waits. A longer one is for the queue: the slot is needed.
    async fn admit(
        &self,
        gates: &Gates,
        call: &ProviderCall,
        route: CallRoute,
    ) -> Result<(Permit, usize), Failure> {
        let (asked, patience) = (Instant::now(), self.patience());
        loop {
            let (rejection, gate) = match Self::ask(gates, call, route).await {
                Ok((permit, deployment, gate)) => {
                    self.reporter.asked(gate, None);
                    return Ok((permit, deployment));
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
                        .asked(gate, wait.filter(|_| rejection.reason.is_limit()));
                    return Err(rejection.into());
                }
            }
        }
    }

    /// Returns true if a deployment is left whose account is not known to be at fault.
    fn has_other_deployment(&self, call: &ProviderCall, route: CallRoute) -> bool {
        let gates = self
            .gates
            .filter(|gates| gates.deployments(call.provider).len() > 1);
        gates.is_some_and(|gates| route.has_other(gates.deployments(call.provider).len()))
    }

    /// Until when a job may wait in its slot: not for long, unless it would have to be paid for again.
    fn patience(&self) -> Instant {
        if self.paid.load(Ordering::Relaxed) {
            return self.stops.deadline;
        }
        if !self.waits_in_slot {
            return Instant::now();
        }
        self.stops.deadline.min(Instant::now() + LONGEST_WAIT_IN_SLOT)
    }

    fn is_short(&self, wait: Duration) -> bool {
        wait <= LONGEST_WAIT_AT_THE_GATE || self.paid.load(Ordering::Relaxed)
    }

    /// The call itself, cut short when the job has to let go or `lost` resolves.
    async fn attempt(
        &self,
        call: &ProviderCall,
        attempt: &CallAttempt<'_>,
        lost: impl Future<Output = ()>,
    ) -> Result<ProviderReply, Failure> {
        tokio::select! {
            biased;
            () = self.stops.abort.cancelled() => Err(cancelled(call)),
            () = lost => Err(unanswered(call, "the permit of the call ran out: Redis was away")),
            () = tokio::time::sleep_until(self.stops.deadline) =>
                Err(unanswered(call, "the job's deadline passed during the call")),
            result = attempt() => result,
        }
    }

    /// Waits, unless the replica stops first: a waiting job is better off in the queue.
    async fn wait(&self, call: &ProviderCall, wait: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.stops.abort.cancelled() => Err(cancelled(call)),
            () = self.stops.drain.cancelled() => Err(cancelled(call)),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}

#[async_trait]
impl ProviderGuard for JobGuard<'_> {
    async fn call<'a>(
        &'a self,
        call: &'a ProviderCall,
        attempt: &'a CallAttempt<'a>,
    ) -> Result<ProviderReply, Failure> {
        let (provider, tries) = (call.provider, self.policy.tries);
        if let Some(page) = &self.page
            && let Some(reply) = page.kept(call).await
        {
            self.paid_for(call, &reply);
            return Ok(reply);
        }
        if let Some(suspect) = &self.suspect {
            suspect.may_call().await;
        }
        let (mut nth, mut route) = (0u8, CallRoute::default());
        loop {
            nth = nth.saturating_add(1); // The policy ends the loop: its tries are a u8 too.
            self.tries.store(nth, Ordering::Relaxed);
            let span = info_span!("attempt", %provider, step = %call.step, nth);
            let end = SpanEnd::of(&span);
            let passed = self
                .try_once(call, attempt, &mut route)
                .instrument(span.clone())
                .await;
            end.set(passed.is_err());
            drop(span);
            let failure = match passed {
                Ok(reply) => {
                    self.paid_for(call, &reply);
                    if nth > 1 {
                        info!(%provider, tries = nth, "Retry successful after {} attempt(s)", nth - 1);
                    }
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            let class = failure.class();
            if !matches!(class, FailureClass::Cancelled | FailureClass::Blocked) {
                warn!(%provider, %class, status = failure.status(), step = %call.step, nth,
                    "Attempt {nth}/{tries} failed: {failure}");
            }
            if failure.culprit() == Culprit::Account && self.has_other_deployment(call, route) {
                warn!(%provider, step = %call.step, "the account of a deployment is at fault: the call goes to the next one");
                // This try does not count, because the others have not been tried. The deployments bound such tries.
                nth = nth.saturating_sub(1);
                continue;
            }
            let verdict = self.policy.judge(nth, &failure, &mut rand::rng());
            let delay = match verdict {
                RetryDecision::Retry(delay) if Instant::now() + delay.total() < self.stops.deadline => delay,
                RetryDecision::Exhausted => {
                    error!(%provider, %class, "Max attempts ({tries}) reached, giving up");
                    return Err(failure);
                }
                RetryDecision::HandBack if Instant::now() + requested_wait(&failure) < self.patience() => {
                    self.wait(call, requested_wait(&failure)).await?;
                    continue;
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
            PROCESS.retried(provider, class, delay.total());
            self.reporter.retrying(nth, &failure, delay).await;
            self.wait(call, delay.total()).await?;
            info!(%provider, nth = nth + 1, "Retrying {provider} call (attempt {}): {failure}", nth + 1);
        }
    }

    async fn progress(&self, percent: u8) {
        self.reporter.progressed(percent).await;
    }

    async fn show_parts(&self, write: &(dyn Fn() -> String + Sync)) {
        self.reporter.has_parts(write).await;
    }

    async fn useless(&self, call: &ProviderCall, is_kept: bool) {
        let (provider, step) = (call.provider, &call.step);
        if is_kept {
            warn!(%provider, %step, "the answer that was kept of an earlier delivery is useless: it is dropped, and asked for again");
            if let Some(page) = &self.page {
                page.drop_kept(call).await;
            }
        } else {
            warn!(%provider, %step, "the provider's answer is useless for this job: it does not count for the breaker");
            PROCESS.useless_answers[provider.index()].add(1);
        }
    }
}

/// How long the provider asks to wait.
fn requested_wait(failure: &Failure) -> Duration {
    failure.retry_after().unwrap_or_default()
}

/// The call was broken off after it was sent.
fn unanswered(call: &ProviderCall, why: &str) -> Failure {
    Failure::transient(why).by(call.provider).with_answer_lost()
}

fn cancelled(call: &ProviderCall) -> Failure {
    Failure::new(FailureClass::Cancelled, "the replica has to let go of the job").by(call.provider)
}
