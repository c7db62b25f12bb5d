//! The worker's side: hands media to helpers, ends and replaces them.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jobs::media::{
    audio::PreparedAudio,
    decoder::{DecodeError, MediaDecoder},
    image::ImagePlan,
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{debug, warn};

use super::{
    HelperError, HelperProgram, SandboxReport,
    helper::{ExchangeError, HelperProcess, HelperResult, RECORDINGS},
    limits::{HelperLimits, images_at_once, recordings_at_once},
    protocol::HelperRequest,
    verdict::HelperVerdict,
};
use crate::locks::locked;

/// Helpers that have the same limits.
#[derive(Debug)]
struct HelperGroup {
    /// The medium, in messages.
    medium: &'static str,
    limits: HelperLimits,
    places: Semaphore,
    idle: Mutex<Vec<HelperProcess>>,
}

impl HelperGroup {
    fn new(medium: &'static str, limits: HelperLimits, places: usize) -> Self {
        Self {
            medium,
            limits,
            places: Semaphore::new(places),
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<HelperProcess>> {
        locked(&self.idle)
    }
}

/// The helpers for one kind of medium.
///
/// A medium gets a short first try. One that takes longer is tried once more, with the full time, by one further
/// helper: media that loop delay one another, and the others by a first try at most.
#[derive(Debug)]
struct MediumHelpers {
    first: HelperGroup,
    slow: HelperGroup,
}

impl MediumHelpers {
    fn new(medium: &'static str, limits: HelperLimits, places: usize) -> Self {
        Self {
            first: HelperGroup::new(medium, limits.of_first_try(), places),
            slow: HelperGroup::new(medium, limits, 1),
        }
    }
}

/// Decodes media in helpers. Each takes one medium at a time. As many decode recordings as the host has cores, two at
/// least; fewer change images where the container's memory is small. One more of each kind works on slow media.
#[derive(Debug)]
pub struct HelperPool {
    program: HelperProgram,
    recordings: MediumHelpers,
    images: MediumHelpers,
}

impl HelperPool {
    /// A pool that starts no helper before the first medium. `limits` are those for recordings.
    pub fn new(program: HelperProgram, limits: HelperLimits) -> Arc<Self> {
        Arc::new(Self {
            program,
            recordings: MediumHelpers::new("audio", limits, recordings_at_once()),
            images: MediumHelpers::new("image", HelperLimits::FOR_IMAGES, images_at_once()),
        })
    }

    /// Starts a helper, and tells what confines it.
    ///
    /// # Errors
    /// When none can be started.
    pub async fn probe(&self) -> Result<SandboxReport, HelperError> {
        let group = &self.recordings.first;
        let helper = HelperProcess::start(&self.program, group.limits).await?;
        let confinement = helper.confinement();
        group.idle().push(helper);
        Ok(confinement)
    }

    /// The limits of a helper for a recording.
    pub const fn limits(&self) -> HelperLimits {
        self.recordings.slow.limits
    }

    /// Process ids of the helpers that wait for a medium.
    pub fn waiting(&self) -> Vec<u32> {
        let groups = [&self.recordings, &self.images].map(|medium| [&medium.first, &medium.slow]);
        let ids = |group: &HelperGroup| -> Vec<u32> {
            let idle = group.idle();
            idle.iter().filter_map(HelperProcess::id).collect()
        };
        groups.into_iter().flatten().flat_map(ids).collect()
    }

    /// A helper that waits, or a new one.
    async fn take(&self, group: &HelperGroup) -> Result<HelperProcess, DecodeError> {
        loop {
            let waiting = group.idle().pop();
            match waiting {
                Some(mut helper) => {
                    if helper.is_alive() {
                        return Ok(helper);
                    }
                    debug!("a media helper ended while it waited, and is replaced");
                }
                None => {
                    let started = HelperProcess::start(&self.program, group.limits).await;
                    return started.map_err(|error| {
                        warn!(%error, "no medium can be decoded; check the limits on processes and memory of this host");
                        DecodeError::Interrupted(error.to_string())
                    });
                }
            }
        }
    }

    /// Hands a medium to a helper, and to one with more time where the first one runs out of it.
    async fn run(
        &self,
        helpers: &MediumHelpers,
        medium: &Bytes,
        request: HelperRequest,
    ) -> Result<HelperResult, DecodeError> {
        match self.run_within(&helpers.first, medium, request).await {
            Err(HelperVerdict::OutOfTime(why)) => {
                debug!(%why, "a medium is slow to decode: it gets a second try, with more time");
            }
            settled => return settled.map_err(HelperVerdict::into_error),
        }
        let settled = self.run_within(&helpers.slow, medium, request).await;
        settled.map_err(|verdict| {
            let error = verdict.into_error();
            warn!("a medium was not decoded; its job alone is affected: {error}");
            error
        })
    }

    /// Hands a medium to a helper of this group.
    async fn run_within(
        &self,
        group: &HelperGroup,
        medium: &Bytes,
        request: HelperRequest,
    ) -> Result<HelperResult, HelperVerdict> {
        let Ok(_place) = group.places.acquire().await else {
            return Err(HelperVerdict::Final(DecodeError::Stopped)); // The semaphore is never closed.
        };
        // Dropped on the way, with this future, the helper is killed.
        let mut helper = self.take(group).await.map_err(HelperVerdict::Final)?;
        let exchanged = timeout(group.limits.wait, helper.exchange(medium, request)).await;
        match exchanged.unwrap_or(Err(ExchangeError::TooSlow)) {
            Ok(done) => {
                if helper.worked() < RECORDINGS {
                    group.idle().push(helper);
                }
                done.map_err(|why| HelperVerdict::Final(DecodeError::Medium(why)))
            }
            Err(broke) => Err(helper.verdict(broke, (group.medium, group.limits)).await),
        }
    }
}

#[async_trait]
impl MediaDecoder for HelperPool {
    async fn decode(&self, recording: Bytes, limit: Duration) -> Result<PreparedAudio, DecodeError> {
        let request = HelperRequest::Audio(limit);
        match self.run(&self.recordings, &recording, request).await? {
            HelperResult::Audio(audio) => Ok(audio),
            HelperResult::Image(_) => Err(DecodeError::Interrupted(
                "a helper answered with an image".to_owned(),
            )),
        }
    }

    async fn reshape(&self, image: Bytes, plan: ImagePlan) -> Result<Bytes, DecodeError> {
        match self.run(&self.images, &image, HelperRequest::Image(plan)).await? {
            HelperResult::Image(image) => Ok(image),
            HelperResult::Audio(_) => Err(DecodeError::Interrupted(
                "a helper answered with audio".to_owned(),
            )),
        }
    }
}
