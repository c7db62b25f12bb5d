//! The operator's actions on jobs in this layout: list, retry, remove.

use serde::Deserialize;

use super::{ApalisBroker, scripts};
use crate::queue::{
    BrokerError, INLINE_BYTES, JobPage, ListQuery, ListedJob, RemovalResult, RetryOrder, RetryResult,
    admin::{RETRIES, read_page},
    list_removal::{NewestEnd, look_for},
};

/// Bytes of payloads after which a list reads no further job.
const LIST_BYTES: usize = 1024 * 1024;

/// The fields of a payload that a list reads.
#[derive(Deserialize)]
struct TypeAndSource {
    #[serde(rename = "type")]
    kind: String,
}

impl ApalisBroker {
    pub(super) async fn list_jobs(&self, query: &ListQuery<'_>) -> Result<JobPage, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::LIST.prepare_invoke();
        call.key(&keys.active).key(&keys.scheduled).key(&keys.done);
        call.key(&keys.dead).key(&keys.ended_done).key(&keys.ended_dead);
        call.key(&keys.data).key(&keys.leases).key(&keys.workers);
        query.write(&mut call);
        call.arg(&keys.meta_prefix)
            .arg(&keys.history_prefix)
            .arg(&keys.inflight_prefix)
            .arg(LIST_BYTES)
            .arg(INLINE_BYTES);
        let mut page = read_page(self.connection.invoke(&call).await?)?;
        self.read_large(&mut page).await?;
        if let Some(kind) = query.kind {
            page.jobs.retain(|job| job.kind.as_deref() == Some(kind));
        }
        Ok(page)
    }

    /// Tells the type of those jobs whose payloads are too large for a script.
    async fn read_large(&self, page: &mut JobPage) -> Result<(), BrokerError> {
        let unknown: Vec<&mut ListedJob> = page.jobs.iter_mut().filter(|job| job.kind.is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for job in &unknown {
            pipeline.cmd("HSTRLEN").arg(&self.keys.data).arg(&job.id);
        }
        let sizes: Vec<usize> = self.connection.query(&pipeline).await?;
        for (job, size) in unknown.into_iter().zip(sizes) {
            if size > INLINE_BYTES {
                job.kind = self.read_kind(&job.id).await?;
            }
        }
        Ok(())
    }

    /// Reads a job's type from its payload.
    pub(super) async fn read_kind(&self, id: &str) -> Result<Option<String>, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.hget(&self.keys.data, id);
        let (payload,): (Option<Vec<u8>>,) = self.connection.query(&pipeline).await?;
        Ok(payload.and_then(|payload| Some(serde_json::from_slice::<TypeAndSource>(&payload).ok()?.kind)))
    }

    pub(super) async fn retry_jobs(
        &self,
        ids: &[&str],
        order: &RetryOrder<'_>,
    ) -> Result<Vec<RetryResult>, BrokerError> {
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

    pub(super) async fn remove_job(&self, id: &str) -> Result<RemovalResult, BrokerError> {
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
}
