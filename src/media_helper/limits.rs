//! The limits of a helper for one medium, and how many helpers work at a time.

use std::time::Duration;

use crate::container_memory;

/// Memory that decoding takes at most beside the recording itself: 30 s at 192 kHz as numbers, three times.
const WORKING_MEMORY: u64 = 160 * 1024 * 1024;
/// CPU time of a first try, seconds, and the longest wait for it. Honest media take a fraction of a second, and the
/// largest images a few.
const FIRST_CPU_SECONDS: u64 = 2;
const FIRST_WAIT: Duration = Duration::from_secs(20);
/// Helpers that change images at a time, at most, and the container's memory for each of them.
const MOST_IMAGES: usize = 4;
const MEMORY_PER_IMAGE: u64 = 2 * HelperLimits::FOR_IMAGES.memory;

/// The limits of a helper for one medium.
#[derive(Debug, Clone, Copy)]
pub struct HelperLimits {
    /// Memory, bytes.
    pub memory: u64,
    /// CPU time, seconds. Honest recordings of 30 s take a tenth of one.
    pub cpu_seconds: u64,
    /// Longest wait for the answer, on a host whose CPU is shared by many.
    pub wait: Duration,
    /// Memory that a medium took stays with the helper for the next one: faster, for media that take little.
    pub keeps_memory: bool,
}

impl HelperLimits {
    /// The limits for images of up to [`MOST_PIXELS`](jobs::media::image::reshape::MOST_PIXELS).
    pub const FOR_IMAGES: Self = Self {
        memory: 512 * 1024 * 1024,
        cpu_seconds: 20,
        wait: Duration::from_secs(60),
        keeps_memory: false,
    };

    /// The limits for recordings of up to `max_bytes`.
    pub const fn for_recordings_of(max_bytes: u64) -> Self {
        Self {
            memory: WORKING_MEMORY.saturating_add(max_bytes),
            cpu_seconds: 10,
            wait: Duration::from_secs(60),
            keeps_memory: true,
        }
    }

    /// The limits of a first try, after which a medium leaves its place to the next one.
    pub(super) fn of_first_try(self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds.min(FIRST_CPU_SECONDS),
            wait: self.wait.min(FIRST_WAIT),
            ..self
        }
    }
}

/// Recordings that are decoded at a time.
pub(super) fn recordings_at_once() -> usize {
    cores().max(2)
}

/// Images that are changed at a time: as many as there are cores, and as half of the container's memory holds.
pub(super) fn images_at_once() -> usize {
    let by_memory = container_memory::limit().map_or(MOST_IMAGES, |limit| {
        usize::try_from(limit / MEMORY_PER_IMAGE).unwrap_or(MOST_IMAGES)
    });
    cores().min(by_memory).clamp(1, MOST_IMAGES)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
