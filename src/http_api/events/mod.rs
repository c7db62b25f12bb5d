//! `GET /api/job-events?jobId=`: a job's life as Server-Sent Events.
//!
//! | event | body, beside `jobId` and `timestamp` |
//! |---|---|
//! | `connected` | `queue`, `status`, `progress`, `attemptsMade`, `waitingFor?`: the state of the job |
//! | `active` | |
//! | `progress` | `progress`, in percent, when it rises |
//! | `card` | `index`, from 0, and `card`: a part of the result; a later one with the same index replaces it |
//! | `retrying` | `error`, `class?`, `attempt?`, `try?`, `delayMs?`, `at?`, `waitingFor?`: a try failed, or the job was put off |
//! | `completed` | `result`, `attemptsMade?` |
//! | `failed` | `error`, `attemptsMade?`; a removed job fails too |
//!
//! The cards of a deck come while the model writes it, and the missing ones before `completed`. A job that has completed
//! before the client follows it shows its cards in its result alone.
//!
//! The stream ends with `completed` or `failed`. It also ends when the replica stops, when the client does not keep up,
//! and after an hour; `EventSource` then reconnects by itself and receives the state of the job.

#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/job_timeline.rs"]
pub(crate) mod fuzz;
mod timeline;

use std::{collections::VecDeque, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::timeline::{JobTimeline, TimelineEvent};
use super::{HttpState, queues::not_found, responses::HttpError};
use crate::{
    operator::FoundJob,
    queue::{
        OperatorQueue,
        watch::{JobUpdate, JobWatch, watch},
    },
    time_format::timestamp,
};

/// Streams of a replica at a time: well below the connections that its port takes, so that other callers get through.
const PLACES: usize = 192;
/// Silence after which a comment keeps proxies from closing the connection. The job is looked at then, too, in case
/// its queue did not announce what became of it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A client that reads nothing holds its place no longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// The open streams of a replica.
#[derive(Debug, Clone)]
pub struct EventStreams {
    places: Arc<Semaphore>,
    heartbeat: Duration,
    closing: CancellationToken,
}

impl Default for EventStreams {
    fn default() -> Self {
        Self::new(PLACES, HEARTBEAT)
    }
}

impl EventStreams {
    /// Streams of which so many may be open at a time, and that are never silent for longer than `heartbeat`.
    pub fn new(places: usize, heartbeat: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            heartbeat,
            closing: CancellationToken::new(),
        }
    }

    /// Ends all of them.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

/// Which job to follow.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventsQuery {
    job_id: Option<String>,
    queue: Option<String>,
}

pub(super) async fn get(
    State(ops): State<Arc<HttpState>>,
    Query(EventsQuery { job_id, queue }): Query<EventsQuery>,
) -> Result<Response, HttpError> {
    let id = job_id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| HttpError::Bad("jobId is missing: /api/job-events?jobId=…".to_owned()))?;
    let place = ops.streams.places.clone().try_acquire_owned();
    let place = place.map_err(|_none_left| HttpError::Busy("too many streams are open".to_owned()))?;
    let Some(FoundJob { broker, .. }) = ops.operator.job(&id, queue.as_deref()).await? else {
        return Ok(not_found(&id));
    };
    broker.partial_results().follow(&id).await;
    let watch = watch(broker.clone(), &id);
    // Looked at again: what has happened before the watch began is in this look.
    let Some(view) = broker.find(&id).await? else {
        return Ok(not_found(&id));
    };
    let (story, told) = JobTimeline::begin(broker.queue(), &view);
    let every = ops.streams.heartbeat;
    let mut heartbeat = tokio::time::interval_at(Instant::now() + every, every);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut telling = OpenEventStream {
        id,
        broker,
        watch,
        story,
        told: told.into(),
        heartbeat,
        until: Instant::now() + LONGEST,
        closing: ops.streams.closing.clone(),
        missed: false,
        leaving: false,
        _place: place,
    };
    telling.show_parts().await;
    let events = futures_util::stream::unfold(telling, async |mut telling| {
        let event = telling.next().await?;
        Some((Ok::<_, Infallible>(event), telling))
    });
    // Asks proxies not to buffer the stream.
    Ok(([("x-accel-buffering", "no")], Sse::new(events)).into_response())
}

/// One open stream.
struct OpenEventStream {
    id: String,
    broker: Arc<dyn OperatorQueue>,
    watch: JobWatch,
    story: JobTimeline,
    told: VecDeque<TimelineEvent>,
    heartbeat: Interval,
    until: Instant,
    closing: CancellationToken,
    /// The queue did not know the job at the last heartbeat.
    missed: bool,
    leaving: bool,
    _place: OwnedSemaphorePermit,
}

impl OpenEventStream {
    async fn look(&mut self) {
        let update = match self.broker.find(&self.id).await {
            Ok(Some(view)) => JobUpdate::Stands(Arc::new(view)),
            // Missing a second time: an event about its end would have arrived since the first.
            Ok(None) if self.missed => JobUpdate::Gone(None),
            Ok(None) => {
                self.missed = true;
                return;
            }
            // With Redis away there is nothing to tell.
            Err(_) => return,
        };
        self.hear(&update).await;
    }

    /// Tells what an update adds, and the parts of the result that have come with its progress.
    async fn hear(&mut self, update: &JobUpdate) {
        let told = self.story.hear(update);
        let has_risen = told.iter().any(|(name, _)| *name == "progress");
        self.told.extend(told);
        if has_risen {
            self.show_parts().await;
        }
    }

    async fn show_parts(&mut self) {
        if !self.story.is_active() {
            return;
        }
        let shown = self.broker.partial_results().shown(&self.id).await;
        if let Some(Ok(parts)) = shown.map(|parts| serde_json::from_str::<Vec<Value>>(&parts)) {
            self.told.extend(self.story.parts(&parts));
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((name, body)) = self.told.pop_front() {
                return Some(Event::default().event(name).data(body.to_string()));
            }
            if self.story.ended() || self.leaving {
                return None;
            }
            let closing = self.closing.clone();
            let mut over = pin!(tokio::time::sleep_until(self.until));
            tokio::select! {
                () = closing.cancelled() => {
                    // The last jobs of a drain have ended a moment ago.
                    self.look().await;
                    self.leaving = true;
                }
                () = &mut over => return None,
                update = self.watch.next() => {
                    let update = update?;
                    self.hear(&update).await;
                }
                _ = self.heartbeat.tick() => {
                    self.broker.partial_results().follow(&self.id).await;
                    self.look().await;
                    return Some(Event::default().comment(format!("heartbeat {}", timestamp())));
                }
            }
        }
    }
}
