//! What a handler may use while it runs: guarded provider calls. Everything that is shared between replicas
//! (retry, breaker, limits, ledger, progress) sits behind [`Guard`], so a handler knows none of it.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;

use crate::{Failure, Provider};

tokio::task_local! {
    /// The W3C `traceparent` that requests to providers carry, where calls are traced.
    pub static TRACEPARENT: String;
}

/// One request to a provider, as the guard sees it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose limits and breaker apply.
    pub provider: Provider,
    /// Names the call within its job, the same on each delivery of the job (`chat`, `image:2`): the key under
    /// which its reply can be kept.
    pub step: Cow<'static, str>,
    /// Tokens that the call will use at most, for providers that limit tokens; 0 elsewhere.
    pub estimated_tokens: u64,
    /// Whether its reply costs money, and so is worth keeping. What is not paid is asked for anew: a kept reply
    /// would only be old.
    pub paid: bool,
}

impl Call {
    /// A paid call that is not limited by tokens.
    pub fn new(provider: Provider, step: impl Into<Cow<'static, str>>) -> Self {
        Self {
            provider,
            step: step.into(),
            estimated_tokens: 0,
            paid: true,
        }
    }

    /// Sets the tokens that the call will use at most.
    #[must_use]
    pub fn with_estimated_tokens(mut self, tokens: u64) -> Self {
        self.estimated_tokens = tokens;
        self
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
pub struct Reply {
    /// The provider's answer: JSON, as it came.
    pub body: Box<RawValue>,
    /// Tokens that it really used, where the provider counts them.
    pub tokens: Option<u64>,
}

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        (self.body.get(), self.tokens) == (other.body.get(), other.tokens)
    }
}

/// Makes one attempt at a call, afresh each time that it is invoked.
pub type Attempt<'a> = dyn Fn() -> BoxFuture<'a, Result<Reply, Failure>> + Send + Sync + 'a;

/// Runs provider calls on behalf of one job.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Makes `attempt` until it yields a reply, or a failure that another attempt cannot mend.
    ///
    /// # Errors
    /// The last failure; [`Class::Blocked`](crate::Class::Blocked) or
    /// [`Class::Cancelled`](crate::Class::Cancelled) when the job has to go back to its queue. A handler passes
    /// both of these on unchanged.
    async fn call<'a>(&'a self, call: &'a Call, attempt: &'a Attempt<'a>) -> Result<Reply, Failure>;
}

/// Makes a guarded call, and reads its answer: within the attempt, so that one that nobody can use is tried again like
/// any other stumble.
pub(crate) async fn ask<T: Send>(
    guard: &dyn Guard,
    call: &Call,
    attempt: &Attempt<'_>,
    read: &(dyn Fn(&RawValue) -> Result<T, Failure> + Sync),
) -> Result<T, Failure> {
    let answer = Mutex::new(None);
    let reply = guard
        .call(call, &|| {
            Box::pin(async {
                let reply = attempt().await?;
                let read = read(&reply.body)?;
                *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
                Ok(reply)
            })
        })
        .await?;
    match answer.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(answer) => Ok(answer),
        None => read(&reply.body), // The guard had kept it from an earlier run.
    }
}
