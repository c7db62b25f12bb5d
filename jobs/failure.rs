//! The one verdict on a call that went wrong. The provider that saw the answer decides the class once;
//! the retry loop, the gate and the queue only read it.

use std::{error::Error, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use strum::{EnumCount, VariantArray};

use crate::Provider;

/// The class of a failure, which decides who has to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, EnumCount, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The provider or the network stumbled (408, 409, 5xx, connect, time-out, reset, cut stream): try again.
    Transient,
    /// The provider asks to slow down (429): try again later, and the whole fleet with it.
    RateLimited,
    /// The account has no credit or volume left: no retry helps until someone pays.
    OutOfQuota,
    /// This deployment is wrong (401, 403, 404 model or endpoint): every job fails alike until an operator fixes it.
    Deployment,
    /// This job is wrong (bad payload, 400, 413, 415, 422, refusal): it fails, the others go on.
    Permanent,
    /// Nothing was sent: a breaker or a limit says "not before". The job goes back without losing an attempt.
    Blocked,
    /// Nothing was sent: the fleet's budget is used up, and jobs are not to wait for it.
    OverBudget,
    /// Nothing was sent: the student's allowance of the month is used up.
    OverAllowance,
    /// Nothing can be said: the replica is stopping or has lost the job. The job goes back as it was.
    Cancelled,
}

impl FailureClass {
    /// All of them.
    #[allow(clippy::expect_used, reason = "the compiler evaluates it")]
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().expect("there are as many");

    /// The name of the class in logs, history and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::RateLimited => "rate_limited",
            Self::OutOfQuota => "out_of_quota",
            Self::Deployment => "deployment",
            Self::Permanent => "permanent",
            Self::Blocked => "blocked",
            Self::OverBudget => "over_budget",
            Self::OverAllowance => "over_allowance",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns true if the same call may succeed when it is simply made again.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Transient | Self::RateLimited)
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The party that has to act before such a call can succeed, which decides whether the breaker counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// The provider or the network fails: the breaker counts the call, and the job is tried again.
    Provider,
    /// The account or this deployment is at fault (key, scope, credit, model, parameter): the breaker counts the call,
    /// operators are alerted, and jobs wait until the fault is removed.
    Account,
    /// This job is at fault (refusal, flagged input, too large): the breaker never counts the call.
    Job,
    /// Neither is at fault (rate limit, a bad sample, a call that was never processed): the breaker does not count it.
    NoFault,
}

/// A fault of the account, or of this deployment's configuration of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, VariantArray)]
pub enum AccountFault {
    /// The API key is refused.
    Key,
    /// The API key is accepted and lacks a scope or permission.
    Scope,
    /// No credit, budget or call volume is left.
    Credit,
    /// The model or the Azure deployment does not exist, or the account may not use it.
    Model,
    /// The provider does not take a parameter of the request.
    Parameter,
    /// Access is denied for another reason: region, firewall, data policy.
    Access,
    /// The base URL leads to no such endpoint.
    Endpoint,
}

impl AccountFault {
    /// All of them.
    #[allow(clippy::expect_used, reason = "the compiler evaluates it")]
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().expect("there are as many");

    /// The word for it in Redis, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Scope => "scope",
            Self::Credit => "credit",
            Self::Model => "model",
            Self::Parameter => "parameter",
            Self::Access => "access",
            Self::Endpoint => "endpoint",
        }
    }

    /// The fault in words that an operator can act on.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Key => "the provider refuses the API key",
            Self::Scope => "the API key lacks a scope",
            Self::Credit => "the account has no credit or quota left",
            Self::Model => "the model is not available to the account",
            Self::Parameter => "the provider does not take a parameter of the request",
            Self::Access => "the provider denies access to the account",
            Self::Endpoint => "the base URL leads to no such endpoint",
        }
    }

    /// The fault with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == word)
    }
}

/// A failed call or job: its class, what happened in words an operator can act on, and the cause.
///
/// The message never carries a secret, and never more than a short excerpt of what a provider sent.
#[derive(Debug)]
pub struct Failure {
    class: FailureClass,
    message: String,
    provider: Option<Provider>,
    status: Option<u16>,
    retry_after: Option<Duration>,
    answer_lost: bool,
    limited: bool,
    lacks_money: bool,
    late_tier: bool,
    culprit: Option<Culprit>,
    account_fault: Option<AccountFault>,
    parameter: Option<Box<str>>,
    deployment: Option<Box<str>>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure of the given class.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            provider: None,
            status: None,
            retry_after: None,
            answer_lost: false,
            limited: false,
            lacks_money: false,
            late_tier: false,
            culprit: None,
            account_fault: None,
            parameter: None,
            deployment: None,
            source: None,
        }
    }

    /// [`FailureClass::Transient`]: worth another try.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Transient, message)
    }

    /// [`FailureClass::Permanent`]: this job is wrong.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Permanent, message)
    }

    /// [`FailureClass::Permanent`], naming the payload field that is wrong and why: `payload field "audioUrl": …`.
    pub fn invalid_field(field: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::permanent(format!("payload field \"{field}\": {why}"))
    }

    /// [`FailureClass::Deployment`]: the configuration of this worker is wrong.
    pub fn deployment(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Deployment, message)
    }

    /// The same failure in another class.
    #[must_use]
    pub fn reclassified(mut self, class: FailureClass) -> Self {
        self.class = class;
        self
    }

    /// Names the provider that answered, or failed to.
    #[must_use]
    pub fn by(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// How long the provider (or the gate) asks to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Records that the request was sent but its outcome is unknown: the provider may have billed it.
    #[must_use]
    pub fn with_answer_lost(mut self) -> Self {
        self.answer_lost = true;
        self
    }

    /// Says that a limit stood in the way (requests, tokens, calls in flight, or a pause that the provider has asked
    /// for), and no breaker: the job keeps its place in the line.
    #[must_use]
    pub fn with_limit(mut self) -> Self {
        self.limited = true;
        self
    }

    /// Says that a budget or the kill switch stood in the way: the job waits until an operator or the calendar gives
    /// way.
    #[must_use]
    pub fn with_lack_of_money(mut self) -> Self {
        self.lacks_money = true;
        self
    }

    /// Says that the cheaper tier of the provider was given up because it had not begun to answer in time: the usual tier is
    /// to be asked. The answer counts as lost.
    #[must_use]
    pub fn with_late_tier(mut self) -> Self {
        self.late_tier = true;
        self.with_answer_lost()
    }

    /// Names the culprit, where it is another than the class suggests.
    #[must_use]
    pub fn blaming(mut self, culprit: Culprit) -> Self {
        self.culprit = Some(culprit);
        self
    }

    /// Says what is wrong with the account or the deployment.
    #[must_use]
    pub fn with_account_fault(mut self, fault: AccountFault) -> Self {
        self.account_fault = Some(fault);
        self
    }

    /// Names the request parameter that the provider does not take.
    #[must_use]
    pub fn with_parameter(mut self, parameter: Option<String>) -> Self {
        self.parameter = parameter.map(String::into_boxed_str);
        self
    }

    /// Names the deployment, where there are several: the message says it.
    #[must_use]
    pub fn at_deployment(mut self, name: &str) -> Self {
        self.deployment = Some(name.into());
        self
    }

    /// The error underneath.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The class of the failure.
    pub const fn class(&self) -> FailureClass {
        self.class
    }

    /// The party that has to act, which decides whether the breaker counts the call.
    pub const fn culprit(&self) -> Culprit {
        match (self.culprit, self.class) {
            (Some(culprit), _) => culprit,
            (None, FailureClass::Transient) => Culprit::Provider,
            (None, FailureClass::OutOfQuota | FailureClass::Deployment) => Culprit::Account,
            (None, FailureClass::Permanent) => Culprit::Job,
            (
                None,
                FailureClass::RateLimited
                | FailureClass::Blocked
                | FailureClass::OverBudget
                | FailureClass::OverAllowance
                | FailureClass::Cancelled,
            ) => Culprit::NoFault,
        }
    }

    /// The fault of the account or the deployment, as far as the provider's answer names it.
    pub const fn account_fault(&self) -> Option<AccountFault> {
        self.account_fault
    }

    /// The request parameter that the provider does not take, if it names one.
    pub fn parameter(&self) -> Option<&str> {
        self.parameter.as_deref()
    }

    /// The message, without the underlying causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The provider concerned, if one was.
    pub const fn provider(&self) -> Option<Provider> {
        self.provider
    }

    /// The HTTP status, if there was an answer.
    pub const fn status(&self) -> Option<u16> {
        self.status
    }

    /// Returns true if the request was sent and its outcome is unknown.
    pub const fn is_answer_lost(&self) -> bool {
        self.answer_lost
    }

    /// Returns true if a limit refused the call: it was not sent, and the job keeps its place in the line.
    pub const fn is_limited(&self) -> bool {
        self.limited
    }

    /// Whether a budget or the kill switch stood in the way: the call was not sent.
    pub const fn lacks_money(&self) -> bool {
        self.lacks_money
    }

    /// Returns true if the cheaper tier was given up as late: the provider may have billed it, and the usual tier is to be
    /// asked.
    pub const fn is_late_tier(&self) -> bool {
        self.late_tier
    }

    /// How long the provider (or the gate) asks to wait.
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(deployment) = &self.deployment {
            write!(f, " (at {deployment})")?;
        }
        // The causes belong to what the operator reads in a job's failed reason: one line, outermost first.
        let mut cause = self.source.as_ref().map(|e| e.as_ref() as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {
    // The causes are part of the text already: a source() as well would print them twice.
}
