//! Reads a streamed chat completion, and notices when the provider falls silent.
//!
//! The answer gets the form of one without a stream, so that the ledger and the handlers know one form only. A provider may
//! answer in one piece although the request asks for a stream.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::Request;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use super::{
    error_body::ErrorBody,
    http::{OpenAnswer, ProviderAnswer, ProviderPeer},
};
use crate::Failure;

#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/answer_stream.rs"]
pub(crate) mod fuzz;
mod reader;
#[cfg(test)]
mod tests;

use reader::{AnswerBytes, StreamReader, StreamedAnswer};

/// Longest wait for the end of a stream whose answer is whole. Only a connection whose answer has ended can be used again.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Longest wait for the token counts and the end of a stream whose answer the provider has called finished.
const FINAL_COUNTS: Duration = Duration::from_secs(5);
/// A stream that has lasted for so long is read at most so often. Providers send each token as an event of its own, and each
/// read costs more than the event does.
const SLOW_AFTER: Duration = Duration::from_millis(500);
const READ_EVERY: Duration = Duration::from_millis(100);
/// A stream that brings so many bytes at once is not slow.
const MUCH_AT_ONCE: usize = 4096;
/// Tokens a second of a slow model that reasons before it answers. It may be silent for all of that time.
const REASONED_A_SECOND: u64 = 50;
/// Factor on the longest time that an answer in one piece has taken: the wait for the next one.
const LONGER_THAN_EVER: u32 = 4;

/// The text of an answer while it arrives: the call that reads it shares it with the handler that looks at it.
#[derive(Default)]
pub(crate) struct ArrivingAnswer {
    /// In the escaped form of a JSON string.
    text: Mutex<String>,
    has_begun: AtomicBool,
    /// The handler looks at the text.
    is_watched: AtomicBool,
    /// The answer as far as it had arrived when the stream broke.
    partial: Mutex<Option<Box<RawValue>>>,
}

impl ArrivingAnswer {
    /// From now on the text is here as soon as it has arrived. Before, only its beginning is told: most answers arrive
    /// before the handler looks at them.
    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

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
        if !text.is_empty() {
            self.has_begun.store(true, Ordering::Relaxed);
        }
        if !self.is_watched.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.text();
        if let Some(added) = text.get(known.len()..) {
            known.push_str(added);
        }
    }

    /// Returns true if a part of the text has arrived.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
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
            answer: streamed,
            ..
        } = reader;
        let StreamedAnswer {
            parts,
            is_done,
            error,
        } = streamed;
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
                AnswerBytes::Events(_) if parts.has_failed() => answer.broke_off(),
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
        let begun = Instant::now();
        let mut rested = Duration::ZERO;
        loop {
            let streamed = &reader.answer;
            let patience = match streamed.is_done {
                true => LAST_WORDS,
                false if streamed.parts.is_finished() => self.patience.idle.min(FINAL_COUNTS),
                false if streamed.parts.has_begun() => self.patience.idle,
                false => beginning,
            };
            let chunk = match answer.chunk(patience, rested).await {
                // Bytes behind a whole answer, and errors there, change nothing.
                _ if streamed.is_done => return Ok(()),
                Err(_) if streamed.parts.is_finished() => return Ok(()),
                chunk => chunk?,
            };
            let (length, is_over) = (chunk.as_ref().map_or(0, Bytes::len), chunk.is_none());
            match chunk {
                Some(bytes) => reader.push(&bytes),
                None => reader.end(),
            }
            self.arriving.follow(reader.answer.parts.text());
            if is_over || reader.answer.error.is_some() {
                return Ok(());
            }
            if reader.is_too_long() {
                return Err(answer.too_long());
            }
            let is_slow = length < MUCH_AT_ONCE && reader.expects_more() && begun.elapsed() >= SLOW_AFTER;
            rested = Duration::ZERO;
            if is_slow {
                rested = READ_EVERY.min(patience / 4);
                sleep(rested).await;
            }
        }
    }
}
