//! Following jobs in a layout without events: the watched ones are looked at now and then, so many at a time that a
//! queue with many watchers costs no more than one with a few.

use std::{convert::Infallible, time::Duration};

use async_trait::async_trait;

use super::ApalisBroker;
use crate::queue::{BrokerError, JobEventSource, JobWatchers, watch::JobUpdate};

/// How often.
const EVERY: Duration = Duration::from_millis(250);
/// How many each time. With more watched jobs than that, each has its turn less often.
const AT_A_TIME: usize = 64;

#[async_trait]
impl JobEventSource for ApalisBroker {
    fn watchers(&self) -> &JobWatchers {
        &self.watchers
    }

    /// `position` is the job that was looked at last.
    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError> {
        loop {
            let mut ids = self.watchers.ids();
            ids.sort_unstable();
            let next = ids.partition_point(|id| position.as_deref().is_some_and(|last| **id <= *last));
            ids.rotate_left(next);
            ids.truncate(AT_A_TIME);
            self.watchers
                .look_at(self, &ids, Some(&JobUpdate::Gone(None)))
                .await?;
            *position = ids.last().map(|id| id.to_string());
            tokio::time::sleep(EVERY).await;
        }
    }
}
