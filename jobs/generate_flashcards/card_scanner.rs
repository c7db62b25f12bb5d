//! Finds cards in a text that a model wrote, with any text around them.
//!
//! A model is asked for one JSON object, and may write a Markdown fence around it, its reasoning before it, an
//! apology after it, an array instead of the object, or stop in the middle. The scanner therefore does not parse a
//! document. It walks over the text once and reports each complete JSON object that has a front and a back, at any
//! depth. It also reads what is nearly JSON: raw line breaks and unescaped quotes in strings, trailing commas, single
//! or typographic quotes, unquoted keys, comments.
//!
//! The scanner keeps one card and a bounded stack, never a tree of the text, so memory stays a small multiple of the
//! input.

use std::{borrow::Cow, cell::Cell, ops::ControlFlow};

mod fields;
pub(super) mod growing;
mod reasoning;
mod syntax;
#[cfg(test)]
mod tests;

pub(super) use fields::RawCard;
use fields::{CardField, FieldMatch, PartialCard};
use reasoning::without_reasoning;
use syntax::{begins_container, begins_with_key, begins_with_quote, decoded, is_padding, unescaped};

/// Containers deeper than this are skipped: no deck nests so deep.
const DEEPEST: usize = 32;
/// A decoded JSON string can hold another JSON text, once or twice.
const MOST_ENCODINGS: usize = 2;

/// How a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanEnd {
    /// Every object and array was closed, or the consumer had enough.
    Complete,
    /// The text ended inside an object or an array.
    CutOff,
}

/// Hands each complete card in the text to `consume`, in order, until it breaks off.
pub(super) fn scan(text: &str, consume: &mut dyn FnMut(RawCard) -> ControlFlow<()>) -> ScanEnd {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MOST_ENCODINGS {
        match decoded(&text) {
            Some(decoded) => text = Cow::Owned(decoded),
            None => break,
        }
    }
    let mut state = ScanState::default();
    CardScanner::new(without_reasoning(&text), &mut state, consume, MOST_ENCODINGS).run()
}

/// One open container.
enum OpenContainer {
    Object {
        /// The card so far; an object without a card's fields needs none.
        card: Option<Box<PartialCard>>,
        /// The field of the key that was read last, where it is one of a card's.
        field: Option<FieldMatch>,
        /// The key that was read last, where it names no field.
        key: Option<String>,
        /// True if a key comes next, and not a value.
        expects_key: bool,
        /// True if the object holds cards.
        has_cards: bool,
        /// True if one of its keys names a front, with or without a value.
        names_front: bool,
    },
    Array {
        /// The field of the card around it that collects its texts.
        field: Option<FieldMatch>,
    },
}

/// How far a scan has come. It knows nothing of the text, which may grow between two steps.
#[derive(Default)]
struct ScanState {
    /// Byte offset, always at a character's start.
    at: usize,
    stack: Vec<OpenContainer>,
    /// Open containers beyond [`DEEPEST`].
    skipped: usize,
    /// True if the consumer had enough.
    is_done: bool,
}

struct CardScanner<'t, 's, 'c> {
    text: &'t str,
    state: &'s mut ScanState,
    consume: &'c mut dyn FnMut(RawCard) -> ControlFlow<()>,
    /// How many more JSON texts within strings are read.
    encodings: usize,
    /// True if the text may grow: what depends on its end is then left for later.
    grows: bool,
    /// Set when a decision has depended on the end of the text.
    saw_end: Cell<bool>,
}

impl<'t, 's, 'c> CardScanner<'t, 's, 'c> {
    fn new(
        text: &'t str,
        state: &'s mut ScanState,
        consume: &'c mut dyn FnMut(RawCard) -> ControlFlow<()>,
        encodings: usize,
    ) -> Self {
        Self {
            text,
            state,
            consume,
            encodings,
            grows: false,
            saw_end: Cell::new(false),
        }
    }

    fn run(&mut self) -> ScanEnd {
        while let Some(next) = self.peek().filter(|_| !self.state.is_done) {
            let from = self.state.at;
            if self.state.stack.is_empty() {
                self.outside(next);
            } else {
                self.inside(next);
            }
            if self.waits() {
                self.state.at = from;
                break;
            }
        }
        match self.state.is_done || self.state.stack.is_empty() {
            true => ScanEnd::Complete,
            false => ScanEnd::CutOff,
        }
    }

    /// Returns true if the last decision may be another one when the text goes on.
    fn waits(&self) -> bool {
        self.grows && self.saw_end.get()
    }

    fn peek(&self) -> Option<char> {
        self.text[self.state.at..].chars().next()
    }

    /// Text around the JSON: only the beginning of a container matters.
    fn outside(&mut self, next: char) {
        let begins = begins_container(&self.text[self.state.at..], &self.saw_end);
        if self.waits() {
            return;
        }
        if begins {
            return self.open(next);
        }
        self.state.at += next.len_utf8();
        let rest = &self.text[self.state.at..];
        self.state.at += rest.find(['{', '[']).unwrap_or(rest.len());
    }

    fn inside(&mut self, next: char) {
        match next {
            '{' | '[' => self.open(next),
            '}' | ']' => {
                self.state.at += 1;
                self.close();
            }
            ',' => {
                self.state.at += 1;
                if let Some(OpenContainer::Object {
                    field,
                    key,
                    expects_key,
                    ..
                }) = self.top()
                {
                    (*field, *key, *expects_key) = (None, None, true);
                }
            }
            ':' => {
                self.state.at += 1;
                if let Some(OpenContainer::Object { expects_key, .. }) = self.top() {
                    *expects_key = false;
                }
            }
            '"' | '\'' | '\u{201c}' | '\u{201e}' => {
                let text = self.string(next);
                if !self.waits() {
                    self.token(text, true);
                }
            }
            '/' if self.grows && self.text[self.state.at..].len() == 1 => self.saw_end.set(true),
            '/' if self.text[self.state.at..].starts_with("//") => self.skip_past("\n"),
            '/' if self.text[self.state.at..].starts_with("/*") => self.skip_past("*/"),
            c if is_padding(c) => self.state.at += c.len_utf8(),
            _ => {
                let text = self.bare_token();
                if !self.waits() {
                    self.token(Cow::Borrowed(text), false);
                }
            }
        }
    }

    /// The frame that is scanned, unless it is too deep to matter.
    fn top(&mut self) -> Option<&mut OpenContainer> {
        self.state.stack.last_mut().filter(|_| self.state.skipped == 0)
    }

    fn open(&mut self, bracket: char) {
        self.state.at += 1;
        if self.state.stack.len() == DEEPEST || self.state.skipped > 0 {
            self.state.skipped += 1;
            return;
        }
        self.state.stack.push(match bracket {
            '{' => OpenContainer::Object {
                card: None,
                field: None,
                key: None,
                expects_key: true,
                has_cards: false,
                names_front: false,
            },
            _ => OpenContainer::Array {
                field: match self.state.stack.last() {
                    Some(OpenContainer::Object { field, .. }) => *field,
                    _ => None,
                },
            },
        });
    }

    /// Closes the innermost container, whichever bracket closes it: a model can confuse them.
    fn close(&mut self) {
        if self.state.skipped > 0 {
            self.state.skipped -= 1;
            return;
        }
        let Some(OpenContainer::Object {
            card: Some(mut card),
            has_cards,
            names_front,
            ..
        }) = self.state.stack.pop()
        else {
            return;
        };
        if !names_front {
            self.name_by_key(&mut card);
        }
        // A group of cards can have a name and a description of its own.
        let is_group = has_cards && !card.is_exact(CardField::Front);
        if is_group || card.text(CardField::Front).is_none() || !card.has_other_side() {
            return self.stands_for_text(*card);
        }
        for field in [CardField::Topic, CardField::Difficulty] {
            self.inherit(&mut card, field);
        }
        for frame in &mut self.state.stack {
            if let OpenContainer::Object { has_cards, .. } = frame {
                *has_cards = true;
            }
        }
        if let Some(card) = card.finish() {
            self.state.is_done = (self.consume)(card).is_break();
        }
    }

    /// Cards can be members of an object that are named by their fronts: `{"la célula": {"back": "the cell"}}`.
    fn name_by_key(&self, card: &mut PartialCard) {
        let sides = [CardField::Back, CardField::Translation, CardField::Definition];
        let has_side = sides.into_iter().any(|side| card.is_exact(side));
        if let Some(OpenContainer::Object { key: Some(key), .. }) = self.state.stack.last()
            && has_side
        {
            let front = FieldMatch {
                field: CardField::Front,
                is_exact: false,
            };
            card.set(front, Cow::Borrowed(key));
        }
    }

    /// An object that is no card may stand in place of a text of the card around it.
    fn stands_for_text(&mut self, inner: PartialCard) {
        let holder = match self.state.stack.as_mut_slice() {
            [.., OpenContainer::Object { card, field, .. }] => (*field).map(|field| (card, field)),
            // One of several: "examples": [{"text": …}, …].
            [
                ..,
                OpenContainer::Object { card, .. },
                OpenContainer::Array { field },
            ] => (*field).map(|field| (card, field)),
            _ => None,
        };
        if let Some((card, field)) = holder {
            card.get_or_insert_default().set_from(field, inner);
        }
    }

    /// Cards can be grouped below the topic or the difficulty that they share.
    fn inherit(&self, card: &mut PartialCard, field: CardField) {
        if card.text(field).is_some() {
            return;
        }
        let shared = self.state.stack.iter().rev().find_map(|frame| match frame {
            OpenContainer::Object { card: Some(card), .. } => card.text(field),
            _ => None,
        });
        if let Some(text) = shared {
            let key = FieldMatch {
                field,
                is_exact: false,
            };
            card.set(key, Cow::Borrowed(text));
        }
    }

    /// A key or a value was read.
    fn token(&mut self, text: Cow<'t, str>, is_quoted: bool) {
        if self.state.skipped > 0 {
            return;
        }
        let is_null = !is_quoted && matches!(&*text, "null" | "None" | "undefined" | "NaN");
        match self.state.stack.last_mut() {
            Some(OpenContainer::Object {
                field,
                key,
                expects_key,
                names_front,
                ..
            }) if *expects_key => {
                *field = FieldMatch::of(&text);
                *names_front |= field.is_some_and(|key| key.field == CardField::Front);
                *key = field.is_none().then(|| text.into_owned());
            }
            // The field is taken, so that debris behind the value does not replace it. A comma may be missing.
            Some(OpenContainer::Object {
                card,
                field,
                expects_key,
                ..
            }) => {
                *expects_key = true;
                match field.take() {
                    Some(field) if !is_null => {
                        card.get_or_insert_default().set(field, Cow::Borrowed(&text));
                        // "answer" and "content" can hold a whole deck.
                        if is_quoted && !field.is_exact {
                            self.encoded(&text);
                        }
                    }
                    None if is_quoted => self.encoded(&text),
                    _ => {}
                }
            }
            Some(OpenContainer::Array { field: Some(field) }) if !is_null => {
                let field = *field;
                if let [.., OpenContainer::Object { card, .. }, _] = self.state.stack.as_mut_slice() {
                    card.get_or_insert_default().append(field, &text);
                }
            }
            _ => {}
        }
    }

    /// Reads a string that holds a JSON text: some models write the array of cards as a string.
    fn encoded(&mut self, text: &str) {
        let is_json = text.trim_start_matches(is_padding).starts_with(['{', '[', '`']);
        if is_json && self.encodings > 0 {
            let (text, mut state) = (without_reasoning(text), ScanState::default());
            CardScanner::new(text, &mut state, &mut *self.consume, self.encodings - 1).run();
            self.state.is_done = state.is_done;
        }
    }

    fn skip_past(&mut self, end: &str) {
        let rest = &self.text[self.state.at..];
        self.state.at += rest.find(end).map_or_else(
            || {
                self.saw_end.set(true);
                rest.len()
            },
            |at| at + end.len(),
        );
    }

    /// A number, a literal, an unquoted key, or debris.
    fn bare_token(&mut self) -> &'t str {
        let rest = &self.text[self.state.at..];
        let ends = |c: char| matches!(c, ',' | ':' | '{' | '}' | '[' | ']' | '"') || is_padding(c);
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let length = first
            + rest[first..].find(ends).unwrap_or_else(|| {
                self.saw_end.set(true);
                rest.len() - first
            });
        self.state.at += length;
        &rest[..length]
    }

    /// A string, from its opening quote to past its closing one, or to the text's end.
    fn string(&mut self, open: char) -> Cow<'t, str> {
        let close = match open {
            '\u{201c}' | '\u{201e}' => ['\u{201d}', '\u{201c}'],
            quote => [quote, quote],
        };
        self.state.at += open.len_utf8();
        let start = self.state.at;
        let is_key = matches!(
            self.state.stack.last(),
            Some(OpenContainer::Object {
                expects_key: true,
                ..
            })
        );
        loop {
            let rest = &self.text[self.state.at..];
            let Some(found) = rest.find([close[0], close[1], '\\']) else {
                self.saw_end.set(true);
                self.state.at = self.text.len();
                return unescaped(&self.text[start..]);
            };
            self.state.at += found;
            let Some(mark) = self.peek() else { continue };
            let end = self.state.at;
            self.state.at += mark.len_utf8();
            if mark == '\\' {
                self.state.at += self.peek().map_or(0, char::len_utf8);
            } else if self.ends_string(is_key) {
                return unescaped(&self.text[start..end]);
            }
        }
    }

    /// Returns true if the quote that was just passed ends its string. Models forget to escape quotes, so the quote
    /// counts only where JSON can go on after it. In valid JSON every closing quote passes.
    fn ends_string(&self, is_key: bool) -> bool {
        let rest = self.text[self.state.at..].trim_start_matches(is_padding);
        let in_object = matches!(self.state.stack.last(), Some(OpenContainer::Object { .. }));
        match rest.chars().next() {
            None => {
                self.saw_end.set(true);
                true
            }
            Some('}' | ']') => true,
            Some(':') => is_key,
            Some(',') if in_object => {
                let rest = rest[1..].trim_start_matches(is_padding);
                self.saw_end.set(self.saw_end.get() || rest.is_empty());
                rest.is_empty() || rest.starts_with(['}', ']', '/']) || begins_with_key(rest, &self.saw_end)
            }
            Some(',') => true,
            // A comment, or a forgotten comma before the next key.
            Some('/') => {
                self.saw_end.set(self.saw_end.get() || rest.len() == 1);
                rest.starts_with("//") || rest.starts_with("/*")
            }
            Some(_) => in_object && begins_with_quote(rest) && begins_with_key(rest, &self.saw_end),
        }
    }
}
