//! Renews this replica's lease, and returns jobs to the queue: its own, and those of dead replicas.

use std::{collections::HashSet, sync::atomic::Ordering};

use async_trait::async_trait;

use super::{ApalisBroker, scripts};
use crate::queue::{BrokerError, Lease, LeaseHolder, SweepResult, WriteResult, millis};

/// Leases that one script renews at most, because it blocks Redis for all clients.
const RENEWALS: usize = 100;
/// As [`RENEWALS`], for the scripts that move each job with several commands.
const MOVE_CHUNK: usize = 50;

/// Jobs that one script looks at, at most.
const STRETCH: usize = 100;

#[async_trait]
impl LeaseHolder for ApalisBroker {
    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError> {
        let mut lost = Vec::new();
        let mut chunks = held.chunks(RENEWALS);
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let mut call = scripts::RENEW.prepare_invoke();
            call.key(&self.keys.leases)
                .key(&self.keys.workers)
                .key(&self.inflight)
                .key(&self.keys.witness)
                .key(&self.keys.fair);
            call.arg(&self.worker)
                .arg(millis(self.options.lease_ttl))
                .arg(&self.keys.meta_prefix);
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            let (ours, positions, ended): (usize, Vec<usize>, u64) = self.connection.invoke(&call).await?;
            lost.extend(positions.into_iter().filter_map(|i| chunk.get(i).cloned()));
            if chunks.len() == 0 {
                self.has_claims_of_others.store(ended > 0, Ordering::Relaxed);
                if ours > held.len() - lost.len() {
                    self.put_back_strays(held).await?;
                }
                return Ok(lost);
            }
        }
    }

    fn has_claims_of_others(&self) -> bool {
        self.has_claims_of_others.load(Ordering::Relaxed)
    }

    async fn recover(&self) -> Result<SweepResult, BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::RECOVER.prepare_invoke();
        call.key(&keys.leases)
            .key(&keys.workers)
            .key(&keys.active)
            .key(&keys.dead)
            .key(&keys.ended_dead)
            .key(&keys.witness);
        call.arg(&keys.inflight_prefix)
            .arg(&keys.meta_prefix)
            .arg(MOVE_CHUNK)
            .arg(self.options.max_lost);
        call.arg(millis(self.options.lease_ttl))
            .arg(&keys.session_prefix)
            .arg(&keys.history_prefix);
        let (requeued, poisoned, more): (u64, u64, bool) = self.connection.invoke(&call).await?;
        Ok(SweepResult {
            requeued,
            poisoned,
            more,
        })
    }

    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError> {
        let mut released = 0;
        for chunk in leases.chunks(MOVE_CHUNK) {
            let mut call = scripts::RELEASE.prepare_invoke();
            call.key(&self.inflight)
                .key(&self.keys.active)
                .key(&self.keys.data)
                .key(&self.keys.fair)
                .arg(&self.keys.meta_prefix);
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            released += self.connection.invoke::<usize>(&call).await?;
        }
        Ok(released)
    }

    async fn mark_started(&self, lease: &Lease) -> Result<WriteResult, BrokerError> {
        let mut call = scripts::MARK_STARTED.prepare_invoke();
        call.key(&self.inflight)
            .arg(&*lease.id)
            .arg(&*lease.token)
            .arg(&self.keys.meta_prefix);
        Ok(WriteResult::of(self.connection.invoke(&call).await?))
    }

    async fn remove_replica(&self) -> Result<(), BrokerError> {
        let mut call = scripts::REMOVE_REPLICA.prepare_invoke();
        call.key(&self.inflight)
            .key(&self.keys.active)
            .key(&self.keys.leases)
            .key(&self.keys.workers)
            .key(&self.session)
            .key(&self.keys.data)
            .key(&self.keys.fair);
        call.arg(&self.worker).arg(&self.keys.meta_prefix).arg(MOVE_CHUNK);
        while self.connection.invoke::<u64>(&call).await? > 0 {}
        Ok(())
    }
}

impl ApalisBroker {
    /// Puts back what the queue counts as ours and we do not know of.
    pub(super) async fn put_back_strays(&self, held: &[Lease]) -> Result<(), BrokerError> {
        let known: HashSet<&[u8]> = held.iter().map(|lease| lease.id.as_bytes()).collect();
        let (keys, ttl) = (&self.keys, millis(self.options.lease_ttl));
        let (mut requeued, mut poisoned, mut cursor) = (0, 0, 0u64);
        loop {
            let mut call = scripts::OWN_CLAIMS.prepare_invoke();
            call.key(&self.inflight);
            call.arg(cursor).arg(STRETCH).arg(&keys.meta_prefix).arg(ttl);
            let (mine, next): (Vec<Vec<u8>>, u64) = self.connection.invoke(&call).await?;
            let strays: Vec<Vec<u8>> = mine
                .into_iter()
                .filter(|id| !known.contains(id.as_slice()))
                .collect();
            for some in strays.chunks(MOVE_CHUNK) {
                let mut call = scripts::REQUEUE_LOST_CLAIMS.prepare_invoke();
                call.key(&self.inflight)
                    .key(&keys.active)
                    .key(&keys.dead)
                    .key(&keys.ended_dead);
                call.arg(&self.worker)
                    .arg(&keys.meta_prefix)
                    .arg(self.options.max_lost);
                call.arg(ttl).arg(&keys.history_prefix).arg(some);
                let moved: (u64, u64) = self.connection.invoke(&call).await?;
                requeued += moved.0;
                poisoned += moved.1;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        if requeued + poisoned > 0 {
            tracing::warn!(queue = %self.queue, requeued, poisoned, "stray jobs of this replica put back");
        }
        Ok(())
    }
}
