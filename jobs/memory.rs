//! A budget for bytes in flight: jobs reserve room before they load, and wait where there is none. Work on many of
//! them is done [apart] from the thread that all jobs share.

use std::{panic::resume_unwind, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

/// Room is counted in units of so many bytes.
const UNIT: u64 = 1024;

/// Memory that may be taken at a time. Clones share it.
///
/// A job that asks for more than there is in all gets all of it: it runs alone. Room is given in the order in which
/// it is asked for. A holder must not ask for more of the same budget: two of them could wait for each other.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: u32,
    free: Arc<Semaphore>,
}

/// Reserved memory; free again when it is dropped.
#[derive(Debug)]
pub struct MemoryReservation(Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        // The semaphore holds more than a u32; half of its range is 2 TB.
        let units = units(bytes).clamp(1, u32::MAX >> 1);
        Self {
            units,
            free: Arc::new(Semaphore::new(units as usize)),
        }
    }

    /// Waits for room for so many bytes.
    pub async fn room(&self, bytes: u64) -> MemoryReservation {
        let units = units(bytes).min(self.units);
        // The semaphore is never closed.
        MemoryReservation(self.free.clone().acquire_many_owned(units).await.ok())
    }

    /// Bytes that there are in all.
    pub fn capacity(&self) -> u64 {
        u64::from(self.units) * UNIT
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.free.available_permits() as u64 * UNIT
    }
}

impl MemoryReservation {
    /// Takes room for so many bytes out of this one, or what is left of it.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        let Some(permit) = &mut self.0 else {
            return Self(None);
        };
        let units = (units(bytes) as usize).min(permit.num_permits());
        Self(permit.split(units))
    }

    /// Keeps room for so many bytes, and frees the rest.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        *self = self.split(bytes);
    }

    /// Bytes that hold this room until the last of them is dropped.
    pub fn hold(self, bytes: Vec<u8>) -> Bytes {
        struct Held(
            Vec<u8>,
            #[expect(dead_code, reason = "it is held")] MemoryReservation,
        );
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Held(bytes, self))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// More bytes than these are not worked on by the thread that all jobs share.
const SHARED: usize = 256 * 1024;

/// Does work on so many bytes: on the caller's thread, or on another one where it takes long.
///
/// # Panics
/// When the work does.
pub async fn apart<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= SHARED {
        return work();
    }
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and with it the job that waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn room_is_waited_for_and_comes_back_with_the_last_byte() {
        let budget = MemoryBudget::new(10 * UNIT);
        let mut first = budget.room(8 * UNIT).await;
        let mut second = std::pin::pin!(budget.room(4 * UNIT));
        assert!(poll!(&mut second).is_pending());
        first.shrink(6 * UNIT);
        let second = second.await;
        assert_eq!(budget.free(), 0);
        let bytes = first.hold(vec![1, 2, 3]);
        let part = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(budget.free(), 0);
        drop(part);
        assert_eq!(budget.free(), 6 * UNIT);
        drop(second);
        let all = budget.room(u64::MAX).await;
        assert_eq!(budget.free(), 0, "who needs more gets all of it");
        drop(all);
        assert_eq!(budget.free(), 10 * UNIT);
    }
}
