//! Jobs that have ended well, written together.

use redis::{RedisError, Value};

use super::{ApalisBroker, WORTH_KEEPING, millis, scripts};
use crate::queue::{BrokerError, Completion, WriteResult, batch_replies, told_equal};

impl ApalisBroker {
    pub(super) async fn complete_jobs(
        &self,
        completions: &[Completion],
    ) -> Vec<Result<WriteResult, BrokerError>> {
        let error = match self.send_completions(completions).await {
            Ok(answers) if answers.len() == completions.len() => {
                return answers.into_iter().map(batch_replies::settled).collect();
            }
            Ok(_) => batch_replies::too_few(),
            Err(error) => error,
        };
        batch_replies::failed(&error, completions.len()).collect()
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
