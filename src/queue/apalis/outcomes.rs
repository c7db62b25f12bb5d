//! Writes outcomes. Completions travel together.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{RedisError, Value, from_redis_value};

use super::{ApalisBroker, err_result, scripts};
use crate::queue::{
    BrokerError, ClaimNumber, ClaimProof, Completion, CompletionResults, EqualJobs, HistoryNote, Lease,
    OutcomeWriter, Postponement, WriteResult, batch_replies,
    large_results::{self, LargeCompletion, keep_for_equals},
    line, millis, told_equal,
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
        let (small, large): (Vec<&Completion>, Vec<&Completion>) = completions
            .iter()
            .partition(|completion| !large_results::is_large(completion));
        let of_small = self.complete_small(&small).await;
        let mut of_large = Vec::with_capacity(large.len());
        for some in large.chunks(large_results::AT_ONCE) {
            let writes = some.iter().map(|completion| self.complete_large(completion));
            of_large.extend(join_all(writes).await);
        }
        CompletionResults {
            settled: large_results::in_order(completions, of_small, of_large),
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

    async fn complete_small(&self, completions: &[&Completion]) -> Vec<Result<WriteResult, BrokerError>> {
        if completions.is_empty() {
            return Vec::new();
        }
        let error = match self.send_completions(completions).await {
            Ok(answers) if answers.len() == completions.len() => {
                return answers.into_iter().map(batch_replies::settled).collect();
            }
            Ok(_) => batch_replies::too_few(),
            Err(error) => error,
        };
        batch_replies::failed(&error, completions.len()).collect()
    }

    async fn send_completions(&self, completions: &[&Completion]) -> Result<Vec<Value>, RedisError> {
        let mut call = scripts::COMPLETE.prepare_invoke();
        for key in self.completion_keys() {
            call.key(key);
        }
        call.arg(&self.completion_args()[..]);
        for Completion { lease, result, equal } in completions {
            call.arg(&*lease.id)
                .arg(&*lease.token)
                .arg(format!("{{\"Ok\":{result}}}"))
                .arg(told_equal(equal.as_ref()));
        }
        self.connection.invoke(&call).await
    }

    fn completion_keys(&self) -> [&str; 7] {
        let keys = &self.keys;
        [
            &self.inflight,
            &keys.done,
            &keys.ended_done,
            &keys.data,
            &keys.fair,
            &keys.active,
            &keys.scheduled,
        ]
    }

    fn completion_args(&self) -> [String; 5] {
        [
            self.keys.meta_prefix.clone(),
            self.keys.history_prefix.clone(),
            millis(self.options.keep_completed_for).to_string(),
            self.options.keep_completed_count.to_string(),
            WORTH_KEEPING.to_string(),
        ]
    }

    async fn complete_large(&self, completion: &Completion) -> Result<WriteResult, BrokerError> {
        let Completion { lease, result, equal } = completion;
        let job = self.keys.meta(&lease.id);
        let namespace = self.connection.namespace();
        let (look, complete) = (
            scripts::LARGE_RESULT.within(namespace),
            scripts::COMPLETE.within(namespace),
        );
        let mut look = look.evaluated.prepare_invoke();
        look.key(namespace.guarded([&*self.inflight]))
            .arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix);
        let mut place = redis::pipe();
        let placed = format!("{{\"Ok\":{result}}}");
        place
            .atomic()
            .hset_multiple(&job, &[("result", &*placed), ("placed", &*lease.token)])
            .ignore();
        let large = LargeCompletion {
            job,
            look,
            place,
            script: &complete.evaluated,
            finish: &|state| {
                let mut finish = redis::pipe();
                finish.atomic();
                keep_for_equals(&mut finish, completion, state);
                let keys = namespace.guarded(self.completion_keys());
                finish
                    .cmd("EVALSHA")
                    .arg(complete.evaluated.get_hash())
                    .arg(keys.len())
                    .arg(&keys[..])
                    .arg(&self.completion_args()[..])
                    .arg(&[&*lease.id, &*lease.token, "", &told_equal(equal.as_ref())]);
                finish
            },
            settled: |answers| {
                let answers: Result<Vec<Value>, _> = from_redis_value(answers);
                let answer = answers.map_err(RedisError::from)?.into_iter().next();
                answer.map_or_else(|| Err(batch_replies::too_few().into()), batch_replies::settled)
            },
        };
        match large.write(&self.connection).await {
            Err(error) if large_results::lacks_transactions(&error) => {
                tracing::warn!(%error, "a large result passes a script, which holds up Redis for some milliseconds: grant \
                    the ACL user what docs/operations.md lists");
                let settled = self.complete_small(&[completion]).await.pop();
                settled.unwrap_or_else(|| Err(batch_replies::too_few().into()))
            }
            written => written,
        }
    }
}
