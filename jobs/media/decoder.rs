//! The seam between the handlers and the place where recordings and images are decoded.
//!
//! A medium comes from a stranger, and its decoder may loop, overflow the stack or ask for any amount of memory.
//! The worker therefore decodes in processes of its own, which it can lose; tests decode in their process.

use std::{fmt, panic::catch_unwind, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{
    audio::{PreparedAudio, convert},
    image::reshape::{ImagePlan, reshape},
};

/// Makes recordings and images ready for the provider.
///
/// Dropping a future ends the work on its medium.
#[async_trait]
pub trait MediaDecoder: Send + Sync + fmt::Debug {
    /// Decodes a recording that plays for at most `limit`, plus 1 s that encoders pad and recorders run over.
    ///
    /// # Errors
    /// [`DecodeError`]: the recording is at fault, or this attempt was cut short.
    async fn decode(&self, recording: Bytes, limit: Duration) -> Result<PreparedAudio, DecodeError>;

    /// Turns an image upright and scales it down. The result is a JPEG.
    ///
    /// # Errors
    /// [`DecodeError`]: the image is at fault, or this attempt was cut short.
    async fn reshape(&self, image: Bytes, plan: ImagePlan) -> Result<Bytes, DecodeError>;
}

/// Why a medium was not decoded. The texts continue a sentence that begins with the payload's field.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The recording, or the image, is at fault; another attempt ends in the same way.
    #[error("{0}")]
    Medium(String),
    /// The host is at fault, or may be; another attempt can succeed.
    #[error("{0}")]
    Interrupted(String),
    /// The process is stopping.
    #[error("stopped while the medium was decoded")]
    Stopped,
}

/// Decodes on a blocking thread of the calling process. Offers no protection against what a recording does to its
/// decoder: for tests, and for tools that decode recordings of their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct InProcessDecoder;

#[async_trait]
impl MediaDecoder for InProcessDecoder {
    async fn decode(&self, recording: Bytes, limit: Duration) -> Result<PreparedAudio, DecodeError> {
        match spawn_blocking(move || decode(recording, limit)).await {
            Ok(decoded) => decoded.map_err(DecodeError::Medium),
            Err(_) => Err(DecodeError::Stopped),
        }
    }

    async fn reshape(&self, image: Bytes, plan: ImagePlan) -> Result<Bytes, DecodeError> {
        match spawn_blocking(move || reshape(&image, plan)).await {
            Ok(changed) => changed.map(Bytes::from).map_err(DecodeError::Medium),
            Err(_) => Err(DecodeError::Stopped),
        }
    }
}

/// Decodes a recording on the calling thread. A panic of a decoder counts as a damaged recording.
///
/// # Errors
/// The fault of the recording, as the rest of a sentence.
pub fn decode(recording: Bytes, limit: Duration) -> Result<PreparedAudio, String> {
    match catch_unwind(move || convert(recording, limit)) {
        Ok(converted) => converted.map_err(|why| why.to_string()),
        Err(_) => Err("audio is damaged: its decoder gave up".to_owned()),
    }
}
