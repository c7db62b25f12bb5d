//! The protocol between the worker and a helper. All numbers are little-endian.
//!
//! - Helper, once: `HELLO`, then a byte of [`SandboxReport`](super::SandboxReport) flags.
//! - Worker: limit in ms (u64), length (u64), the recording.
//! - Helper: [`ReplyKind`] (u8), duration in ns (u64), length (u64), the audio or the reason for its refusal (UTF-8).

use std::time::Duration;

use jobs::media::audio::AudioFormat;

/// The helper is confined and ready.
pub(super) const HELLO: &[u8; 4] = b"bwm1";
/// Bytes of a request before its recording.
pub(super) const REQUEST_HEAD: usize = 16;
/// Bytes of an answer before its body.
pub(super) const ANSWER_HEAD: usize = 17;

/// What a helper's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// Audio in this format.
    Audio(AudioFormat),
    /// Why the recording cannot be used.
    Refused,
}

impl ReplyKind {
    fn code(self) -> u8 {
        match self {
            Self::Audio(AudioFormat::Wav16kMono) => 1,
            Self::Audio(AudioFormat::OggOpus) => 2,
            Self::Refused => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [
            Self::Audio(AudioFormat::Wav16kMono),
            Self::Audio(AudioFormat::OggOpus),
            Self::Refused,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

pub(super) fn request_head(limit: Duration, length: usize) -> [u8; REQUEST_HEAD] {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let mut head = [0; REQUEST_HEAD];
    head[..8].copy_from_slice(&limit.to_le_bytes());
    head[8..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

/// The longest duration and the recording's length.
pub(super) fn read_request_head(head: &[u8; REQUEST_HEAD]) -> (Duration, u64) {
    (Duration::from_millis(number(&head[..8])), number(&head[8..]))
}

pub(super) fn answer_head(kind: ReplyKind, duration: Duration, length: usize) -> [u8; ANSWER_HEAD] {
    let duration = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut head = [0; ANSWER_HEAD];
    head[0] = kind.code();
    head[1..9].copy_from_slice(&duration.to_le_bytes());
    head[9..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

/// What follows, how long it plays, and how many bytes it has; `None` for an answer that no helper gives.
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
        let head = request_head(Duration::from_secs(30), 70_000);
        assert_eq!(read_request_head(&head), (Duration::from_secs(30), 70_000));
        for kind in [
            ReplyKind::Audio(AudioFormat::Wav16kMono),
            ReplyKind::Audio(AudioFormat::OggOpus),
            ReplyKind::Refused,
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
