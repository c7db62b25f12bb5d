//! Adds jobs in this layout.

use async_trait::async_trait;

use super::{ApalisBroker, TaskEnvelope, scripts};
use crate::queue::{BrokerError, INLINE_BYTES, JobProducer, NewJob, millis};

#[async_trait]
impl JobProducer for ApalisBroker {
    async fn enqueue(&self, job: &NewJob<'_>) -> Result<bool, BrokerError> {
        let envelope = TaskEnvelope {
            kind: job.kind.as_str().to_owned(),
            data: job.payload,
        };
        let mut payload = serde_json::to_vec(&envelope)?;
        if payload.len() > INLINE_BYTES {
            let mut pipeline = redis::pipe();
            pipeline.hset_nx(&self.keys.data, job.id, std::mem::take(&mut payload));
            self.connection
                .for_large()?
                .query::<()>(pipeline.ignore())
                .await?;
        }
        let mut call = scripts::ENQUEUE.prepare_invoke();
        call.key(&self.keys.data)
            .key(&self.keys.active)
            .key(&self.keys.scheduled);
        call.arg(job.id).arg(payload).arg(&self.keys.meta_prefix);
        call.arg(job.max_attempts)
            .arg(millis(job.delay))
            .arg(job.kind.as_str());
        Ok(self.connection.invoke(&call).await?)
    }
}
