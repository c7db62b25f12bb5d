//! The operator's actions on jobs in this layout: retry, remove, pause, resume.

use async_trait::async_trait;

use super::{BullmqBroker, scripts};
use crate::queue::{
    BrokerError, QueueAdmin, RemovalResult, RetryOrder, RetryResult,
    admin::RETRIES,
    list_removal::{NewestEnd, look_for},
};

/// Ids that a resume or a pause moves with one script, where it has to.
const LINE_CHUNK: usize = 1000;

#[async_trait]
impl QueueAdmin for BullmqBroker {
    async fn retry(&self, ids: &[&str], order: &RetryOrder<'_>) -> Result<Vec<RetryResult>, BrokerError> {
        let mut fates = Vec::new();
        for chunk in ids.chunks(RETRIES) {
            let mut call = self.prepare(&scripts::RETRY);
            order.write(&mut call);
            call.arg(chunk);
            fates.extend(self.connection.invoke::<Vec<RetryResult>>(&call).await?);
        }
        Ok(fates)
    }

    async fn remove(&self, id: &str) -> Result<RemovalResult, BrokerError> {
        let [wait, paused, _] = &self.keys.waiting;
        let (mut places, mut looks) = ([String::new(), String::new()], 0);
        loop {
            let mut call = self.prepare(&scripts::REMOVE);
            call.arg(id).arg(&places);
            if let Some(removal) = self.connection.invoke(&call).await? {
                return Ok(removal);
            }
            for (place, list) in places.iter_mut().zip([wait, paused]) {
                let seen = look_for(&self.connection, list, NewestEnd::Head, id, looks).await?;
                *place = seen.to_string();
            }
            looks += 1;
        }
    }

    async fn set_paused(&self, paused: bool) -> Result<(), BrokerError> {
        let mut call = self.prepare(&scripts::PAUSE);
        call.arg(if paused { "paused" } else { "resumed" })
            .arg(LINE_CHUNK);
        while !self.connection.invoke::<bool>(&call).await? {}
        Ok(())
    }
}
