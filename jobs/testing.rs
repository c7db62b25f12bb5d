//! Stand-ins for the handlers' tests: a guard that keeps nothing and waits for nothing, and scripted answers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde_json::{Value, value::to_raw_value};

use crate::{CallAttempt, Failure, FailureClass, ProviderCall, ProviderGuard, ProviderReply};

pub(crate) mod server;

/// Makes up to three attempts, like the real guard, but at once. Replays the replies that it was given.
#[derive(Default)]
pub(crate) struct FakeGuard {
    kept: Mutex<HashMap<String, ProviderReply>>,
    useless: Mutex<Vec<String>>,
    refusal: Option<FailureClass>,
    calls: Mutex<Vec<ProviderCall>>,
}

impl FakeGuard {
    /// A guard that holds the replies of an earlier delivery, by step.
    pub(crate) fn keeping(kept: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let kept = kept
            .into_iter()
            .map(|(step, body)| (step.to_owned(), reply(body)))
            .collect();
        Self {
            kept: Mutex::new(kept),
            ..Self::default()
        }
    }

    /// A guard that lets nothing pass.
    pub(crate) fn refusing(class: FailureClass) -> Self {
        Self {
            refusal: Some(class),
            ..Self::default()
        }
    }

    /// The steps that were asked for, in order.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .map(|call| call.step.to_string())
            .collect()
    }

    /// The steps whose reply was of no use, in order.
    pub(crate) fn useless_steps(&self) -> Vec<String> {
        self.useless.lock().unwrap().clone()
    }

    /// The steps that are not paid for, in order.
    pub(crate) fn unpaid_steps(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let unpaid = calls.iter().filter(|call| !call.paid);
        unpaid.map(|call| call.step.to_string()).collect()
    }

    /// The usage that each call announced, in order.
    pub(crate) fn usages(&self) -> Vec<crate::CallUsage> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|call| call.estimate.clone()).collect()
    }

    /// The tokens that each call announced, in order.
    pub(crate) fn estimates(&self) -> Vec<u64> {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .map(|call| call.estimated_tokens)
            .collect()
    }
}

#[async_trait]
impl ProviderGuard for FakeGuard {
    async fn call<'a>(
        &'a self,
        call: &'a ProviderCall,
        attempt: &'a CallAttempt<'a>,
    ) -> Result<ProviderReply, Failure> {
        self.calls.lock().unwrap().push(call.clone());
        if let Some(class) = self.refusal {
            return Err(Failure::new(class, "refused"));
        }
        if let Some(reply) = self.kept.lock().unwrap().get(call.step.as_ref()) {
            return Ok(reply.clone());
        }
        for _ in 1..3 {
            match attempt().await {
                Err(failure) if failure.class().is_retryable() => {}
                settled => return settled,
            }
        }
        attempt().await
    }

    async fn useless(&self, call: &ProviderCall, is_kept: bool) {
        self.useless.lock().unwrap().push(call.step.to_string());
        if is_kept {
            self.kept.lock().unwrap().remove(call.step.as_ref());
        }
    }
}

/// The answers that a provider will give, in order, and the calls so far.
pub(crate) struct Script<Q> {
    answers: Mutex<VecDeque<Result<Value, FailureClass>>>,
    asked: Mutex<Vec<Q>>,
}

impl<Q: Send> Script<Q> {
    /// Answers in this order; an error is a failure of that class.
    pub(crate) fn new(answers: impl IntoIterator<Item = Result<Value, FailureClass>>) -> Self {
        Self {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
        }
    }

    /// The next answer. A question too many is a permanent failure, so that no test loops.
    pub(crate) fn answer<'a>(&self, question: Q) -> BoxFuture<'a, Result<ProviderReply, Failure>> {
        self.asked.lock().unwrap().push(question);
        let answer = self
            .answers
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Err(FailureClass::Permanent));
        Box::pin(async { answer.map(reply).map_err(|class| Failure::new(class, "scripted")) })
    }

    /// The calls so far, in order.
    pub(crate) fn asked(self) -> Vec<Q> {
        self.asked.into_inner().unwrap()
    }
}

/// A provider's answer.
pub(crate) fn reply(body: Value) -> ProviderReply {
    ProviderReply {
        body: to_raw_value(&body).unwrap(),
        tokens: None,
        is_cut: false,
    }
}
