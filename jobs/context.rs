//! The interface of a running handler: guarded provider calls. [`ProviderGuard`] hides everything that replicas share
//! (retry, breaker, limits, ledger, progress) from the handlers.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{CallUsage, Failure, FailureClass, Provider};

tokio::task_local! {
    /// The W3C `traceparent` that requests to providers carry, where calls are traced.
    pub static TRACEPARENT: String;
    /// How long a job's calls may wait for the cheaper tier of their provider; absent for a job that does not use it.
    pub static FLEX: FlexTerms;

    /// The deployment of the language model that a call goes to, by its place among those that are configured. Outside of
    /// its scope it is the first.
    pub static DEPLOYMENT: usize;
}

/// How long a call may wait for `service_tier: flex`, which costs less, answers later, and is refused at times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlexTerms {
    /// Longest wait for the beginning of an answer.
    pub patience: Duration,
    /// The time from which only the usual tier can answer before the job's deadline.
    pub until: Instant,
}

impl FlexTerms {
    /// Terms without any wait, for the call to the usual tier that follows.
    pub fn used_up() -> Self {
        Self {
            patience: Duration::ZERO,
            until: Instant::now(),
        }
    }

    /// The time until which a call of this task may wait for the cheaper tier; `None` if it does not ask for that tier.
    pub(crate) fn now() -> Option<Instant> {
        let terms = FLEX.try_with(|terms| *terms).ok()?;
        let until = terms.until.min(Instant::now() + terms.patience);
        (until > Instant::now()).then_some(until)
    }
}

/// The service that a call goes to: a provider, or a further deployment of the language model, which has a name of its own
/// in bookings and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalledService {
    provider: Provider,
    deployment: usize,
    name: Option<Arc<str>>,
}

impl CalledService {
    /// Most deployments of the language model.
    pub const MOST_DEPLOYMENTS: usize = 8;
    /// How many services there can be.
    pub const COUNT: usize = Provider::ALL.len() + Self::MOST_DEPLOYMENTS - 1;

    /// A provider; of the language model the first deployment.
    pub const fn of(provider: Provider) -> Self {
        Self {
            provider,
            deployment: 0,
            name: None,
        }
    }

    /// A further deployment of the language model, by its place among all that are configured.
    pub const fn further(deployment: usize, name: Arc<str>) -> Self {
        Self {
            provider: Provider::OpenAi,
            deployment,
            name: Some(name),
        }
    }

    /// The provider.
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// The provider's name, or that of the further deployment: `openai`, `llm-azure`.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.provider.as_str())
    }

    /// A number below [`Self::COUNT`], which no other service has.
    pub const fn number(&self) -> usize {
        let last = Self::MOST_DEPLOYMENTS - 1;
        match self.deployment {
            0 => self.provider as usize,
            further if further < last => Provider::ALL.len() + further - 1,
            _ => Self::COUNT - 1,
        }
    }
}

/// One request to a provider, as the guard sees it.
#[derive(Debug, Clone)]
pub struct ProviderCall {
    /// The provider whose limits and breaker apply.
    pub provider: Provider,
    /// Names the call within its job, the same on each delivery of the job (`chat`, `image:2`): the key under
    /// which its reply can be kept.
    pub step: Cow<'static, str>,
    /// Tokens that the call will use at most, for providers that limit tokens; 0 elsewhere.
    pub estimated_tokens: u64,
    /// True if the call costs money, so that its reply is stored. A free call is repeated instead, because a stored
    /// reply would be out of date.
    pub paid: bool,
    /// The most that it will use, in the units that its provider bills.
    pub estimate: CallUsage,
    /// The same for the model that is asked within the same call if the first one is found to be gone.
    pub successor_estimate: Option<CallUsage>,
    /// The service that it is booked under.
    pub service: CalledService,
}

impl ProviderCall {
    /// A paid call that is not limited by tokens.
    pub fn new(provider: Provider, step: impl Into<Cow<'static, str>>) -> Self {
        Self {
            provider,
            step: step.into(),
            estimated_tokens: 0,
            paid: true,
            estimate: CallUsage::default(),
            successor_estimate: None,
            service: CalledService::of(provider),
        }
    }

    /// Sets what the call will use at most.
    #[must_use]
    pub fn estimating(mut self, estimate: CallUsage) -> Self {
        self.estimate = estimate;
        self
    }

    /// Sets the tokens that the call will use at most.
    #[must_use]
    pub fn with_estimated_tokens(mut self, tokens: u64) -> Self {
        self.estimated_tokens = tokens;
        self
    }

    /// The same call, to be made once more under a step of its own.
    #[must_use]
    pub(crate) fn once_more(&self) -> Self {
        Self {
            step: format!("{}:again", self.step).into(),
            ..self.clone()
        }
    }

    /// The same call, counted for the deployment that has answered it, by its place.
    fn answered_at(&self, deployment: usize) -> Cow<'_, Self> {
        if deployment == self.service.deployment {
            return Cow::Borrowed(self);
        }
        let service = CalledService {
            deployment,
            ..self.service.clone()
        };
        Cow::Owned(Self {
            service,
            ..self.clone()
        })
    }

    /// Says that its reply costs nothing.
    #[must_use]
    pub fn unpaid(mut self) -> Self {
        self.paid = false;
        self
    }
}

/// The usable answer of a provider, whole: what was paid for can be stored, and read again by the handler.
#[derive(Debug, Clone)]
pub struct ProviderReply {
    /// The provider's answer: JSON, as it came.
    pub body: Box<RawValue>,
    /// Tokens that it really used, where the provider counts them.
    pub tokens: Option<u64>,
    /// True if the provider failed in the middle of the answer, and what had arrived is enough for the job.
    pub is_cut: bool,
}

impl ProviderReply {
    /// A whole answer.
    pub const fn new(body: Box<RawValue>, tokens: Option<u64>) -> Self {
        Self {
            body,
            tokens,
            is_cut: false,
        }
    }
}

impl PartialEq for ProviderReply {
    fn eq(&self, other: &Self) -> bool {
        (self.body.get(), self.tokens) == (other.body.get(), other.tokens)
    }
}

/// Makes one attempt at a call. Each invocation sends a new request.
pub type CallAttempt<'a> = dyn Fn() -> BoxFuture<'a, Result<ProviderReply, Failure>> + Send + Sync + 'a;

/// Runs provider calls on behalf of one job.
#[async_trait]
pub trait ProviderGuard: Send + Sync {
    /// Repeats `attempt` until it returns a reply, or a failure that another attempt cannot repair.
    ///
    /// # Errors
    /// The last failure; [`FailureClass::Blocked`] or
    /// [`FailureClass::Cancelled`] when the job has to go back to its queue. A handler passes
    /// both of these on unchanged.
    async fn call<'a>(
        &'a self,
        call: &'a ProviderCall,
        attempt: &'a CallAttempt<'a>,
    ) -> Result<ProviderReply, Failure>;

    /// Takes note that the reply of a call that went well is of no use to its job. One that was kept from an earlier
    /// delivery (`is_kept`) is dropped: the next call of this step is made, and paid for.
    async fn useless(&self, call: &ProviderCall, is_kept: bool);

    /// Reports how much of the job is done, in percent. The queue shows 10 at the start and 100 at the end by itself,
    /// and progress never falls: only values between those of earlier reports and 95 have an effect, one a second at
    /// most.
    async fn progress(&self, _percent: u8) {}

    /// Shows the parts of the result that are there so far to the clients that follow the job. `write` writes them as a
    /// JSON array; it is called only while a client follows.
    async fn show_parts(&self, _write: &(dyn Fn() -> String + Sync)) {}
}

/// An answer that was read.
pub(crate) struct AnswerReading<T> {
    /// The contents of the answer.
    pub(crate) value: T,
    /// True if the job can use it.
    pub(crate) is_useful: bool,
}

/// The answer that a handler works with.
pub(crate) struct UsableAnswer<T> {
    pub(crate) reading: AnswerReading<T>,
    /// True if a useless answer of an earlier delivery was replaced by this one: it is not asked for yet again.
    pub(crate) is_second: bool,
}

/// Makes a guarded call, and reads its answer.
///
/// A useless answer says nothing about the provider, so its call settles as a success. One that the guard had kept from
/// an earlier delivery (an older version may have accepted it) is dropped, and asked for again once.
///
/// `read` fails where the provider reports a fault of its own inside of its answer: that try failed like any other.
///
/// # Errors
/// The guard's.
pub(crate) async fn read_call<T: Send>(
    guard: &dyn ProviderGuard,
    call: &ProviderCall,
    attempt: &CallAttempt<'_>,
    read: &(dyn Fn(&RawValue) -> Result<AnswerReading<T>, Failure> + Sync),
) -> Result<UsableAnswer<T>, Failure> {
    let mut is_second = false;
    loop {
        let fresh = Mutex::new(None);
        let reply = guard
            .call(call, &|| {
                Box::pin(async {
                    let reply = attempt().await?;
                    let reading = read(&reply.body)?;
                    let deployment = DEPLOYMENT.try_with(|place| *place).unwrap_or_default();
                    *fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some((reading, deployment));
                    Ok(reply)
                })
            })
            .await?;
        let fresh = fresh.into_inner().unwrap_or_else(PoisonError::into_inner);
        let is_kept = fresh.is_none();
        let (reading, deployment) = match fresh {
            Some((reading, deployment)) => (Some(reading), deployment),
            None => (read(&reply.body).ok(), 0),
        };
        if reading.as_ref().is_none_or(|reading| !reading.is_useful) {
            guard.useless(&call.answered_at(deployment), is_kept).await;
        }
        match reading {
            Some(reading) if reading.is_useful || !is_kept || is_second => {
                return Ok(UsableAnswer { reading, is_second });
            }
            None if is_second => {
                let message = format!("{}: the answer that was kept cannot be read", call.provider);
                return Err(Failure::permanent(message).by(call.provider));
            }
            // Kept and useless.
            _ => is_second = true,
        }
    }
}

/// Why an answer cannot be used.
#[derive(Debug)]
pub(crate) enum UnusableAnswer {
    /// The provider reports a fault of its own inside of its answer.
    ProviderFault(Failure),
    /// Another answer may be better.
    Useless(Failure),
    /// Another answer would be the same.
    Final(Failure),
}

/// Makes a guarded call, and asks once more for an answer that is useless, under a step of its own: the useless one is
/// kept as paid.
///
/// # Errors
/// Returns the guard's failure; permanent for the second useless answer to a paid call, and for a final one.
pub(crate) async fn ask<T: Send>(
    guard: &dyn ProviderGuard,
    call: &ProviderCall,
    attempt: &CallAttempt<'_>,
    read: &(dyn Fn(&RawValue) -> Result<T, UnusableAnswer> + Sync),
) -> Result<T, Failure> {
    let read = |body: &RawValue| match read(body) {
        Ok(value) => Ok(AnswerReading {
            value: Ok(value),
            is_useful: true,
        }),
        Err(UnusableAnswer::ProviderFault(failure)) => Err(failure),
        Err(unusable) => Ok(AnswerReading {
            value: Err(unusable),
            is_useful: false,
        }),
    };
    let first = read_call(guard, call, attempt, &read).await?;
    let last = match first.reading.value {
        Err(UnusableAnswer::Useless(_)) if !first.is_second => {
            read_call(guard, &call.once_more(), attempt, &read).await?.reading
        }
        _ => first.reading,
    };
    last.value.map_err(|unusable| match unusable {
        UnusableAnswer::Useless(failure) if call.paid => failure.reclassified(FailureClass::Permanent),
        unusable => unusable.into(),
    })
}

impl From<UnusableAnswer> for Failure {
    fn from(unusable: UnusableAnswer) -> Self {
        let (UnusableAnswer::ProviderFault(failure)
        | UnusableAnswer::Useless(failure)
        | UnusableAnswer::Final(failure)) = unusable;
        failure
    }
}
