//! Watches single jobs: the watchers of a queue's jobs, and one task a queue that sends them updates.
//!
//! The task ([`JobEventSource::follow`]) starts with the first watcher and is stopped with the last. A watcher that does not
//! keep up is dropped rather than waited for: no watcher holds up the others, and what waits for it is bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::mpsc, task::AbortHandle};

use super::{BrokerError, JobEventSource, JobSnapshot, QueueInspector};
use crate::{locks::locked, retry::LoopBackoff};

/// Updates that a watcher may be behind.
const BEHIND: usize = 64;
/// Jobs that are looked at side by side.
const SIDE_BY_SIDE: usize = 32;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A change of a job.
#[derive(Debug, Clone)]
pub enum JobUpdate {
    /// It was claimed.
    Active,
    /// It reported this percentage.
    Progress(u8),
    /// The current state of the job.
    Stands(Arc<JobSnapshot>),
    /// The queue knows it no more; how it ended, where that is known.
    Gone(Option<UnkeptOutcome>),
}

/// How a job ended of which nothing is kept.
#[derive(Debug, Clone)]
pub enum UnkeptOutcome {
    /// Well, with this result.
    Completed(Arc<Value>),
    /// As a failure, for this reason.
    Failed(Arc<str>),
}

/// The watchers of one queue's jobs.
#[derive(Debug, Clone, Default)]
pub struct JobWatchers(Arc<Mutex<WatcherRegistry>>);

/// Its number, and where it is told.
type WatcherEntry = (u64, mpsc::Sender<JobUpdate>);

#[derive(Debug, Default)]
struct WatcherRegistry {
    jobs: HashMap<Arc<str>, Vec<WatcherEntry>>,
    last: u64,
    follower: Option<AbortHandle>,
}

/// One watcher's view of one job. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct JobWatch {
    id: Arc<str>,
    number: u64,
    updates: mpsc::Receiver<JobUpdate>,
    watchers: JobWatchers,
}

/// Follows the job `id` from now on. The caller then reads the current state with [`QueueInspector::find`], in this order, so
/// that no change is missed.
pub fn watch(queue: Arc<dyn JobEventSource>, id: &str) -> JobWatch {
    let watch = queue.watchers().add(id);
    let mut registry = watch.watchers.lock();
    if registry.follower.as_ref().is_none_or(AbortHandle::is_finished) {
        registry.follower = Some(tokio::spawn(async move { follow(&*queue).await }).abort_handle());
    }
    drop(registry);
    watch
}

/// Follows a queue's events until the task is aborted. After any error the follower restarts with back-off.
async fn follow(broker: &dyn JobEventSource) {
    let mut position = None;
    let mut backoff = LoopBackoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let before = position.clone();
        // It returns only with an error.
        let Err(error) = broker.follow(&mut position).await;
        if position != before {
            backoff.reset();
        }
        // Once an outage.
        if backoff.is_first() {
            let (queue, layout) = (broker.queue(), broker.layout());
            tracing::warn!(queue, %layout, %error, "watched jobs cannot be followed");
        }
        backoff.wait().await;
    }
}

impl JobWatch {
    /// The next update; `None` when this watcher was too slow.
    pub async fn next(&mut self) -> Option<JobUpdate> {
        self.updates.recv().await
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        let mut registry = self.watchers.lock();
        registry.keep(&self.id, |(number, _)| *number != self.number);
        if registry.jobs.is_empty()
            && let Some(follower) = registry.follower.take()
        {
            follower.abort();
        }
    }
}

impl WatcherRegistry {
    fn keep(&mut self, id: &str, wanted: impl Fn(&WatcherEntry) -> bool) {
        if let Some(watchers) = self.jobs.get_mut(id) {
            watchers.retain(wanted);
            if watchers.is_empty() {
                self.jobs.remove(id);
            }
        }
    }
}

impl JobWatchers {
    fn lock(&self) -> MutexGuard<'_, WatcherRegistry> {
        locked(&self.0)
    }

    fn add(&self, id: &str) -> JobWatch {
        let (sender, updates) = mpsc::channel(BEHIND);
        let id: Arc<str> = id.into();
        let mut registry = self.lock();
        registry.last += 1;
        let number = registry.last;
        let of_job = registry.jobs.entry(id.clone()).or_default();
        of_job.push((number, sender));
        JobWatch {
            id,
            number,
            updates,
            watchers: self.clone(),
        }
    }

    /// Returns true if the job has a watcher.
    pub(super) fn of(&self, id: &str) -> bool {
        self.lock().jobs.contains_key(id)
    }

    /// Every watched job.
    pub(super) fn ids(&self) -> Vec<Arc<str>> {
        self.lock().jobs.keys().cloned().collect()
    }

    /// How many watchers there are.
    pub fn count(&self) -> usize {
        self.lock().jobs.values().map(Vec::len).sum()
    }

    /// Sends an update to every watcher of the job.
    pub(super) fn tell(&self, id: &str, update: &JobUpdate) {
        // Drops a watcher whose channel is full; the watcher sees the closed channel.
        self.lock()
            .keep(id, |(_, sender)| sender.try_send(update.clone()).is_ok());
    }

    /// Reads a job and sends its state to its watchers; sends `if_gone` where the queue no longer has it. The watchers
    /// of a job that cannot be read are dropped.
    pub(super) async fn look(
        &self,
        broker: &dyn QueueInspector,
        id: &str,
        if_gone: Option<&JobUpdate>,
    ) -> Result<(), BrokerError> {
        match broker.find(id).await {
            Ok(Some(view)) => self.tell(id, &JobUpdate::Stands(Arc::new(view))),
            Ok(None) => if_gone.into_iter().for_each(|gone| self.tell(id, gone)),
            Err(error) if error.is_refusal() => {
                tracing::warn!(queue = broker.queue(), id, %error, "the watched job cannot be read");
                self.lock().jobs.remove(id);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks at many jobs.
    pub(super) async fn look_at(
        &self,
        broker: &dyn QueueInspector,
        ids: &[Arc<str>],
        if_gone: Option<&JobUpdate>,
    ) -> Result<(), BrokerError> {
        for chunk in ids.chunks(SIDE_BY_SIDE) {
            let looks = chunk.iter().map(|id| self.look(broker, id, if_gone));
            for looked in futures_util::future::join_all(looks).await {
                looked?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_too_slow_is_dropped_and_the_others_are_not() {
        let watchers = JobWatchers::default();
        let (mut slow, mut quick) = (watchers.add("1"), watchers.add("1"));
        for n in 0..=BEHIND {
            watchers.tell("1", &JobUpdate::Active);
            assert!(quick.next().await.is_some(), "{n}");
        }
        for _ in 0..BEHIND {
            assert!(slow.next().await.is_some());
        }
        assert!(slow.next().await.is_none());
        assert_eq!(watchers.count(), 1);
        drop(slow);
        watchers.tell("1", &JobUpdate::Active);
        assert!(quick.next().await.is_some());
        drop(quick);
        assert!(watchers.lock().jobs.is_empty());
    }
}
