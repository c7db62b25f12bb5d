//! Puts the bytes of an answer together, whether they are a stream or not.

use std::ops::ControlFlow;

use serde_json::value::RawValue;

use crate::chat_answer::parts::{AnswerParts, EventMeaning};
use crate::providers::{
    error_body::error_inside,
    event_stream::{EventConsumer, EventReader},
    http::MAX_ANSWER,
};

/// Longest stream, bytes: an event takes a few hundred for each token.
pub(super) const MAX_STREAM: usize = 128 * 1024 * 1024;

/// The bytes of an answer so far.
#[derive(Debug)]
pub(super) enum AnswerBytes {
    /// Too few to tell their form.
    Blank(Vec<u8>),
    /// An answer in one piece, or a body that is no answer.
    Whole(Vec<u8>),
    Events(EventReader),
}

impl Default for AnswerBytes {
    fn default() -> Self {
        Self::Blank(Vec::new())
    }
}

/// Returns true if an answer begins like a stream; `None` if it is too short to tell. Its media type says less: gateways
/// send either form with either type.
fn begins_with_event(body: &[u8]) -> Option<bool> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let body = body.trim_ascii_start();
    let body = body.strip_prefix(MARK).unwrap_or(body).trim_ascii_start();
    if MARK.starts_with(body) {
        return None;
    }
    let fields = [b"data".as_slice(), b"event", b"id", b"retry", b":"];
    let is_event = fields.iter().any(|field| body.starts_with(field));
    let is_cut = !is_event && fields.iter().any(|field| field.starts_with(body));
    (!is_cut).then_some(is_event)
}

/// The answer that the events of a stream make.
#[derive(Debug, Default)]
pub(super) struct StreamedAnswer {
    pub(super) parts: AnswerParts,
    /// The provider has said that nothing follows.
    pub(super) is_done: bool,
    /// An event that reports an error. It ends the reading.
    pub(super) error: Option<Vec<u8>>,
}

impl EventConsumer for StreamedAnswer {
    fn take(&mut self, event: &str) -> ControlFlow<()> {
        match self.parts.push(event) {
            EventMeaning::Part => return ControlFlow::Continue(()),
            EventMeaning::Done => self.is_done = true,
            EventMeaning::Error if error_inside(event.as_bytes()).is_none() => {
                return ControlFlow::Continue(());
            }
            EventMeaning::Error => self.error = Some(event.into()),
        }
        ControlFlow::Break(())
    }

    fn take_known(&mut self, bytes: &[u8]) -> usize {
        self.parts.take_framed(bytes)
    }
}

/// Reads the bytes of an answer that may be a stream.
#[derive(Debug, Default)]
pub(super) struct StreamReader {
    pub(super) bytes: AnswerBytes,
    pub(super) answer: StreamedAnswer,
    pub(super) length: usize,
}

impl StreamReader {
    /// Takes the next bytes. What the events say is in `answer`: it also says that they end.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        match &mut self.bytes {
            AnswerBytes::Events(reader) => {
                let _ = reader.push(bytes, &mut self.answer);
            }
            AnswerBytes::Whole(body) => body.extend_from_slice(bytes),
            AnswerBytes::Blank(begun) => {
                let mut begun = std::mem::take(begun);
                // A body often comes whole: only a beginning that was too short to tell is copied.
                let body = match begun.is_empty() {
                    true => bytes,
                    false => {
                        begun.extend_from_slice(bytes);
                        &begun
                    }
                };
                self.bytes = match begins_with_event(body) {
                    None => AnswerBytes::Blank(body.to_vec()),
                    Some(false) => AnswerBytes::Whole(body.to_vec()),
                    Some(true) => {
                        let mut reader = EventReader::default();
                        let _ = reader.push(body, &mut self.answer);
                        AnswerBytes::Events(reader)
                    }
                };
            }
        }
    }

    /// The answer has ended.
    pub(super) fn end(&mut self) {
        match &mut self.bytes {
            AnswerBytes::Events(reader) => {
                let _ = reader.finish(&mut self.answer);
            }
            // Some gateways stream lines of JSON without `data:`.
            AnswerBytes::Whole(body) if serde_json::from_slice::<&RawValue>(body).is_err() => {
                let mut reader = EventReader::default();
                let flow = reader.push(body, &mut self.answer);
                if flow.is_continue() {
                    let _ = reader.finish(&mut self.answer);
                }
                if self.answer.parts.size() > 0 {
                    self.bytes = AnswerBytes::Events(reader);
                }
            }
            AnswerBytes::Whole(_) | AnswerBytes::Blank(_) => {}
        }
    }

    /// Returns true if further events are likely.
    pub(super) fn expects_more(&self) -> bool {
        let is_stream = matches!(self.bytes, AnswerBytes::Events(_));
        is_stream && !self.answer.is_done && !self.answer.parts.is_finished()
    }

    pub(super) fn is_too_long(&self) -> bool {
        match &self.bytes {
            AnswerBytes::Events(reader) => {
                self.length > MAX_STREAM || self.answer.parts.size() + reader.waiting() > MAX_ANSWER
            }
            AnswerBytes::Whole(body) | AnswerBytes::Blank(body) => body.len() > MAX_ANSWER,
        }
    }
}
