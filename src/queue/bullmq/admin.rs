//! The operator's actions on jobs in this layout: list, retry, remove.

use super::{BullmqBroker, scripts};
use crate::queue::{
    BrokerError, JobPage, ListQuery, RemovalResult, RetryOrder, RetryResult,
    admin::{RETRIES, read_page},
    list_removal::{NewestEnd, look_for},
};

impl BullmqBroker {
    pub(super) async fn list_jobs(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError> {
        let mut call = self.prepare(&scripts::LIST);
        query.write(&mut call);
        read_page(self.connection.invoke(&call).await?)
    }

    pub(super) async fn retry_jobs(
        &self,
        ids: &[&str],
        order: &RetryOrder<'_>,
    ) -> Result<Vec<RetryResult>, BrokerError> {
        let mut fates = Vec::new();
        for chunk in ids.chunks(RETRIES) {
            let mut call = self.prepare(&scripts::RETRY);
            order.write(&mut call);
            call.arg(chunk);
            fates.extend(self.connection.invoke::<Vec<RetryResult>>(&call).await?);
        }
        Ok(fates)
    }

    pub(super) async fn remove_job(&self, id: &str) -> Result<RemovalResult, BrokerError> {
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
}
