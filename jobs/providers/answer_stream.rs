//! Reads a streamed chat completion, and notices when the provider falls silent.
//!
//! The answer gets the form of one without a stream, so that the ledger and the handlers know one form only. A provider may
//! answer in one piece although the request asks for a stream.

use std::{
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Request;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    error_body::{ErrorBody, error_inside},
    event_stream::{EventConsumer, EventReader},
    http::{MAX_ANSWER, OpenAnswer, ProviderAnswer, ProviderPeer},
};
use crate::{
    Failure,
    chat_answer::parts::{AnswerParts, EventMeaning},
};

#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/answer_stream.rs"]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

/// Longest stream, bytes: an event takes a few hundred for each token.
const MAX_STREAM: usize = 128 * 1024 * 1024;
/// Longest wait for the end of a stream whose answer is whole. Only a connection whose answer has ended can be used again.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Tokens a second of a slow model that reasons before it answers. It may be silent for all of that time.
const REASONED_A_SECOND: u64 = 50;
/// Factor on the longest time that an answer in one piece has taken: the wait for the next one.
const LONGER_THAN_EVER: u32 = 4;

/// The text of an answer while it arrives: the call that reads it shares it with the handler that looks at it.
#[derive(Default)]
pub(crate) struct ArrivingAnswer {
    /// In the escaped form of a JSON string.
    text: Mutex<String>,
    /// The answer as far as it had arrived when the stream broke.
    partial: Mutex<Option<Box<RawValue>>>,
}

impl ArrivingAnswer {
    /// The text from this place on, in the escaped form of a JSON string.
    pub(crate) fn text_from(&self, at: usize) -> String {
        self.text().get(at..).unwrap_or_default().to_owned()
    }

    /// Takes the answer as far as it had arrived when its stream broke; `None` without a text.
    pub(crate) fn take_partial(&self) -> Option<Box<RawValue>> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep_partial(&self, body: Box<RawValue>) {
        *self.partial.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// Changes the kept part of a broken answer, if there is one.
    pub(super) fn change_partial(&self, change: impl FnOnce(Box<RawValue>) -> Box<RawValue>) {
        if let Some(body) = self.take_partial() {
            self.keep_partial(change(body));
        }
    }

    /// Takes what has been added to `text` since the last time.
    fn follow(&self, text: &str) {
        let mut known = self.text();
        if let Some(added) = text.get(known.len()..) {
            known.push_str(added);
        }
    }

    /// Returns true if a part of the text is here.
    pub(super) fn has_begun(&self) -> bool {
        !self.text().is_empty()
    }

    fn text(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ArrivingAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No text: it is the answer to a student.
        write!(f, "ArrivingAnswer({} bytes)", self.text().len())
    }
}

/// How long a silent provider counts as working.
#[derive(Debug)]
pub(super) struct Patience {
    idle: Duration,
    /// The longest that an answer in one piece has taken, ms.
    longest_whole_ms: AtomicU64,
}

impl Patience {
    pub(super) const fn new(idle: Duration) -> Self {
        Self {
            idle,
            longest_whole_ms: AtomicU64::new(0),
        }
    }

    /// How long an answer may take to begin. A model that may reason for so many tokens gets the time for them.
    fn for_the_beginning(&self, reasoning_room: u64) -> Duration {
        let whole = Duration::from_millis(self.longest_whole_ms.load(Ordering::Relaxed));
        let reasoning = Duration::from_secs(reasoning_room / REASONED_A_SECOND);
        (self.idle + reasoning).max(whole * LONGER_THAN_EVER)
    }

    fn answered_in_one_piece(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.longest_whole_ms.fetch_max(took, Ordering::Relaxed);
    }
}

/// One call whose answer is asked for as a stream.
#[derive(Debug)]
pub(super) struct StreamedCall {
    pub(super) arriving: Arc<ArrivingAnswer>,
    pub(super) patience: Arc<Patience>,
    /// Tokens that the model may reason for before it answers.
    pub(super) reasoning_room: u64,
    /// The answer may take at least so long to begin.
    pub(super) least_patience: Duration,
    /// Bytes of reasoning that came apart from the answer.
    pub(super) reasoning: AtomicUsize,
}

impl StreamedCall {
    /// Sends the request, and reads the answer to its end: as if it had not been streamed.
    ///
    /// # Errors
    /// Transient when the provider falls silent or the stream breaks; the meaning of an error inside of the stream.
    /// The answer as far as it had arrived is kept in `arriving`.
    pub(super) async fn exchange(
        &self,
        peer: &ProviderPeer,
        request: Request,
    ) -> Result<ProviderAnswer, Failure> {
        let sent = Instant::now();
        let beginning = self.patience.for_the_beginning(self.reasoning_room);
        let beginning = beginning.max(self.least_patience);
        let mut answer = peer.begin(request, Some(beginning)).await?;
        let mut reader = StreamReader::default();
        let read = self.read(&mut answer, &mut reader, beginning).await;
        let StreamReader {
            bytes,
            parts,
            is_done,
            error,
            ..
        } = reader;
        self.reasoning.store(parts.reasoning(), Ordering::Relaxed);
        let broken = match (read, error) {
            (_, Some(event)) => {
                let body = ErrorBody::parse(&peer.clean(event.into()));
                let failure = (peer.classify)(answer.status(), answer.headers(), &body);
                if parts.size() > 0 {
                    failure.with_answer_lost()
                } else {
                    failure
                }
            }
            (Err(failure), None) => failure,
            (Ok(()), None) => match bytes {
                AnswerBytes::Events(_) if is_done || parts.is_finished() || parts.ends_like_json() => {
                    return Ok(answer.whole(parts.into_body().into()));
                }
                AnswerBytes::Events(_) => answer.broke_off(),
                AnswerBytes::Blank(body) | AnswerBytes::Whole(body) => {
                    self.patience.answered_in_one_piece(sent.elapsed());
                    return Ok(answer.whole(body.into()));
                }
            },
        };
        if parts.size() > 0
            && let Ok(body) = serde_json::from_slice(&peer.clean(parts.into_body().into()))
        {
            self.arriving.keep_partial(body);
        }
        Err(broken)
    }

    /// Reads until the answer is whole, its stream ends, or an event reports an error.
    async fn read(
        &self,
        answer: &mut OpenAnswer<'_>,
        reader: &mut StreamReader,
        beginning: Duration,
    ) -> Result<(), Failure> {
        loop {
            let patience = match reader.is_done {
                true => LAST_WORDS,
                false if reader.parts.has_begun() => self.patience.idle,
                false => beginning,
            };
            let chunk = match answer.chunk(patience).await {
                // Bytes behind a whole answer, and errors there, change nothing.
                _ if reader.is_done => return Ok(()),
                chunk => chunk?,
            };
            let is_over = chunk.is_none();
            match chunk {
                Some(bytes) => reader.push(&bytes),
                None => reader.end(),
            }
            self.arriving.follow(reader.parts.text());
            if is_over || reader.error.is_some() {
                return Ok(());
            }
            if reader.is_too_long() {
                return Err(answer.too_long());
            }
        }
    }
}

/// The bytes of an answer so far.
#[derive(Debug)]
enum AnswerBytes {
    /// Too few to tell their form.
    Blank(Vec<u8>),
    /// An answer in one piece, or a body that is no answer.
    Whole(Vec<u8>),
    Events(EventReader),
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

/// Reads the bytes of an answer that may be a stream.
#[derive(Debug)]
struct StreamReader {
    bytes: AnswerBytes,
    parts: AnswerParts,
    is_done: bool,
    /// An event that reports an error. It ends the reading.
    error: Option<Vec<u8>>,
    length: usize,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self {
            bytes: AnswerBytes::Blank(Vec::new()),
            parts: AnswerParts::default(),
            is_done: false,
            error: None,
            length: 0,
        }
    }
}

impl StreamReader {
    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        match &mut self.bytes {
            AnswerBytes::Events(_) => self.read_events(bytes),
            AnswerBytes::Whole(body) => body.extend_from_slice(bytes),
            AnswerBytes::Blank(body) => {
                body.extend_from_slice(bytes);
                match begins_with_event(body) {
                    None => {}
                    Some(false) => self.bytes = AnswerBytes::Whole(std::mem::take(body)),
                    Some(true) => {
                        let begun = std::mem::take(body);
                        self.bytes = AnswerBytes::Events(EventReader::default());
                        self.read_events(&begun);
                    }
                }
            }
        }
    }

    /// The answer has ended.
    fn end(&mut self) {
        match &mut self.bytes {
            AnswerBytes::Events(reader) => {
                let mut reader = std::mem::take(reader);
                self.consume(|consume| reader.finish(consume));
            }
            // Some gateways stream lines of JSON without `data:`.
            AnswerBytes::Whole(body) if serde_json::from_slice::<&RawValue>(body).is_err() => {
                let (body, mut reader) = (std::mem::take(body), EventReader::default());
                self.consume(|consume| {
                    reader.push(&body, consume)?;
                    reader.finish(consume)
                });
                self.bytes = match self.parts.size() {
                    0 => AnswerBytes::Whole(body),
                    _ => AnswerBytes::Events(reader),
                };
            }
            AnswerBytes::Whole(_) | AnswerBytes::Blank(_) => {}
        }
    }

    fn read_events(&mut self, bytes: &[u8]) {
        if let AnswerBytes::Events(reader) = &mut self.bytes {
            let mut reader = std::mem::take(reader);
            self.consume(|consume| reader.push(bytes, consume));
            self.bytes = AnswerBytes::Events(reader);
        }
    }

    fn consume(&mut self, read: impl FnOnce(&mut EventConsumer<'_>) -> ControlFlow<()>) {
        let Self {
            parts,
            is_done,
            error,
            ..
        } = self;
        // The reader stops at the end of the answer, or at an error: both are noted below.
        let _ = read(&mut |event| {
            match parts.push(event) {
                EventMeaning::Part => return ControlFlow::Continue(()),
                EventMeaning::Done => *is_done = true,
                EventMeaning::Error if error_inside(event.as_bytes()).is_none() => {
                    return ControlFlow::Continue(());
                }
                EventMeaning::Error => *error = Some(event.into()),
            }
            ControlFlow::Break(())
        });
    }

    fn is_too_long(&self) -> bool {
        match &self.bytes {
            AnswerBytes::Events(reader) => {
                self.length > MAX_STREAM || self.parts.size() + reader.waiting() > MAX_ANSWER
            }
            AnswerBytes::Whole(body) | AnswerBytes::Blank(body) => body.len() > MAX_ANSWER,
        }
    }
}
