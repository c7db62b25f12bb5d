//! Returns the jobs of dead replicas to the queue. The list of claimed jobs covers the whole fleet and can be long, so
//! each script call checks one stretch of it.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::{BullmqBroker, scripts};
use crate::queue::{BrokerError, Lease, SweepResult, millis};

/// Claimed jobs that one script looks at.
const STRETCH: usize = 250;
/// As [`STRETCH`], for scripts that may move each of them, with many commands.
const MOVE_STRETCH: usize = 32;

impl BullmqBroker {
    /// One step of the sweep for jobs without a lock.
    pub(super) async fn sweep(&self) -> Result<SweepResult, BrokerError> {
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

    /// Puts back what the queue counts as ours and we do not know of.
    pub(super) async fn put_back_strays(&self, held: &[Lease]) -> Result<(), BrokerError> {
        let known: HashSet<&[u8]> = held.iter().map(|lease| lease.id.as_bytes()).collect();
        let (mut requeued, mut poisoned, mut offset) = (0, 0, 0);
        loop {
            let mut call = self.prepare(&scripts::MINE);
            call.arg(&self.worker).arg(offset).arg(STRETCH);
            call.arg(millis(self.options.lease_ttl));
            let (mine, looked_at): (Vec<Vec<u8>>, usize) = self.connection.invoke(&call).await?;
            let strays: Vec<Vec<u8>> = mine
                .into_iter()
                .filter(|id| !known.contains(id.as_slice()))
                .collect();
            let mut left = strays.as_slice();
            while !left.is_empty() {
                let mut call = self.prepare(&scripts::STRAYS);
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

    /// Puts back everything that this replica holds, and forgets it.
    pub(super) async fn put_back_all(&self) -> Result<(), BrokerError> {
        let mut next = 0;
        while next >= 0 {
            let mut call = self.prepare(&scripts::LEAVE);
            call.arg(&self.worker).arg(next).arg(MOVE_STRETCH);
            next = self.connection.invoke::<i64>(&call).await?;
        }
        Ok(())
    }
}
