//! Following jobs by the queue's event stream, the one that `QueueEvents` reads.
//!
//! One blocking read at a time for all watchers of the queue, on a socket of its own. The stream says when to look at
//! a job; only what a look could miss is taken from it: the start of a delivery, each step of the progress, and the
//! outcome of a job that is not kept.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};

use super::{BullmqBroker, inspect::percent};
use crate::queue::{
    BrokerError, JobEventSource, JobWatchers, millis,
    watch::{JobUpdate, UnkeptOutcome},
};

/// Longest read.
const LONGEST: Duration = Duration::from_secs(5);
/// How much later than asked an answer may come: as late as that of any other call.
const PATIENCE: Duration = Duration::from_secs(2);
/// Entries a read. An event contains the job's result, which can be megabytes large.
const ENTRIES: usize = 16;

/// Fields of an event. Any Redis client can write to the stream, so they are untrusted bytes.
pub(super) type EventFields = HashMap<Vec<u8>, Vec<u8>>;
/// The stream, and its entries.
type StreamReply = Vec<(String, Vec<(String, EventFields)>)>;

#[async_trait]
impl JobEventSource for BullmqBroker {
    fn watchers(&self) -> &JobWatchers {
        &self.watchers
    }

    /// Reads on from `position`, or from now where there is none.
    async fn follow(&self, position: &mut Option<String>) -> Result<Infallible, BrokerError> {
        let mut socket = self.connection.blocking().await?;
        if position.is_none() {
            let (seconds, micros): (u64, u64) =
                answer(Duration::ZERO, redis::cmd("TIME").query_async(&mut socket)).await?;
            // The ids of entries are times: those of this very millisecond are still to come.
            *position = Some(format!(
                "{}-0",
                (seconds * 1000 + micros / 1000).saturating_sub(1)
            ));
        }
        // Catches up on changes from before the first position, or from while the stream was unreadable. If a job is
        // gone already, an event that is still to be read says how it ended.
        self.watchers.look_at(self, &self.watchers.ids(), None).await?;
        loop {
            let from = position.clone().unwrap_or_default();
            for (id, fields) in self.read(&mut socket, &from).await? {
                self.handle_event(fields).await?;
                *position = Some(id);
            }
        }
    }
}

impl BullmqBroker {
    async fn read(
        &self,
        socket: &mut MultiplexedConnection,
        from: &str,
    ) -> Result<Vec<(String, EventFields)>, BrokerError> {
        let mut call = redis::cmd("XREAD");
        call.arg("COUNT").arg(ENTRIES).arg("BLOCK").arg(millis(LONGEST));
        call.arg("STREAMS").arg(&self.keys.events).arg(from);
        let streams: Option<StreamReply> = answer(LONGEST, call.query_async(socket)).await?;
        Ok(streams
            .unwrap_or_default()
            .into_iter()
            .flat_map(|(_, entries)| entries)
            .collect())
    }

    async fn handle_event(&self, fields: EventFields) -> Result<(), BrokerError> {
        let Some(news) = news(&fields, |id| self.watchers.of(id)) else {
            return Ok(());
        };
        if let Some(update) = &news.at_once {
            self.watchers.tell(&news.id, update);
        }
        self.watchers.look(self, &news.id, news.if_gone.as_ref()).await
    }
}

/// The content of an event about a job.
pub(super) struct QueueEvent {
    id: String,
    /// An update that a read of the job would not show.
    pub(super) at_once: Option<JobUpdate>,
    /// The end of the job, for the case that a read no longer finds it.
    pub(super) if_gone: Option<JobUpdate>,
}

/// Reads an event from the stream, which any Redis client can write to; `None` for a job without watchers.
pub(super) fn news(fields: &EventFields, is_watched: impl FnOnce(&str) -> bool) -> Option<QueueEvent> {
    let field = |name: &str| fields.get(name.as_bytes());
    let text = |name: &str| field(name).map(|bytes| String::from_utf8_lossy(bytes));
    let id = text("jobId").filter(|id| is_watched(id))?.into_owned();
    let (mut at_once, mut if_gone) = (None, None);
    match text("event").as_deref() {
        Some("active") => at_once = Some(JobUpdate::Active),
        Some("progress") => {
            at_once = Some(JobUpdate::Progress(field("data").map_or(0, |json| percent(json))))
        }
        Some("completed") => {
            let result = field("returnvalue").and_then(|json| serde_json::from_slice(json).ok());
            let result = Arc::new(result.unwrap_or_default());
            if_gone = Some(JobUpdate::Gone(Some(UnkeptOutcome::Completed(result))));
        }
        Some("failed") => {
            let reason = text("failedReason").unwrap_or_default();
            if_gone = Some(JobUpdate::Gone(Some(UnkeptOutcome::Failed(
                reason.as_ref().into(),
            ))));
        }
        Some("removed") => if_gone = Some(JobUpdate::Gone(None)),
        _ => {}
    }
    Some(QueueEvent { id, at_once, if_gone })
}

/// A call on the socket; what it waits for on purpose is `nap`.
async fn answer<T>(
    nap: Duration,
    call: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    tokio::time::timeout(nap + PATIENCE, call)
        .await
        .map_err(|_elapsed| RedisError::from((ErrorKind::Io, "no answer to a blocking read")))?
}
