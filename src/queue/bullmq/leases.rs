//! Renews the locks of this replica's jobs, and returns jobs to the queue: its own, and those of dead replicas.
//!
//! The list of claimed jobs covers the whole fleet and can be long, so each script call checks one stretch of it.

use std::{collections::HashSet, sync::atomic::Ordering, time::Instant};

use async_trait::async_trait;

use super::{BullmqBroker, local_lease::LocalLease, scripts};
use crate::queue::{BrokerError, Lease, LeaseHolder, SweepResult, WriteResult, millis};

/// Locks that one script renews at most. A script blocks Redis for all clients, so each chunk is sized to take at most
/// 5 ms (`cargo bench --bench depth` measures it).
const RENEWALS: usize = 100;
/// Jobs that one script gives back at most.
const MOVE_CHUNK: usize = 32;

/// Claimed jobs that one script looks at.
const STRETCH: usize = 250;
/// As [`STRETCH`], for scripts that may move each of them, with many commands.
const MOVE_STRETCH: usize = 32;

#[async_trait]
impl LeaseHolder for BullmqBroker {
    async fn renew(&self, held: &[Lease]) -> Result<Vec<Lease>, BrokerError> {
        let sent = Instant::now();
        let mut lost = Vec::new();
        let mut chunks = held.chunks(RENEWALS);
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let mut call = self.prepare(&scripts::RENEW);
            call.arg(millis(self.options.lease_ttl));
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            let (claimed, positions, version, schedulers): (usize, Vec<usize>, Vec<u8>, u64) =
                self.connection.invoke(&call).await?;
            lost.extend(positions.into_iter().filter_map(|i| chunk.get(i).cloned()));
            if chunks.len() == 0 {
                self.neighbours
                    .record(&self.queue, &String::from_utf8_lossy(&version), schedulers);
                self.renewal().renew(sent, self.options.lease_ttl);
                self.waiter.appear().await;
                let has_others = claimed > held.len() - lost.len();
                self.has_claims_of_others.store(has_others, Ordering::Relaxed);
                if has_others {
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
        let mut call = self.prepare(&scripts::RECOVER);
        call.arg(self.swept.load(Ordering::Relaxed))
            .arg(STRETCH)
            .arg(MOVE_STRETCH)
            .arg(self.options.max_lost)
            .arg(millis(self.options.lease_ttl));
        let (requeued, poisoned, next): (u64, u64, i64) = self.connection.invoke(&call).await?;
        let next = usize::try_from(next).ok();
        self.swept.store(next.unwrap_or_default(), Ordering::Relaxed);
        Ok(SweepResult {
            requeued,
            poisoned,
            more: next.is_some(),
        })
    }

    async fn release(&self, leases: &[Lease]) -> Result<usize, BrokerError> {
        let mut released = 0;
        // Releases the last claim first, so that the job of the first claim ends up next in line.
        let mut left = leases;
        while !left.is_empty() {
            let (rest, chunk) = left.split_at(left.len().saturating_sub(MOVE_CHUNK));
            let mut call = self.prepare(&scripts::RELEASE);
            for lease in chunk {
                call.arg(&*lease.id).arg(&*lease.token);
            }
            let (ours, undone): (usize, usize) = self.connection.invoke(&call).await?;
            released += ours;
            // Each call does one at least.
            left = &left[..rest.len() + undone.min(chunk.len() - 1)];
        }
        Ok(released)
    }

    async fn mark_started(&self, lease: &Lease) -> Result<WriteResult, BrokerError> {
        let mut call = self.prepare(&scripts::MARK_STARTED);
        call.arg(&*lease.id).arg(&*lease.token);
        self.settle(&call).await
    }

    async fn remove_replica(&self) -> Result<(), BrokerError> {
        *self.renewal() = LocalLease::default();
        let mut next = 0;
        while next >= 0 {
            let mut call = self.prepare(&scripts::REMOVE_REPLICA);
            call.arg(&self.worker).arg(next).arg(MOVE_STRETCH);
            next = self.connection.invoke::<i64>(&call).await?;
        }
        Ok(())
    }
}

impl BullmqBroker {
    /// Puts back what the queue counts as ours and we do not know of.
    pub(super) async fn put_back_strays(&self, held: &[Lease]) -> Result<(), BrokerError> {
        let known: HashSet<&[u8]> = held.iter().map(|lease| lease.id.as_bytes()).collect();
        let (mut requeued, mut poisoned, mut offset) = (0, 0, 0);
        loop {
            let mut call = self.prepare(&scripts::OWN_CLAIMS);
            call.arg(&self.worker).arg(offset).arg(STRETCH);
            call.arg(millis(self.options.lease_ttl));
            let (mine, looked_at): (Vec<Vec<u8>>, usize) = self.connection.invoke(&call).await?;
            let strays: Vec<Vec<u8>> = mine
                .into_iter()
                .filter(|id| !known.contains(id.as_slice()))
                .collect();
            let mut left = strays.as_slice();
            while !left.is_empty() {
                let mut call = self.prepare(&scripts::REQUEUE_LOST_CLAIMS);
                call.arg(&self.worker).arg(self.options.max_lost);
                call.arg(millis(self.options.lease_ttl))
                    .arg(&left[..left.len().min(MOVE_STRETCH)]);
                let moved: (u64, u64, usize) = self.connection.invoke(&call).await?;
                requeued += moved.0;
                poisoned += moved.1;
                // Each call does one at least.
                left = &left[moved.2.clamp(1, left.len())..];
            }
            if looked_at < STRETCH {
                break;
            }
            offset += looked_at.saturating_sub(strays.len());
        }
        if requeued + poisoned > 0 {
            tracing::warn!(queue = %self.queue, requeued, poisoned, "stray jobs of this replica put back");
        }
        Ok(())
    }
}
