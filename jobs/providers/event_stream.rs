//! Reads server-sent events as their bytes arrive. Lines end with LF, CR or both, comments keep the connection alive, and
//! one event may have several lines of data.
//!
//! The reader accepts more than the standard: a line of JSON without `data:`, and events without a blank line between them.

use std::{borrow::Cow, ops::ControlFlow};

use memchr::memchr2;

#[cfg(test)]
mod tests;

/// Lines of data after which an event is checked for its end, although no blank line follows. A check after each line of a
/// long event would take time that grows with its square.
const MOST_LOOKS: u8 = 8;

/// Takes the events of a stream.
pub(super) trait EventConsumer {
    /// Takes the data of one event, as UTF-8. A character that was cut between two chunks is whole again.
    fn take(&mut self, event: &str) -> ControlFlow<()>;

    /// Takes the events at the front of `bytes` that need no reading by lines, and returns their length. The bytes begin
    /// with a line.
    fn take_known(&mut self, _bytes: &[u8]) -> usize {
        0
    }
}

impl<F: FnMut(&str) -> ControlFlow<()>> EventConsumer for F {
    fn take(&mut self, event: &str) -> ControlFlow<()> {
        self(event)
    }
}

/// The bytes of a stream that do not make a whole event yet.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    /// The beginning of a line.
    line: Vec<u8>,
    /// The data of an event whose end has not arrived.
    data: Vec<u8>,
    has_data: bool,
    looks: u8,
    /// The last line ended with CR, so that an LF at the next place belongs to it.
    skips_lf: bool,
    has_begun: bool,
}

impl EventReader {
    /// Bytes that wait for the end of their event.
    pub(super) fn waiting(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// Takes the next bytes, and hands each event that they complete to `consumer`, until it breaks off.
    pub(super) fn push(&mut self, mut bytes: &[u8], consumer: &mut impl EventConsumer) -> ControlFlow<()> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.skips_lf) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            if self.line.is_empty() && !self.has_data {
                bytes = &bytes[consumer.take_known(bytes)..];
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                return ControlFlow::Continue(());
            };
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            self.skips_lf = bytes[end] == b'\r';
            bytes = rest;
            if self.line.is_empty() {
                self.take_line(line, rest, consumer)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.take_line(&whole, rest, consumer)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends the stream: the bytes that wait are an event.
    pub(super) fn finish(&mut self, consumer: &mut impl EventConsumer) -> ControlFlow<()> {
        let line = std::mem::take(&mut self.line);
        self.take_line(&line, b"", consumer)?;
        self.dispatch(consumer)
    }

    /// Takes a whole line. `rest` holds the bytes that have arrived behind it.
    fn take_line(&mut self, line: &[u8], rest: &[u8], consumer: &mut impl EventConsumer) -> ControlFlow<()> {
        let line = match std::mem::replace(&mut self.has_begun, true) {
            true => line,
            false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
        };
        let data = match line.first() {
            None => return self.dispatch(consumer),
            Some(b'{' | b'[') => line,
            Some(_) => match line.strip_prefix(b"data").map(|rest| (rest, rest.first())) {
                Some((rest, Some(b':'))) => rest[1..].strip_prefix(b" ").unwrap_or(&rest[1..]),
                Some((rest, None)) => rest,
                // A comment, or a field without data.
                _ => return ControlFlow::Continue(()),
            },
        };
        if self.has_data && self.looks < MOST_LOOKS {
            self.looks += 1;
            if is_whole(&self.data) {
                self.dispatch(consumer)?;
            }
        }
        // The usual event is one line, followed by a blank one: it is passed on without a copy.
        let next = match self.skips_lf {
            true => rest.strip_prefix(b"\n").unwrap_or(rest),
            false => rest,
        };
        if !self.has_data && matches!(next.first(), Some(b'\n' | b'\r')) {
            return consumer.take(&text(data));
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(data);
        self.has_data = true;
        ControlFlow::Continue(())
    }

    fn dispatch(&mut self, consumer: &mut impl EventConsumer) -> ControlFlow<()> {
        if !std::mem::take(&mut self.has_data) {
            return ControlFlow::Continue(());
        }
        let data = std::mem::take(&mut self.data);
        self.looks = 0;
        consumer.take(&text(&data))
    }
}

/// Returns true if the data is an event by itself, although no blank line has followed.
fn is_whole(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]" || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
}

/// The data as text, with U+FFFD for bytes that are not UTF-8. Valid data skips the lossy conversion, which is slower.
fn text(data: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(data) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(data),
    }
}
