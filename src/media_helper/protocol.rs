//! The protocol between the worker and a helper. All numbers are little-endian.
//!
//! - Helper, once: `HELLO`, then a byte of [`SandboxReport`](super::SandboxReport) flags.
//! - Worker: [`HelperRequest`] (u8 and two u64), length (u64), the medium.
//! - Helper: [`ReplyKind`] (u8), duration in ns (u64), length (u64), the result or the reason for a refusal (UTF-8).

use std::time::Duration;

use jobs::media::{audio::AudioFormat, image::ImagePlan};

/// The helper is confined and ready.
pub(super) const HELLO: &[u8; 4] = b"bwm2";
/// Bytes of a request before its medium.
pub(super) const REQUEST_HEAD: usize = 25;
/// Bytes of an answer before its body.
pub(super) const ANSWER_HEAD: usize = 17;

/// The work of a helper on a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HelperRequest {
    /// Decode a recording that plays for at most this.
    Audio(Duration),
    /// Change an image.
    Image(ImagePlan),
}

/// The kind of a helper's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// Audio in this format.
    Audio(AudioFormat),
    /// An image.
    Image,
    /// Why the medium cannot be used.
    Refused,
}

impl ReplyKind {
    fn code(self) -> u8 {
        match self {
            Self::Audio(AudioFormat::Wav16kMono) => 1,
            Self::Audio(AudioFormat::OggOpus) => 2,
            Self::Refused => 3,
            Self::Image => 4,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [
            Self::Audio(AudioFormat::Wav16kMono),
            Self::Audio(AudioFormat::OggOpus),
            Self::Refused,
            Self::Image,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

pub(super) fn request_head(request: HelperRequest, length: usize) -> [u8; REQUEST_HEAD] {
    let (kind, first, second) = match request {
        HelperRequest::Audio(limit) => (1, u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), 0),
        HelperRequest::Image(plan) => (2, u64::from(plan.longest), u64::from(plan.orientation)),
    };
    let mut head = [0; REQUEST_HEAD];
    head[0] = kind;
    head[1..9].copy_from_slice(&first.to_le_bytes());
    head[9..17].copy_from_slice(&second.to_le_bytes());
    head[17..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

/// The operation, and the medium's length; `None` for a request that no worker makes.
pub(super) fn read_request_head(head: &[u8; REQUEST_HEAD]) -> Option<(HelperRequest, u64)> {
    let (first, second) = (number(&head[1..9]), number(&head[9..17]));
    let request = match head[0] {
        1 => HelperRequest::Audio(Duration::from_millis(first)),
        2 => HelperRequest::Image(ImagePlan {
            longest: u32::try_from(first).ok()?,
            orientation: u8::try_from(second).ok()?,
        }),
        _ => return None,
    };
    Some((request, number(&head[17..])))
}

pub(super) fn answer_head(kind: ReplyKind, duration: Duration, length: usize) -> [u8; ANSWER_HEAD] {
    let duration = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut head = [0; ANSWER_HEAD];
    head[0] = kind.code();
    head[1..9].copy_from_slice(&duration.to_le_bytes());
    head[9..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

/// The kind of what follows, its playing time and its bytes; `None` for an answer that no helper gives.
pub(super) fn read_answer_head(head: &[u8; ANSWER_HEAD]) -> Option<(ReplyKind, Duration, u64)> {
    let duration = Duration::from_nanos(number(&head[1..9]));
    Some((ReplyKind::of(head[0])?, duration, number(&head[9..])))
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let plan = ImagePlan {
            longest: 16_000,
            orientation: 6,
        };
        for request in [
            HelperRequest::Audio(Duration::from_secs(30)),
            HelperRequest::Image(plan),
        ] {
            let head = request_head(request, 70_000);
            assert_eq!(read_request_head(&head), Some((request, 70_000)));
        }
        assert_eq!(read_request_head(&[0; REQUEST_HEAD]), None);
        for kind in [
            ReplyKind::Audio(AudioFormat::Wav16kMono),
            ReplyKind::Audio(AudioFormat::OggOpus),
            ReplyKind::Refused,
            ReplyKind::Image,
        ] {
            let head = answer_head(kind, Duration::from_nanos(5), 300);
            assert_eq!(
                read_answer_head(&head),
                Some((kind, Duration::from_nanos(5), 300))
            );
        }
        assert_eq!(read_answer_head(&[0; ANSWER_HEAD]), None);
    }
}
