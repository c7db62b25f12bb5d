//! The guard around every provider call: retry( admit → record → call → classify → settle ).
//!
//! The guard asks the gate inside the retry loop, once for each try. So a breaker that opens between two tries ends the
//! loop, a rejection costs no try, and the breaker counts each request once.

mod admission;
mod next_try;
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
    CallAttempt, Culprit, DEPLOYMENT, FLEX, Failure, FailureClass, FlexTerms, Provider, ProviderCall,
    ProviderGuard, ProviderReply, TRACEPARENT, providers::OpenAi,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use self::next_try::CallProgress;
use crate::{
    gate::{DeploymentGates, Gates, Permit, Settlement},
    locks::locked,
    retry::{BackoffDelay, LONGEST_WAIT_IN_SLOT, RetryPolicy},
    spend_ledger::{LedgerEntry, LedgerPage, OpenedCall, OpeningAnswer},
    spending::JobSpend,
    suspects::Suspect,
    telemetry::{
        metrics::{
            PROCESS,
            labels::{Answer, JobClass},
        },
        trace::{self, SpanEnd},
    },
};

/// Receives the events of a job's calls: retries, and verdicts of gates.
#[async_trait]
pub trait CallObserver: Send + Sync {
    /// The `nth` try (from 1) failed, and the next follows after `delay`.
    async fn retrying(&self, nth: u8, failure: &Failure, delay: BackoffDelay);

    /// The job says how much of it is done.
    async fn progressed(&self, _percent: u8) {}

    /// The job shows the parts of its result so far, which `write` writes as a JSON array.
    async fn has_parts(&self, _write: &(dyn Fn() -> String + Sync)) {}

    /// The gates of a provider have decided on a call; `refused` is the wait after a refusal by a limit.
    fn asked(&self, _gates: &Arc<DeploymentGates>, _refused: Option<Duration>) {}
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
    language_model: Option<&'a OpenAi>,
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
            language_model: None,
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

    /// Names the client that knows which model each deployment is asked for.
    #[must_use]
    pub fn asking(self, language_model: Option<&'a OpenAi>) -> Self {
        Self {
            language_model,
            ..self
        }
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
        progress: &mut CallProgress,
    ) -> Result<ProviderReply, Failure> {
        let admitted = match self.gates {
            Some(gates) => self.admit(gates, call, progress.route).await?,
            None => self.without_gate(call),
        };
        let (mut permit, deployment, call) = (admitted.permit, admitted.deployment, &admitted.call);
        progress.asked = call.service.clone();
        let opened = match admitted.entry {
            Some((entry, answer)) => Some(entry.opened(call, answer).await?),
            None => None,
        };
        let mut entry = match opened {
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
        if let Some(permit) = &mut permit {
            permit.sent();
        }
        let mut result = self.send(call, attempt, permit.as_ref(), deployment).await;
        if result.as_ref().is_err_and(Failure::is_late_tier) {
            (entry, result) = self
                .ask_usual_tier(call, attempt, (permit.as_ref(), deployment), (entry, result))
                .await;
        }
        if let Err(failure) = &result {
            let is_barred = failure.culprit() == Culprit::Account;
            progress.route.has_failed(deployment, is_barred);
        }
        if self.deployments_of(call) > 1 {
            result = result.map_err(|failure| failure.at_deployment(call.service.name()));
        }
        self.end(call, &result, permit, entry).await;
        result
    }

    /// Reports the end of a call to its gate and to the ledger.
    async fn end(
        &self,
        call: &ProviderCall,
        result: &Result<ProviderReply, Failure>,
        permit: Option<Permit>,
        entry: Option<LedgerEntry<'_>>,
    ) {
        let settlement = Settlement::of(result);
        let settle = OptionFuture::from(permit.map(|permit| permit.settle(settlement)));
        let close = OptionFuture::from(entry.map(|entry| entry.close(call, result)));
        tokio::join!(close, settle);
    }

    /// The call as it is made at this deployment: what it can cost depends on the model that is asked there.
    fn at_deployment(&self, call: &ProviderCall, deployment: usize) -> ProviderCall {
        let service = match self.gates {
            Some(gates) => gates.deployments(call.provider).gates()[deployment].service(),
            None => &call.service,
        };
        match self.language_model.filter(|_| call.provider == Provider::OpenAi) {
            Some(model) => model.at_deployment(call, deployment, service),
            None => ProviderCall {
                service: service.clone(),
                ..call.clone()
            },
        }
    }

    /// Books a call to the cheaper tier that was given up as late, and asks the usual tier under the same permit.
    ///
    /// The call that was given up is booked before the other one is reserved and sent: a replica that is killed in between
    /// leaves each of them booked once.
    async fn ask_usual_tier<'p>(
        &'p self,
        call: &ProviderCall,
        attempt: &CallAttempt<'_>,
        (permit, deployment): (Option<&Permit>, usize),
        (given_up, late): (Option<LedgerEntry<'p>>, Result<ProviderReply, Failure>),
    ) -> (Option<LedgerEntry<'p>>, Result<ProviderReply, Failure>) {
        info!(step = %call.step, "the cheaper tier is given up as late and booked as possibly paid: the usual one is asked");
        if let Some(given_up) = given_up {
            given_up.close(call, &late).await;
        }
        let entry = match self.entry(call) {
            Some(entry) => match entry.opened(call, OpeningAnswer::NotOpened).await {
                Ok(OpenedCall::Send(entry)) => Some(entry),
                Ok(OpenedCall::Kept(reply)) => return (None, Ok(reply)),
                Err(failure) => return (None, Err(failure)),
            },
            None => None,
        };
        if let Some(stopped) = self.stopped(call) {
            if let Some(entry) = entry {
                entry.withdraw().await;
            }
            return (None, Err(stopped.blaming(Culprit::NoFault)));
        }
        let usual = self.send(call, attempt, permit, deployment);
        (entry, FLEX.scope(FlexTerms::used_up(), usual).await)
    }

    /// Sends the call to a deployment, for as long as its permit holds.
    async fn send(
        &self,
        call: &ProviderCall,
        attempt: &CallAttempt<'_>,
        permit: Option<&Permit>,
        deployment: usize,
    ) -> Result<ProviderReply, Failure> {
        let lost = async {
            match permit {
                Some(permit) => permit.lost().await,
                None => std::future::pending().await,
            }
        };
        let sending = self.measured(call, attempt, lost);
        match deployment {
            0 => sending.await,
            // The first deployment needs no task-local: it is the client's default.
            other => DEPLOYMENT.scope(other, sending).await,
        }
    }

    /// Why a call that is about to be sent must not be: the job is lost, the replica stops at once, or the time is up.
    fn stopped(&self, call: &ProviderCall) -> Option<Failure> {
        if self.stops.abort.is_cancelled() {
            return Some(cancelled(call));
        }
        let is_late = self.stops.deadline <= Instant::now();
        is_late.then(|| Failure::transient("the job's deadline passed before the call").by(call.provider))
    }

    /// The call's entry for the ledger. What costs nothing has none.
    fn entry(&self, call: &ProviderCall) -> Option<LedgerEntry<'_>> {
        let page = self.page.as_ref().filter(|_| call.paid)?;
        Some(page.prepare(call))
    }

    /// The call itself, counted.
    async fn measured(
        &self,
        call: &ProviderCall,
        attempt: &CallAttempt<'_>,
        lost: impl Future<Output = ()>,
    ) -> Result<ProviderReply, Failure> {
        let sent = Instant::now();
        let span = info_span!("call", provider = call.service.name());
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
        PROCESS.called(&call.service, class, answer, sent.elapsed());
        if let Ok(reply) = &result {
            PROCESS.tokens[call.service.number()].add(reply.tokens.unwrap_or_default());
            PROCESS.paid_calls[call.service.number()].add(u64::from(call.paid));
        }
        result
    }

    /// How many deployments the call can go to.
    fn deployments_of(&self, call: &ProviderCall) -> usize {
        self.gates
            .map_or(1, |gates| gates.deployments(call.provider).gates().len())
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
        if let Some(page) = &self.page
            && let Some(reply) = page.kept(call).await
        {
            self.paid_for(call, &reply);
            return Ok(reply);
        }
        if let Some(suspect) = &self.suspect {
            suspect.may_call().await;
        }
        let mut progress = CallProgress::new(call);
        loop {
            progress.nth = progress.nth.saturating_add(1); // The policy ends the loop: its tries are a u8 too.
            let nth = progress.nth;
            self.tries.store(nth, Ordering::Relaxed);
            let span = info_span!("attempt", provider = %call.provider, step = %call.step, nth);
            let end = SpanEnd::of(&span);
            let passed = self
                .try_once(call, attempt, &mut progress)
                .instrument(span.clone())
                .await;
            end.set(passed.is_err());
            drop(span);
            match passed {
                Ok(reply) => {
                    self.paid_for(call, &reply);
                    if nth > 1 {
                        let provider = call.provider;
                        info!(%provider, tries = nth, "Retry successful after {} attempt(s)", nth - 1);
                    }
                    return Ok(reply);
                }
                Err(failure) => self.before_next_try(call, &mut progress, failure).await?,
            }
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
            PROCESS.useless_answers[call.service.number()].add(1);
        }
    }
}

/// The call was broken off after it was sent.
fn unanswered(call: &ProviderCall, why: &str) -> Failure {
    Failure::transient(why).by(call.provider).with_answer_lost()
}

fn cancelled(call: &ProviderCall) -> Failure {
    Failure::new(FailureClass::Cancelled, "the replica has to let go of the job").by(call.provider)
}
