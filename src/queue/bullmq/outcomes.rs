//! Writes outcomes. Completions travel together, with the claim that refills their slots, because this call is most of
//! a job's cost in Redis.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{FromRedisValue, ParsingError, Pipeline, RedisError, Value, from_redis_value};

use super::{BullmqBroker, LONGEST_DELAY, claim::ClaimReply, scripts};
use crate::queue::{
    BrokerError, ClaimNumber, ClaimProof, Completion, CompletionResults, Delivery, EqualJobs, HistoryNote,
    Lease, OutcomeWriter, Postponement, WriteResult, batch_replies,
    large_results::{self, LargeCompletion, LargeResultState, keep_for_equals},
    line, millis, told_equal,
};

/// The result of the claim in a call of completions.
enum RefillClaim {
    /// None was to be made, or no slot was freed.
    Nothing,
    Claimed(ClaimReply),
    /// Redis raised an error in the claim, or its answer cannot be read. The completions in the same call are written.
    Failed(RedisError),
}

impl FromRedisValue for RefillClaim {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        Ok(match value {
            Value::Nil => Self::Nothing,
            Value::BulkString(text) => Self::Failed(batch_replies::raised(&String::from_utf8_lossy(&text))),
            claimed => from_redis_value(claimed).map_or_else(|e| Self::Failed(e.into()), Self::Claimed),
        })
    }
}

#[async_trait]
impl OutcomeWriter for BullmqBroker {
    async fn complete_all(&self, completions: &[Completion], next: Option<ClaimNumber>) -> CompletionResults {
        if !completions.iter().any(large_results::is_large) {
            return self.complete_small(completions, next).await;
        }
        let (large, small): (Vec<&Completion>, Vec<&Completion>) = completions
            .iter()
            .partition(|completion| large_results::is_large(completion));
        let small: Vec<Completion> = small.into_iter().cloned().collect();
        let CompletionResults { settled, claimed } = self.complete_small(&small, next).await;
        let mut of_large = Vec::with_capacity(large.len());
        for some in large.chunks(large_results::AT_ONCE) {
            let writes = some.iter().map(|completion| self.complete_large(completion));
            of_large.extend(join_all(writes).await);
        }
        CompletionResults {
            settled: large_results::in_order(completions, settled, of_large),
            claimed,
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
        let mut call = self.prepare(&scripts::FAIL);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(reason)
            .arg(line(note)?);
        self.settle(&call).await
    }

    async fn progress(
        &self,
        lease: &Lease,
        percent: u8,
        note: Option<&HistoryNote>,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::PROGRESS);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(percent)
            .arg(line(note)?);
        self.settle(&call).await
    }

    fn proof_of(&self, lease: &Lease) -> ClaimProof {
        ClaimProof {
            claim: format!("{}{}:lock", self.keys.prefix, lease.id),
            token: lease.token.clone(),
            leases: String::new(),
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
        let mut call = self.prepare(&scripts::AWAIT_EQUAL);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(millis(delay))
            .arg(reason)
            .arg(&*equal.prefix);
        self.settle(&call).await
    }

    async fn wake_equal(&self, equal: &EqualJobs) -> Result<(), BrokerError> {
        let mut call = self.prepare(&scripts::WAKE_EQUAL);
        call.arg(&*equal.prefix);
        Ok(self.connection.invoke(&call).await?)
    }
}

impl BullmqBroker {
    async fn complete_small(
        &self,
        completions: &[Completion],
        next: Option<ClaimNumber>,
    ) -> CompletionResults {
        // A replica that does not renew could not hold what it claims.
        let mut next = next.filter(|_| self.renewal().holds());
        let mut all = CompletionResults {
            settled: Vec::with_capacity(completions.len()),
            claimed: None,
        };
        while all.settled.len() < completions.len() {
            let left = &completions[all.settled.len()..];
            let number = next.take();
            let answer = self.complete_some(left, number).await;
            let answer = answer.and_then(|(settled, beside)| match settled.len() {
                count if (1..=left.len()).contains(&count) => Ok((settled, beside)),
                _ => Err(batch_replies::too_few()),
            });
            match answer {
                Ok((settled, beside)) => {
                    all.settled
                        .extend(settled.into_iter().map(batch_replies::settled));
                    if let Some(number) = number {
                        all.claimed = self.claimed_beside(beside, number).await;
                    }
                }
                Err(error) => {
                    all.settled.extend(batch_replies::failed(&error, left.len()));
                    all.claimed = all.claimed.or(number.map(|_| Err(error.into())));
                }
            }
        }
        all
    }

    async fn complete_large(&self, completion: &Completion) -> Result<WriteResult, BrokerError> {
        let job = format!("{}{}", self.keys.prefix, completion.lease.id);
        let namespace = self.connection.namespace();
        let (look, complete) = (
            scripts::LARGE_RESULT.within(namespace),
            scripts::COMPLETE.within(namespace),
        );
        let mut look = look.evaluated.prepare_invoke();
        look.key(namespace.guarded([&*self.keys.prefix]));
        look.arg(&*completion.lease.id).arg(&*completion.lease.token);
        let mut place = redis::pipe();
        place
            .atomic()
            .hset_multiple(
                &job,
                &[
                    ("returnvalue", &*completion.result),
                    ("bw:placed", &*completion.lease.token),
                ],
            )
            .ignore();
        let large = LargeCompletion {
            job: job.clone(),
            look,
            place,
            script: &complete.evaluated,
            finish: &|state| self.finish_large(completion, &job, state, complete.evaluated.get_hash()),
            settled: |answer| {
                let answers: Result<(Vec<Value>, Value), _> = from_redis_value(answer);
                let answers = answers.map_err(RedisError::from)?;
                let answer = answers.0.into_iter().next();
                answer.map_or_else(|| Err(batch_replies::too_few().into()), batch_replies::settled)
            },
        };
        match large.write(&self.connection).await {
            Err(error) if large_results::lacks_transactions(&error) => {
                tracing::warn!(%error, "a large result passes a script, which holds up Redis for some milliseconds: grant \
                    the ACL user what docs/operations.md lists");
                let mut results = self.complete_small(std::slice::from_ref(completion), None).await;
                let settled = results.settled.pop();
                settled.unwrap_or_else(|| Err(batch_replies::too_few().into()))
            }
            written => written,
        }
    }

    /// The completion of a job whose result is in its place, with the other copies of the result.
    fn finish_large(
        &self,
        completion: &Completion,
        job: &str,
        state: &LargeResultState,
        script: &str,
    ) -> Pipeline {
        let keys = self.connection.namespace().guarded([&*self.keys.prefix]);
        let Completion { lease, result, equal } = completion;
        let mut finish = redis::pipe();
        finish.atomic();
        keep_for_equals(&mut finish, completion, state);
        if !state.parent.is_empty() {
            finish.hset(&state.parent, job, result).ignore();
        }
        let mut event = |fields: &[&str]| {
            finish
                .cmd("XADD")
                .arg(&self.keys.events)
                .arg(&["MAXLEN", "~", &state.events, "*"])
                .arg(fields)
                .ignore();
        };
        event(&["event", "progress", "jobId", &lease.id, "data", "100"]);
        event(&[
            "event",
            "completed",
            "jobId",
            &lease.id,
            "returnvalue",
            result,
            "prev",
            "active",
        ]);
        finish
            .cmd("EVALSHA")
            .arg(script)
            .arg(keys.len())
            .arg(&keys[..])
            .arg(&self.claim_args(None, 0, false)[..])
            .arg(millis(self.options.keep_completed_for))
            .arg(self.options.keep_completed_count)
            .arg(&*lease.id)
            .arg(&*lease.token)
            .arg("")
            .arg(told_equal(equal.as_ref()));
        finish
    }

    async fn delay(
        &self,
        lease: &Lease,
        later: &Postponement<'_>,
        adds_up: bool,
    ) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::RETRY_AT);
        call.arg(&*lease.id)
            .arg(&*lease.token)
            .arg(millis(later.delay.min(LONGEST_DELAY)));
        call.arg(u8::from(later.counts))
            .arg(later.reason)
            .arg(line(later.note)?)
            .arg(later.gate.unwrap_or_default())
            .arg(u8::from(adds_up));
        self.settle(&call).await
    }

    /// Ends some of the jobs, in one call. While many jobs are in flight, a script ends the first ones only.
    async fn complete_some(
        &self,
        completions: &[Completion],
        next: Option<ClaimNumber>,
    ) -> Result<(Vec<Value>, RefillClaim), RedisError> {
        let mut call = self.prepare(&scripts::COMPLETE);
        let count = next.map_or(0, |_| completions.len());
        call.arg(&self.claim_args(next, count, false)[..]);
        call.arg(millis(self.options.keep_completed_for))
            .arg(self.options.keep_completed_count);
        for Completion { lease, result, equal } in completions {
            call.arg(&*lease.id)
                .arg(&*lease.token)
                .arg(result)
                .arg(told_equal(equal.as_ref()));
        }
        self.connection.invoke(&call).await
    }

    async fn claimed_beside(
        &self,
        beside: RefillClaim,
        number: ClaimNumber,
    ) -> Option<Result<Vec<Delivery>, BrokerError>> {
        match beside {
            RefillClaim::Nothing => None,
            // The claim loop gives the jobs their places.
            RefillClaim::Claimed(claimed) if claimed.3 > 0 => None,
            RefillClaim::Claimed(claimed) => Some(self.deliveries(claimed, number).await),
            RefillClaim::Failed(error) => Some(Err(error.into())),
        }
    }
}
