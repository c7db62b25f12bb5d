//! Jobs that the queue counts as this replica's while the replica does not know of them: they go back.

use std::collections::HashSet;

use super::{ApalisBroker, MOVE_CHUNK, scripts};
use crate::queue::{BrokerError, Lease, millis};

/// Jobs that one script looks at, at most.
const STRETCH: usize = 100;

impl ApalisBroker {
    /// Puts back what the queue counts as ours and we do not know of.
    pub(super) async fn put_back_strays(&self, held: &[Lease]) -> Result<(), BrokerError> {
        let known: HashSet<&[u8]> = held.iter().map(|lease| lease.id.as_bytes()).collect();
        let (keys, ttl) = (&self.keys, millis(self.options.lease_ttl));
        let (mut requeued, mut poisoned, mut cursor) = (0, 0, 0u64);
        loop {
            let mut call = scripts::MINE.prepare_invoke();
            call.key(&self.inflight);
            call.arg(cursor).arg(STRETCH).arg(&keys.meta_prefix).arg(ttl);
            let (mine, next): (Vec<Vec<u8>>, u64) = self.connection.invoke(&call).await?;
            let strays: Vec<Vec<u8>> = mine
                .into_iter()
                .filter(|id| !known.contains(id.as_slice()))
                .collect();
            for some in strays.chunks(MOVE_CHUNK) {
                let mut call = scripts::STRAYS.prepare_invoke();
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
