//! Batches the jobs that a replica gives back. At the end of the drain time it gives back all jobs in flight at once.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::ErrorKind;

use crate::{
    group_commit::{BatchLimits, Batcher},
    queue::{BrokerError, Lease, LeaseHolder, WorkerQueue, WriteResult},
};

/// One call to Redis at a time. Thousands of concurrent calls would wait for each other until they time out, and the
/// worker would send them again.
const MOST: BatchLimits = BatchLimits {
    calls: 1,
    requests: 64,
    partial: 64,
    bytes: usize::MAX,
};

/// Gives back the jobs of one queue.
#[derive(Debug)]
pub(super) struct ReleaseBatcher(Batcher<Lease, Result<WriteResult, BrokerError>>);

impl ReleaseBatcher {
    pub(super) fn new(broker: Arc<dyn WorkerQueue>) -> Self {
        Self(Batcher::new(
            MOST,
            |_| 0,
            move |leases| {
                let broker = broker.clone();
                async move { write(&*broker, &leases).await }
            },
        ))
    }

    /// Puts a job back as if it had not been claimed.
    pub(super) async fn write(&self, lease: &Lease) -> Result<WriteResult, BrokerError> {
        let died = || BrokerError::Redis((ErrorKind::Client, "the release's call died").into());
        self.0.ask(lease.clone()).await.unwrap_or_else(|| Err(died()))
    }
}

async fn write(broker: &dyn LeaseHolder, leases: &[Lease]) -> Vec<Result<WriteResult, BrokerError>> {
    if leases.len() > 1
        && let Ok(ours) = broker.release(leases).await
        && ours == leases.len()
    {
        return leases.iter().map(|_| Ok(WriteResult::Applied)).collect();
    }
    // One of them is lost, or in the way of the others: each is asked for by itself, those that are back once more.
    join_all(leases.iter().map(async |lease| {
        let ours = broker.release(std::slice::from_ref(lease)).await? > 0;
        Ok(if ours {
            WriteResult::Applied
        } else {
            WriteResult::Lost
        })
    }))
    .await
}
