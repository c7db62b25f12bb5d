//! Merges the small chunks of a body that a server sends in chunks, as far as they arrive together.
//!
//! Providers send each event of a stream as a chunk, and hyper hands on each chunk by itself, which wakes two tasks. So a
//! deck that arrives at once cost four times the CPU time of one that is not streamed. The merger rewrites the framing
//! alone: hyper still reads and checks all of it. Where the bytes are not as expected they pass as they are, until the
//! connection ends.

#[cfg(test)]
mod tests;

/// Most chunks that become one.
const MOST_MERGED: usize = 256;
/// Most digits of a chunk's size.
const MOST_DIGITS: usize = 8;
/// Longest head of an answer that is looked at, bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Where the bytes of a server stand.
#[derive(Debug, Default)]
enum Position {
    /// The next answer begins after the next request.
    #[default]
    Between,
    /// In the head of an answer, of which this has arrived.
    Head(Vec<u8>),
    /// In a body that passes as it is.
    Body,
    /// In front of the size line of a chunk, of which this has arrived.
    Size(Vec<u8>),
    /// In a chunk whose size has been passed on.
    Payload(u64),
    /// Behind a chunk, in front of so many bytes of CR and LF.
    PayloadEnd(usize),
    /// The bytes are not understood.
    Unknown,
}

/// Merges the chunks of the answers on one connection.
#[derive(Debug, Default)]
pub(super) struct ChunkMerger {
    position: Position,
}

/// A chunk at the front of some bytes.
struct Chunk<'b> {
    size: u64,
    /// The payload, as far as it has arrived.
    payload: &'b [u8],
    /// The bytes behind the payload.
    behind: &'b [u8],
}

/// The bytes at a place where a chunk may begin.
enum Front<'b> {
    Chunk(Chunk<'b>),
    /// The end of the body, and the bytes behind it.
    End(&'b [u8]),
    /// Too few bytes to tell.
    Cut,
    Unknown,
}

impl ChunkMerger {
    /// A request is written. The server answers it next, unless it is still answering.
    pub(super) fn request(&mut self) {
        if matches!(self.position, Position::Between | Position::Body) {
            self.position = Position::Head(Vec::new());
        }
    }

    /// Returns true if bytes pass as they are, so that they need no look.
    pub(super) fn is_idle(&self) -> bool {
        matches!(
            self.position,
            Position::Between | Position::Body | Position::Unknown
        )
    }

    /// Takes bytes of the server, and hands what stands for them to `put`: never more bytes than have been taken. A size line
    /// that has not arrived to its end is held back.
    pub(super) fn take(&mut self, mut bytes: &[u8], put: &mut impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            bytes = match &mut self.position {
                Position::Between | Position::Body | Position::Unknown => {
                    put(bytes);
                    return;
                }
                Position::Head(head) => {
                    let (position, length) = after_head(head, bytes);
                    put(&bytes[..length]);
                    self.position = position;
                    &bytes[length..]
                }
                Position::Payload(left) => {
                    let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    put(&bytes[..length]);
                    *left -= length as u64;
                    if *left == 0 {
                        self.position = Position::PayloadEnd(2);
                    }
                    &bytes[length..]
                }
                Position::PayloadEnd(left) => {
                    let expected = b"\r\n"[2 - *left];
                    *left -= 1;
                    if bytes[0] != expected {
                        self.position = Position::Unknown;
                        continue;
                    }
                    if *left == 0 {
                        self.position = Position::Size(Vec::new());
                    }
                    put(&bytes[..1]);
                    &bytes[1..]
                }
                Position::Size(begun) if begun.is_empty() => self.take_chunks(bytes, put),
                // The beginning of a size line is here: the rest of it completes it byte by byte.
                Position::Size(begun) => {
                    begun.push(bytes[0]);
                    if !matches!(front(begun), Front::Cut) {
                        let begun = std::mem::take(begun);
                        // Bytes that are not understood come back, and pass as they are.
                        let unknown = self.take_chunks(&begun, put);
                        put(unknown);
                    }
                    &bytes[1..]
                }
            };
        }
    }

    /// The server has closed the connection: bytes that were held back.
    pub(super) fn held_back(&mut self) -> Vec<u8> {
        match std::mem::replace(&mut self.position, Position::Unknown) {
            Position::Size(begun) => begun,
            _ => Vec::new(),
        }
    }

    /// Takes the chunks at the front of the bytes, and returns the bytes behind them.
    fn take_chunks<'b>(&mut self, bytes: &'b [u8], put: &mut impl FnMut(&[u8])) -> &'b [u8] {
        let mut payloads: [&[u8]; MOST_MERGED] = [&[]; MOST_MERGED];
        let (mut count, mut size, mut rest) = (0, 0, bytes);
        // Bytes of the last chunk's payload that have not arrived, where it has not arrived to its end.
        let mut left = None;
        while count < MOST_MERGED
            && let Front::Chunk(chunk) = front(rest)
        {
            payloads[count] = chunk.payload;
            count += 1;
            size += chunk.size;
            match chunk.behind.strip_prefix(b"\r\n") {
                Some(behind) if chunk.payload.len() as u64 == chunk.size => rest = behind,
                _ => {
                    left = Some(chunk.size - chunk.payload.len() as u64);
                    rest = chunk.behind;
                    break;
                }
            }
        }
        if count > 0 {
            put(format!("{size:x}\r\n").as_bytes());
            payloads[..count].iter().for_each(|payload| put(payload));
        }
        match left {
            Some(0) => self.position = Position::PayloadEnd(2),
            Some(left) => self.position = Position::Payload(left),
            None if count > 0 => {
                put(b"\r\n");
                self.position = Position::Size(Vec::new());
            }
            None => match front(rest) {
                Front::End(behind) => {
                    put(b"0\r\n\r\n");
                    self.position = Position::Between;
                    return behind;
                }
                Front::Cut => {
                    self.position = Position::Size(rest.to_vec());
                    return &[];
                }
                Front::Chunk(_) | Front::Unknown => self.position = Position::Unknown,
            },
        }
        rest
    }
}

/// The bytes at a place where a chunk may begin. Extensions and trailers are rare, and count as unknown.
fn front(bytes: &[u8]) -> Front<'_> {
    let mut size: u64 = 0;
    let mut at = 0;
    loop {
        let Some(byte) = bytes.get(at) else {
            return Front::Cut;
        };
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if at > 0 => break,
            _ => return Front::Unknown,
        };
        size = size * 16 + u64::from(digit);
        at += 1;
        if at > MOST_DIGITS {
            return Front::Unknown;
        }
    }
    match bytes.get(at + 1) {
        Some(b'\n') => {}
        Some(_) => return Front::Unknown,
        None => return Front::Cut,
    }
    let behind = &bytes[at + 2..];
    if size == 0 {
        return match behind.strip_prefix(b"\r\n") {
            Some(behind) => Front::End(behind),
            None if b"\r\n".starts_with(behind) => Front::Cut,
            None => Front::Unknown,
        };
    }
    let arrived = behind.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    let (payload, behind) = behind.split_at(arrived);
    Front::Chunk(Chunk {
        size,
        payload,
        behind,
    })
}

/// The position behind these bytes of a head, or at its end if it is among them, and how many of the bytes belong to it.
/// `begun` holds the bytes of the head before them.
fn after_head(begun: &mut Vec<u8>, bytes: &[u8]) -> (Position, usize) {
    // The usual head arrives at once, and needs no copy.
    if begun.is_empty()
        && let Some(end) = head_end(bytes, 0)
    {
        return (behind_head(&bytes[..end]), end);
    }
    let before = begun.len();
    begun.extend_from_slice(&bytes[..bytes.len().min(LONGEST_HEAD)]);
    // The end may have begun in the bytes before.
    match head_end(begun, before.saturating_sub(3)) {
        Some(end) => (behind_head(&begun[..end]), end - before),
        None if begun.len() < LONGEST_HEAD => (Position::Head(std::mem::take(begun)), bytes.len()),
        None => (Position::Unknown, bytes.len()),
    }
}

/// The place behind the head of an answer whose end is not in front of `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let end = memchr::memmem::find(&bytes[from..], b"\r\n\r\n")?;
    Some(from + end + 4)
}

fn behind_head(head: &[u8]) -> Position {
    match head.strip_prefix(b"HTTP/1.1 ") {
        Some([b'1', ..]) => Position::Head(Vec::new()),
        Some(rest) if rest.starts_with(b"200") && is_chunked(head) => Position::Size(Vec::new()),
        Some(_) => Position::Body,
        None => Position::Unknown,
    }
}

/// Returns true if the body behind this head comes in chunks, and is not coded otherwise.
fn is_chunked(head: &[u8]) -> bool {
    const NAME: &[u8] = b"transfer-encoding:";
    let mut codings = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then(|| value.trim_ascii())
    });
    codings
        .next()
        .is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}
