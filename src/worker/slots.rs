//! The jobs in flight of one queue, and the slots that bound them. The worker claims a job only into a free slot, and
//! frees the slot when the job's outcome is written.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobs::JobType;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::DeliveryStats;
use crate::suspects::InFlightPresence;
use crate::{locks::locked, queue::Lease};

/// Free slots, taken for a claim. Those that the claim does not fill are free again when this is dropped.
#[derive(Debug, Default)]
pub struct FreeSlots(Option<OwnedSemaphorePermit>);

impl FreeSlots {
    /// How many jobs fit.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Keeps so many of them at most; the others are free again.
    pub fn keep(&mut self, most: usize) {
        if let Some(slots) = &mut self.0
            && let Some(kept) = slots.split(most.min(slots.num_permits()))
        {
            self.0 = Some(kept);
        }
    }

    fn take_one(&mut self) -> Option<OwnedSemaphorePermit> {
        self.0.as_mut()?.split(1)
    }

    fn add(&mut self, slot: OwnedSemaphorePermit) {
        match &mut self.0 {
            Some(slots) => slots.merge(slot),
            None => self.0 = Some(slot),
        }
    }
}

/// The jobs in flight of one queue.
#[derive(Debug)]
pub struct Slots {
    capacity: usize,
    free: Arc<Semaphore>,
    jobs: Mutex<HashMap<Lease, SlotJob>>,
    peak: AtomicUsize,
}

/// A job in flight, as an onlooker sees it.
#[derive(Debug, Clone)]
pub struct InFlight {
    /// Its id.
    pub id: Arc<str>,
    /// Its type, once its payload was opened.
    pub kind: Option<JobType>,
    /// How long ago it was claimed.
    pub age: Duration,
}

#[derive(Debug)]
struct SlotJob {
    stop: CancellationToken,
    stats: Arc<DeliveryStats>,
    slot: Option<OwnedSemaphorePermit>,
    _presence: InFlightPresence,
}

impl Slots {
    /// As many slots as `concurrency`.
    pub fn new(concurrency: usize) -> Self {
        let capacity = concurrency.min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(capacity));
        Self {
            capacity,
            free,
            jobs: Mutex::default(),
            peak: AtomicUsize::new(0),
        }
    }

    /// Waits for a free slot, and takes every one that is free then.
    pub async fn free(&self) -> FreeSlots {
        // The semaphore is never closed, so the error cannot happen. A closed semaphore would free no slot again.
        let Ok(mut permit) = self.free.clone().acquire_owned().await else {
            return std::future::pending().await;
        };
        let more = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        if more > 0
            && let Ok(rest) = self.free.clone().try_acquire_many_owned(more)
        {
            permit.merge(rest);
        }
        FreeSlots(Some(permit))
    }

    /// Takes the slots of jobs that have ended: they are in flight no more.
    pub fn take_over<'a>(&self, ended: impl Iterator<Item = &'a Lease>) -> FreeSlots {
        let (mut jobs, mut slots) = (self.jobs(), FreeSlots::default());
        for slot in ended.filter_map(|lease| jobs.remove(lease)?.slot) {
            slots.add(slot);
        }
        slots
    }

    /// Notes a claimed job; `stop` is cancelled when it turns out to be lost. `presence` is dropped with the slot.
    pub(super) fn occupy(
        &self,
        slots: &mut FreeSlots,
        lease: Lease,
        stop: CancellationToken,
        course: Arc<DeliveryStats>,
        presence: InFlightPresence,
    ) {
        let mut jobs = self.jobs();
        // A resent claim may bring more jobs than are free by now: they run, and the count is right again after them.
        jobs.insert(
            lease,
            SlotJob {
                stop,
                stats: course,
                slot: slots.take_one(),
                _presence: presence,
            },
        );
        self.peak.fetch_max(jobs.len(), Ordering::Relaxed);
    }

    /// Returns true if the job is in flight here already.
    pub fn contains(&self, lease: &Lease) -> bool {
        self.jobs().contains_key(lease)
    }

    /// Frees the slot of a job.
    pub fn vacate(&self, lease: &Lease) {
        self.jobs().remove(lease);
    }

    /// Tells a job that it is lost.
    pub fn stop(&self, lease: &Lease) {
        if let Some(job) = self.jobs().get(lease) {
            job.stop.cancel();
        }
    }

    /// Every job in flight.
    pub fn held(&self) -> Vec<Lease> {
        self.jobs().keys().cloned().collect()
    }

    /// The jobs that have been in flight for the longest, at most so many.
    pub fn longest(&self, most: usize) -> Vec<InFlight> {
        let jobs = self.jobs();
        let mut all: Vec<(&Lease, &SlotJob)> = jobs.iter().collect();
        all.sort_unstable_by_key(|(_, job)| job.stats.claimed());
        let seen = |(lease, job): &(&Lease, &SlotJob)| InFlight {
            id: lease.id.clone(),
            kind: job.stats.kind(),
            age: job.stats.claimed().elapsed(),
        };
        all.iter().take(most).map(seen).collect()
    }

    /// How many jobs fit.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many jobs are in flight.
    pub fn len(&self) -> usize {
        self.jobs().len()
    }

    /// Returns true if nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most that have ever been in flight at a time.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Lease, SlotJob>> {
        locked(&self.jobs)
    }
}
