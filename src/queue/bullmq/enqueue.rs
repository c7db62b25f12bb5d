//! Adds jobs in this layout.

use async_trait::async_trait;

use super::{BullmqBroker, LONGEST_DELAY, scripts};
use crate::{
    keys::BullKeys,
    queue::{BrokerError, INLINE_BYTES, JobProducer, NewJob, millis},
};

/// How long a large payload lies ready for the job that it is to become.
const APART_MS: i64 = 60_000;

#[async_trait]
impl JobProducer for BullmqBroker {
    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError> {
        if !BullKeys::is_job_id(job.id) {
            return Err(BrokerError::Id(job.id.to_owned()));
        }
        let options = serde_json::json!({
            "attempts": job.max_attempts,
            "backoff": {"type": "exponential", "delay": 2000, "jitter": 0.25},
            "delay": millis(job.delay.min(LONGEST_DELAY)),
        });
        let (mut payload, apart) = (job.payload.get(), self.keys.apart(job.id));
        if payload.len() > INLINE_BYTES {
            let mut pipeline = redis::pipe();
            pipeline.hset(&apart, "data", payload).ignore();
            pipeline.pexpire(&apart, APART_MS).ignore();
            self.connection.for_large()?.query::<()>(&pipeline).await?;
            payload = "";
        }
        let mut call = self.prepare(&scripts::ENQUEUE);
        call.arg(job.id).arg(job.kind.as_str()).arg(payload);
        call.arg(options.to_string()).arg(apart);
        Ok(self.connection.invoke(&call).await?)
    }
}
