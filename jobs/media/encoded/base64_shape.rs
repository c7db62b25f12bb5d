//! The symbols, blanks and padding of a text that should be base64, and which of the blanks were `+`.

use base64::{DecodeError, Engine, engine::general_purpose::STANDARD_NO_PAD};

use super::SURELY_WRAPPED;

/// Shortest line of base64 that was wrapped: its line breaks may have become blanks.
const SHORTEST_LINE: usize = 32;

/// A piece of a text that should be base64.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base64Token {
    Symbol(u8),
    /// Blanks in a row, and where.
    Blanks(usize, BlankPosition),
    /// A line break, or another white space that no `+` becomes.
    Break,
    Pad,
    /// Anything else.
    Foreign,
}

/// Where blanks stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BlankPosition {
    /// Between symbols, or before the padding.
    Inner,
    /// Beside a line break.
    Edge,
    /// Before all symbols, or behind all. No medium begins with a byte whose base64 begins with `+`.
    Outer,
}

/// Splits a text into tokens, each with its offset.
fn tokens(text: &str) -> impl Iterator<Item = (usize, Base64Token)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut last = None;
    std::iter::from_fn(move || {
        let start = at;
        let byte = *bytes.get(at)?;
        at += 1;
        let token = match byte {
            b'-' => Base64Token::Symbol(b'+'),
            b'_' => Base64Token::Symbol(b'/'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => Base64Token::Symbol(byte),
            b'=' => Base64Token::Pad,
            b'\r' | b'\n' | b'\t' | 0x0b | 0x0c => Base64Token::Break,
            // Escapes of a text that was written as JSON twice.
            b'\\' => match bytes.get(at) {
                Some(b'n' | b'r' | b't') => {
                    at += 1;
                    Base64Token::Break
                }
                Some(b'/') => {
                    at += 1;
                    Base64Token::Symbol(b'/')
                }
                _ => Base64Token::Foreign,
            },
            b' ' => {
                at += bytes[at..].iter().take_while(|b| **b == b' ').count();
                let place = match (last, bytes.get(at)) {
                    (None | Some(Base64Token::Pad), _) | (_, None) => BlankPosition::Outer,
                    (Some(Base64Token::Break), _) | (_, Some(b'\r' | b'\n' | b'\t')) => BlankPosition::Edge,
                    _ => BlankPosition::Inner,
                };
                Base64Token::Blanks(at - start, place)
            }
            _ => Base64Token::Foreign,
        };
        last = Some(token);
        Some((start, token))
    })
}

/// The shape of a text, found before any symbol of it is decoded.
#[derive(Default)]
pub(super) struct Base64Shape {
    pub(super) symbols: usize,
    pads: usize,
    inner: usize,
    edge: usize,
    outer: usize,
    /// Lines of the same length that blanks end; 0 where their lengths differ.
    lines: usize,
    /// Offset of a character that cannot be.
    pub(super) fault: Option<usize>,
}

/// Which blanks were `+`; the others are left out.
#[derive(Clone, Copy)]
pub(super) struct PlusPositions {
    inner: bool,
    edge: bool,
}

impl Base64Shape {
    pub(super) fn of(text: &str) -> Self {
        let mut shape = Self::default();
        // The first line tells how long all of them have to be.
        let (mut line, mut first, mut is_regular) = (0, 0, true);
        for (at, token) in tokens(text) {
            match token {
                Base64Token::Symbol(_) => {
                    if shape.pads > 0 {
                        shape.fault.get_or_insert(at);
                    }
                    shape.symbols += 1;
                    line += 1;
                }
                Base64Token::Pad => shape.pads += 1,
                Base64Token::Break => {}
                Base64Token::Foreign => {
                    // It is measured like a symbol, before it is judged.
                    shape.symbols += 1;
                    shape.fault.get_or_insert(at);
                }
                Base64Token::Blanks(count, BlankPosition::Outer) => shape.outer += count,
                Base64Token::Blanks(count, place) => {
                    match place {
                        BlankPosition::Inner => shape.inner += count,
                        _ => shape.edge += count,
                    }
                    // Blanks on both sides of a line break end the same line.
                    if line > 0 {
                        first = if shape.lines == 0 { line } else { first };
                        is_regular &= line == first;
                        shape.lines += 1;
                        line = 0;
                    }
                }
            }
        }
        is_regular &= line <= first && first >= SHORTEST_LINE && first.is_multiple_of(4);
        if !is_regular {
            shape.lines = 0;
        }
        shape
    }

    /// Whether so many symbols fill whole groups, with the padding that is there.
    fn is_whole(&self, symbols: usize) -> bool {
        (symbols + self.pads).is_multiple_of(4) && self.pads <= 2
    }

    /// Whether so many symbols can be: padding may be lost.
    fn is_possible(&self, symbols: usize) -> bool {
        symbols % 4 != 1 && (self.pads == 0 || !symbols.is_multiple_of(4) || symbols == 0)
    }

    /// Which blanks were `+`; `None` where that cannot be told.
    pub(super) fn blanks(&self) -> Option<PlusPositions> {
        let none = PlusPositions {
            inner: false,
            edge: false,
        };
        let (symbols, all) = (self.symbols, self.symbols + self.inner + self.edge);
        if self.inner + self.edge == 0 {
            let missing = (4 - symbols % 4) % 4;
            // Blanks at the end may have been `+`, or a line break of a text that was cut or has lost its padding.
            let may_fill = missing > 0 && self.pads == 0 && self.outer >= missing;
            return (!may_fill).then_some(none);
        }
        match (self.lines, self.is_whole(symbols)) {
            (SURELY_WRAPPED.., true) => return Some(none),
            (SURELY_WRAPPED.., false) => return None,
            (2.., true) if !self.is_whole(all) && self.pads > 0 => return Some(none),
            _ => {}
        }
        let inner = PlusPositions { inner: true, ..none };
        let pluses = PlusPositions { edge: true, ..inner };
        // Blanks beside a line break may be its indentation.
        match (
            self.is_whole(all),
            self.edge > 0 && self.is_whole(symbols + self.inner),
        ) {
            // Without padding, the text may have been cut, or have lost it: then the other reading is as likely.
            (true, false) if self.edge > 0 && self.pads == 0 => None,
            (false, true) if self.pads == 0 => None,
            (true, false) => Some(pluses),
            (false, true) => Some(inner),
            (true, true) => None,
            (false, false) if self.edge > 0 => None,
            (false, false) if self.outer > 0 && self.pads == 0 => None,
            (false, false) => self.is_possible(all).then_some(pluses),
        }
    }
}

/// Decodes the symbols of a text in pieces of whole groups: the text is long, and need not be in memory twice.
pub(super) fn join(text: &str, plus: PlusPositions, symbols: usize) -> Result<Vec<u8>, DecodeError> {
    let mut standard = tokens(text).flat_map(|(_, token)| {
        let (symbol, count) = match token {
            Base64Token::Symbol(symbol) => (symbol, 1),
            Base64Token::Blanks(count, BlankPosition::Inner) if plus.inner => (b'+', count),
            Base64Token::Blanks(count, BlankPosition::Edge) if plus.edge => (b'+', count),
            _ => (0, 0),
        };
        std::iter::repeat_n(symbol, count)
    });
    let (mut bytes, mut piece) = (Vec::with_capacity(symbols / 4 * 3 + 3), [0; 4096]);
    loop {
        let mut length = 0;
        for (place, symbol) in piece.iter_mut().zip(&mut standard) {
            *place = symbol;
            length += 1;
        }
        STANDARD_NO_PAD.decode_vec(&piece[..length], &mut bytes)?;
        if length < piece.len() {
            return Ok(bytes);
        }
    }
}
