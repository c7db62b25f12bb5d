//! Takes HTML and Markdown out of the texts of a card.

use std::borrow::Cow;

use html_escape::decode_html_entities;

/// The text without tags, entities and Markdown emphasis.
pub(super) fn stripped(text: &str) -> Cow<'_, str> {
    /// An escape can hold a tag, and emphasis another one. What is nested deeper stays.
    const ROUNDS: usize = 8;
    /// No part of a card is longer, so what is longer is dropped anyway.
    const LONGEST: usize = 8 * 1024;
    let mut text = Cow::Borrowed(text);
    for _ in 0..ROUNDS {
        if text.len() > LONGEST || !text.contains(['<', '&', '*', '`']) {
            break;
        }
        let stripped = {
            let without_tags = without_tags(&text);
            let decoded = decode_html_entities(&without_tags);
            without_emphasis(&decoded).into_owned()
        };
        let is_plain = stripped.len() == text.len();
        text = Cow::Owned(stripped);
        if is_plain {
            break;
        }
    }
    text
}

/// Without the tags that models use for emphasis and layout.
fn without_tags(text: &str) -> Cow<'_, str> {
    const TAGS: [&str; 19] = [
        "b", "i", "u", "em", "strong", "span", "p", "br", "sup", "sub", "mark", "code", "div", "font",
        "small", "li", "ul", "ruby", "rb",
    ];
    if !text.contains('<') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        // No tag of a card is longer, and a text may hold a "<" at every place.
        let end = rest.bytes().take(LONGEST_TAG).position(|byte| byte == b'>');
        let tag = end.map(|end| {
            rest[1..end]
                .trim_matches('/')
                .split(' ')
                .next()
                .unwrap_or_default()
        });
        match (end, tag) {
            (Some(end), Some(tag)) if TAGS.iter().any(|known| tag.eq_ignore_ascii_case(known)) => {
                rest = &rest[end + 1..];
            }
            _ => {
                plain.push('<');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// Longest tag, bytes.
const LONGEST_TAG: usize = 200;

/// Without the asterisks and backticks that Markdown puts around words. Those of a formula stay: `2 * 3`, `2**3`.
fn without_emphasis(text: &str) -> Cow<'_, str> {
    if !text.contains(['*', '`']) {
        return Cow::Borrowed(text);
    }
    let is_mark = |c: char| matches!(c, '*' | '`');
    let mut plain = String::with_capacity(text.len());
    // Length of `plain` before the mark that is open.
    let mut opened: Option<(usize, &str)> = None;
    let mut rest = text;
    while let Some(at) = rest.find(is_mark) {
        plain.push_str(&rest[..at]);
        let marks = &rest[at..];
        let marks = &marks[..marks.find(|c| !is_mark(c)).unwrap_or(marks.len())];
        rest = &rest[at + marks.len()..];
        let (before, after) = (plain.chars().next_back(), rest.chars().next());
        if let Some((start, mark)) = opened
            && mark == marks
            && before.is_some_and(|c| !c.is_whitespace())
            && !after.is_some_and(char::is_alphanumeric)
        {
            plain.replace_range(start..start + mark.len(), "");
            opened = None;
            continue;
        }
        if opened.is_none()
            && !before.is_some_and(char::is_alphanumeric)
            && after.is_some_and(|c| !c.is_whitespace())
        {
            opened = Some((plain.len(), marks));
        }
        plain.push_str(marks);
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}
