//! Writes outcomes. Completions travel together.

use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisError, Value};

use super::{ApalisBroker, err_result, scripts};
use crate::queue::{
    BrokerError, ClaimNumber, ClaimProof, Completion, CompletionResults, EqualJobs, HistoryNote, Lease,
    OutcomeWriter, Postponement, WriteResult, batch_replies, line, millis, told_equal,
};

/// A completion deletes payloads above this size, bytes: they hold media, which no later reader needs.
const WORTH_KEEPING: usize = 16 * 1024;

#[async_trait]
impl OutcomeWriter for ApalisBroker {
    async fn complete_all(
        &self,
        completions: &[Completion],
        _next: Option<ClaimNumber>,
    ) -> CompletionResults {
        let error = match self.send_completions(completions).await {
            Ok(answers) if answers.len() == completions.len() => {
                return CompletionResults {
                    settled: answers.into_iter().map(batch_replies::settled).collect(),
                    claimed: None,
                };
            }
            Ok(_) => batch_replies::too_few(),
            Err(error) => error,
        };
        CompletionResults {
            settled: batch_replies::failed(&error, completions.len()).collect(),
            claimed: None,
        }
    }

    async fn retry_at(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError> {
        self.delay(lease, &later, true).await
    }

    async fn put_off(&self, lease: &Lease, later: Postponement<'_>) -> Result<WriteResult, BrokerError> {
        self.delay(lease, &later, false).await
    }

    async fn fail(
        &self,
        lease: &Lease,
        reason: &str,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::FAIL.prepare_invoke();
        call.key(&self.inflight)
            .key(&keys.dead)
            .key(&keys.ended_dead)
            .key(&keys.fair);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&keys.meta_prefix)
            .arg(&keys.history_prefix);
        call.arg(err_result(reason)?).arg(reason).arg(line(note)?);
        Ok(WriteResult::of(self.connection.invoke(&call).await?))
    }

    async fn progress(
        &self,
        lease: &Lease,
        percent: u8,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = scripts::PROGRESS.prepare_invoke();
        call.key(&self.inflight);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix)
            .arg(&self.keys.history_prefix);
        call.arg(percent).arg(line(note)?);
        Ok(WriteResult::of(self.connection.invoke(&call).await?))
    }

    fn proof_of(&self, lease: &Lease) -> ClaimProof {
        ClaimProof {
            claim: self.keys.meta(&lease.id),
            token: lease.token.clone(),
            leases: self.keys.leases.clone(),
            worker: self.worker.clone(),
        }
    }

    async fn await_equal(
        &self,
        lease: &Lease,
        delay: Duration,
        reason: &str,
        equal: &EqualJobs,
    ) -> Result<WriteResult, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::AWAIT_EQUAL.prepare_invoke();
        call.key(&self.inflight)
            .key(&keys.active)
            .key(&keys.scheduled)
            .key(&keys.data)
            .key(&keys.fair);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&keys.meta_prefix)
            .arg(millis(delay))
            .arg(reason)
            .arg(&*equal.prefix);
        Ok(WriteResult::of(self.connection.invoke(&call).await?))
    }

    async fn wake_equal(&self, equal: &EqualJobs) -> Result<(), BrokerError> {
        let mut call = scripts::WAKE_EQUAL.prepare_invoke();
        call.key(&self.keys.active).key(&self.keys.scheduled);
        call.arg(&*equal.prefix);
        Ok(self.connection.invoke(&call).await?)
    }
}

impl ApalisBroker {
    async fn delay(
        &self,
        lease: &Lease,
        later: &Postponement<'_>,
        adds_up: bool,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = scripts::RETRY_AT.prepare_invoke();
        call.key(&self.inflight)
            .key(&self.keys.scheduled)
            .key(&self.keys.fair);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix)
            .arg(&self.keys.history_prefix);
        call.arg(millis(later.delay))
            .arg(u8::from(later.counts))
            .arg(later.reason)
            .arg(line(later.note)?)
            .arg(later.gate.unwrap_or_default())
            .arg(u8::from(adds_up));
        Ok(WriteResult::of(self.connection.invoke(&call).await?))
    }

    async fn send_completions(&self, completions: &[Completion]) -> Result<Vec<Value>, RedisError> {
        let keys = &self.keys;
        let mut call = scripts::COMPLETE.prepare_invoke();
        call.key(&self.inflight)
            .key(&keys.done)
            .key(&keys.ended_done)
            .key(&keys.data)
            .key(&keys.fair)
            .key(&keys.active)
            .key(&keys.scheduled);
        call.arg(&keys.meta_prefix)
            .arg(&keys.history_prefix)
            .arg(millis(self.options.keep_completed_for))
            .arg(self.options.keep_completed_count)
            .arg(WORTH_KEEPING);
        for Completion { lease, result, equal } in completions {
            call.arg(&*lease.id)
                .arg(&*lease.token)
                .arg(format!("{{\"Ok\":{result}}}"))
                .arg(told_equal(equal.as_ref()));
        }
        self.connection.invoke(&call).await
    }
}
