//! The syntax of what is nearly JSON: where containers, keys and strings begin and end, and the text of a string.

use std::{borrow::Cow, cell::Cell};

use crate::text::without_lone_surrogates;

/// Longest key that is looked for after a comma or a quote, bytes: a text may hold a quote at every other place.
const LONGEST_KEY: usize = 80;

/// The text in a text that is one JSON string as a whole, or the inside of one: the model encoded its answer twice.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut text = text.trim_matches(is_padding);
    if let Some((_, inside)) = text.strip_prefix("```").and_then(|rest| rest.split_once('\n')) {
        text = inside.trim_matches(|c| is_padding(c) || c == '`');
    }
    if let Some(inside) = text.strip_prefix('"') {
        let whole = serde_json::from_str(&without_lone_surrogates(text)).ok();
        // Without its end where the answer was cut off.
        return whole.or_else(|| has_escaped_quotes(inside).then(|| unescaped(inside).into_owned()));
    }
    has_escaped_quotes(text).then(|| unescaped(text).into_owned())
}

/// Returns true for `{\"flashcards\": …`.
pub(super) fn has_escaped_quotes(json: &str) -> bool {
    json.starts_with(['{', '['])
        && json
            .split_once('"')
            .is_some_and(|(before, _)| before.ends_with('\\'))
}

pub(super) fn is_padding(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

/// Returns true if a text begins with an object or an array that can hold cards. Brackets in prose do not: "in [0, 1)".
/// `saw_end` is set where that depends on how the text goes on.
pub(super) fn begins_container(text: &str, saw_end: &Cell<bool>) -> bool {
    if !text.starts_with(['{', '[']) {
        return false;
    }
    let rest = text[1..].trim_start_matches(is_padding);
    saw_end.set(saw_end.get() || rest.is_empty() || rest == "/");
    let begins_with_comment = rest.starts_with("//") || rest.starts_with("/*");
    let is_cut = rest.is_empty();
    match text.chars().next() {
        Some('{') => is_cut || begins_with_comment || begins_with_key(rest, saw_end),
        Some('[') => is_cut || begins_with_comment || rest.starts_with(['{', '[']) || begins_with_quote(rest),
        _ => false,
    }
}

/// Returns true if a text begins with a key and its colon, or ends within the key. `saw_end` is set where that depends on
/// how the text goes on.
pub(super) fn begins_with_key(text: &str, saw_end: &Cell<bool>) -> bool {
    if begins_with_quote(text) {
        let mut marks = text.char_indices().skip(1);
        while let Some((at, c)) = marks.next() {
            match c {
                _ if at > LONGEST_KEY => return false,
                '\\' => drop(marks.next()),
                '"' | '\'' | '\u{201d}' if closes(text, c) => {
                    let rest = text[at + c.len_utf8()..].trim_start_matches(is_padding);
                    saw_end.set(saw_end.get() || rest.is_empty());
                    return rest.is_empty() || rest.starts_with(':');
                }
                _ => {}
            }
        }
        saw_end.set(true);
        return true;
    }
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let length = text.bytes().take(LONGEST_KEY).take_while(is_name).count();
    let rest = text[length..].trim_start_matches(is_padding);
    saw_end.set(saw_end.get() || rest.is_empty());
    length > 0 && rest.starts_with(':')
}

pub(super) fn begins_with_quote(text: &str) -> bool {
    text.starts_with(['"', '\'', '\u{201c}', '\u{201e}'])
}

/// Returns true if this quote closes a string that begins as the text does.
fn closes(text: &str, quote: char) -> bool {
    match quote {
        '\u{201d}' => text.starts_with(['\u{201c}', '\u{201e}']),
        _ => text.starts_with(quote),
    }
}

/// The text of a string's inside. Escapes that JSON does not know stay as they are.
pub(super) fn unescaped(inside: &str) -> Cow<'_, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    let inside = without_lone_surrogates(inside);
    let mut text = String::with_capacity(inside.len());
    let mut rest = &*inside;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else { break };
        rest = &rest[escape.len_utf8()..];
        match escape {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            '"' | '\\' | '/' | '\'' => text.push(escape),
            'u' => match code_point(rest) {
                Some((c, length)) => {
                    text.push(c);
                    rest = &rest[length..];
                }
                None => text.push_str("\\u"),
            },
            other => {
                text.push('\\');
                text.push(other);
            }
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character of the four or, for a surrogate pair, ten characters after `\u`, and their number.
fn code_point(digits: &str) -> Option<(char, usize)> {
    let unit = |text: &str| {
        let digits = text.get(..4)?;
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let first = unit(digits)?;
    if let Some(c) = char::from_u32(first) {
        return Some((c, 4));
    }
    let second = unit(digits.get(4..)?.strip_prefix("\\u")?)?;
    let c = 0x10000 + ((first - 0xd800) << 10) + second.checked_sub(0xdc00)?;
    Some((char::from_u32(c)?, 10))
}
