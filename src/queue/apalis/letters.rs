//! What an operator does to jobs: lists, retries, removes them.

use super::{ApalisBroker, MOST_BYTES, scripts};
use crate::queue::{
    BrokerError, Page, Query, Removal, Retried, RetryOrder,
    letters::{RETRIES, read_page},
};

impl ApalisBroker {
    pub(super) async fn list_jobs(&self, query: &Query<'_>) -> Result<Page, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::LIST.prepare_invoke();
        call.key(&keys.active).key(&keys.scheduled).key(&keys.done);
        call.key(&keys.dead).key(&keys.ended_done).key(&keys.ended_dead);
        call.key(&keys.data).key(&keys.leases).key(&keys.workers);
        query.write(&mut call);
        call.arg(&keys.meta_prefix)
            .arg(&keys.history_prefix)
            .arg(&keys.inflight_prefix)
            .arg(MOST_BYTES);
        read_page(self.connection.invoke(&call).await?)
    }

    pub(super) async fn retry_jobs(
        &self,
        ids: &[&str],
        order: &RetryOrder<'_>,
    ) -> Result<Vec<Retried>, BrokerError> {
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
            fates.extend(self.connection.invoke::<Vec<Retried>>(&call).await?);
        }
        Ok(fates)
    }

    pub(super) async fn remove_job(&self, id: &str) -> Result<Removal, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::REMOVE.prepare_invoke();
        call.key(&keys.active).key(&keys.scheduled).key(&keys.done);
        call.key(&keys.dead).key(&keys.ended_done).key(&keys.ended_dead);
        call.key(&keys.data).arg(id);
        call.arg(&keys.meta_prefix)
            .arg(&keys.history_prefix)
            .arg(&keys.inflight_prefix)
            .arg(&keys.idempotency_prefix);
        Ok(self.connection.invoke(&call).await?)
    }
}
