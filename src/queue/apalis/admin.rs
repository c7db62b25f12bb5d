//! The operator's actions on jobs in this layout: retry, remove, pause, resume.

use async_trait::async_trait;

use super::{ApalisBroker, scripts};
use crate::queue::{
    BrokerError, QueueAdmin, RemovalResult, RetryOrder, RetryResult,
    admin::RETRIES,
    list_removal::{NewestEnd, look_for},
};

#[async_trait]
impl QueueAdmin for ApalisBroker {
    async fn retry(&self, ids: &[&str], order: &RetryOrder<'_>) -> Result<Vec<RetryResult>, BrokerError> {
        let keys = &self.keys;
        let mut fates = Vec::new();
        for chunk in ids.chunks(RETRIES) {
            let mut call = scripts::RETRY.prepare_invoke();
            call.key(&keys.active)
                .key(&keys.dead)
                .key(&keys.ended_dead)
                .key(&keys.data);
            order.write(&mut call);
            call.arg(&keys.meta_prefix)
                .arg(&keys.history_prefix)
                .arg(&keys.inflight_prefix)
                .arg(chunk);
            fates.extend(self.connection.invoke::<Vec<RetryResult>>(&call).await?);
        }
        Ok(fates)
    }

    async fn remove(&self, id: &str) -> Result<RemovalResult, BrokerError> {
        let keys = &self.keys;
        let (mut place, mut looks) = (String::new(), 0);
        loop {
            let mut call = scripts::REMOVE.prepare_invoke();
            call.key(&keys.active).key(&keys.scheduled).key(&keys.done);
            call.key(&keys.dead).key(&keys.ended_done).key(&keys.ended_dead);
            call.key(&keys.data).arg(id);
            call.arg(&keys.meta_prefix)
                .arg(&keys.history_prefix)
                .arg(&keys.inflight_prefix)
                .arg(&keys.idempotency_prefix)
                .arg(&place);
            if let Some(removal) = self.connection.invoke(&call).await? {
                return Ok(removal);
            }
            let seen = look_for(&self.connection, &keys.active, NewestEnd::Tail, id, looks).await?;
            (place, looks) = (seen.to_string(), looks + 1);
        }
    }

    async fn set_paused(&self, paused: bool) -> Result<(), BrokerError> {
        let mut pipeline = redis::pipe();
        if paused {
            pipeline.set(&self.keys.paused, 1);
        } else {
            pipeline.del(&self.keys.paused);
        }
        Ok(self.connection.query(pipeline.ignore()).await?)
    }
}
