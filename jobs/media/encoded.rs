//! Base64 as it arrives: in one of many spellings, and changed by the forms, shells and templates on its way. What was
//! changed is either restored without doubt or refused: a guess would send a corrupt file, and pay for it.

use std::borrow::Cow;

use base64::DecodeError;

use super::too_large;
use crate::{Failure, text::is_invisible};

mod base64_shape;
#[cfg(test)]
pub(super) mod tests;

use base64_shape::{Base64Shape, join};

/// Characters of a data URL before its content that are looked at.
const LONGEST_HEAD: usize = 256;
/// Times that a text was percent-encoded, and prefixes that it has, at most.
const MOST_LAYERS: usize = 3;
/// Columns at which encoders break lines: MIME, PEM, and two more.
const WIDTHS: [usize; 4] = [76, 64, 72, 60];
/// Lines of one length after which blanks between them cannot have been `+`.
const SURELY_WRAPPED: usize = 4;

/// Whether a text holds a file instead of its address: a data URL, perhaps percent-encoded, or one that lost its
/// `data:`.
pub(crate) fn is_content(text: &str) -> bool {
    let text = unquoted(text).trim_start_matches(|c: char| c.is_whitespace() || is_invisible(c));
    let starts_with = |scheme: &str| {
        text.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    starts_with("data:") || starts_with("data%3a") || head_and_body(text).is_some()
}

/// Whether a text that stands in place of an address is base64: long, and nothing else.
pub(crate) fn is_bare_base64(text: &str) -> bool {
    const SHORTEST: usize = 256;
    let is_symbol = |b: u8| b.is_ascii_alphanumeric() || b"+/=-_ \r\n".contains(&b);
    text.len() >= SHORTEST && text.bytes().all(is_symbol)
}

/// Whether a text that should be base64 is an address.
pub(crate) fn is_address(text: &str) -> bool {
    let scheme = text.trim_start().split("://").next().unwrap_or_default();
    scheme.len() < text.trim_start().len()
        && (1..=20).contains(&scheme.len())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// The bytes that a text stands for, no more than `max_bytes`. `field` is the payload field's name for errors, which
/// quote nothing of the text.
pub(super) fn decode(field: &str, text: &str, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let refused = |why: &str| Failure::invalid_field(field, why);
    let ambiguous = || {
        refused(
            "is not valid base64: its blanks may have been `+` or line breaks; send it as JSON, or percent-encoded in \
             a form",
        )
    };
    let (visible, is_edited) = visible(text);
    let text = &*visible;
    let body = body(text).ok_or_else(|| refused("is a data URL without base64 content"))?;
    let body = match body.contains(' ') {
        true if is_edited && body.trim().contains(' ') => return Err(ambiguous()),
        // Each `+` was percent-encoded: a blank was none.
        true if is_encoded(text, "2b") => Cow::Owned(body.replace(' ', "")),
        // Lines were broken after the text was percent-encoded, or `+` became a blank before.
        true if is_encoded(text, "2f") => return Err(ambiguous()),
        _ => body,
    };
    let body = unwrapped(&body)
        .map_err(|()| ambiguous())?
        .map_or(body, Cow::Owned);
    let shape = Base64Shape::of(&body);
    if shape.symbols as u64 / 4 * 3 > max_bytes {
        return Err(too_large(field, max_bytes));
    }
    if let Some(at) = shape.fault {
        let why = format!("is not valid base64: a character at {at} is none of its symbols");
        return Err(Failure::invalid_field(field, why));
    }
    let blanks = shape.blanks().ok_or_else(ambiguous)?;
    let bytes = join(&body, blanks, shape.symbols).map_err(|fault| {
        let why = match fault {
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => "it ends within a group",
            DecodeError::InvalidLastSymbol { .. } => "its last symbol is cut off or changed",
            DecodeError::InvalidByte(..) => "a character is none of its symbols",
        };
        Failure::invalid_field(field, format_args!("is not valid base64: {why}"))
    })?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(field, max_bytes));
    }
    Ok(bytes)
}

/// Returns true if a text holds this character percent-encoded, once or more often: `%2B`, `%252B`. `code` is in lower
/// case.
fn is_encoded(text: &str, code: &str) -> bool {
    text.match_indices('%').any(|(at, _)| {
        let digits = text[at + 1..].trim_start_matches("25");
        digits
            .get(..2)
            .is_some_and(|digits| digits.eq_ignore_ascii_case(code))
    })
}

/// The base64 in a text: behind the head of a data URL, and without percent-encoding. `None` for a data URL that
/// holds no base64.
fn body(text: &str) -> Option<Cow<'_, str>> {
    let mut text = Cow::Borrowed(unquoted(text));
    for _ in 0..MOST_LAYERS {
        // A text that was encoded twice holds encoded percent signs.
        for _ in 0..MOST_LAYERS {
            if !text.contains('%') {
                break;
            }
            text = Cow::Owned(percent_decoded(&text));
        }
        let Some(rest) = head_and_body(text.trim_start()) else {
            let start = text.trim_start().get(..5);
            let is_data_url = start.is_some_and(|start| start.eq_ignore_ascii_case("data:"));
            return (!is_data_url).then_some(text);
        };
        let cut = text.len() - rest.len();
        text = match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[cut..]),
            Cow::Owned(mut text) => Cow::Owned(text.split_off(cut)),
        };
    }
    Some(text)
}

/// Without the invisible characters that editors, chats and copied pages leave in a text; their blanks and line breaks
/// become those of ASCII. And whether any were left out, or blanks of two kinds are there: they counted when lines were
/// broken, and no column tells then which blanks were line breaks.
fn visible(text: &str) -> (Cow<'_, str>, bool) {
    if text.is_ascii() {
        return (Cow::Borrowed(text), false);
    }
    let has_blanks = text.contains(' ');
    let (mut visible, mut is_edited) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        match c {
            '\u{2028}' | '\u{2029}' | '\u{85}' => visible.push('\n'),
            c if !c.is_ascii() && c.is_whitespace() => {
                is_edited |= has_blanks;
                visible.push(' ');
            }
            '\u{200c}' | '\u{200d}' => is_edited = true,
            c if !c.is_ascii() && is_invisible(c) => is_edited = true,
            c => visible.push(c),
        }
    }
    (Cow::Owned(visible), is_edited)
}

/// The rest of a data URL behind its head, with or without `data:`.
fn head_and_body(text: &str) -> Option<&str> {
    let is_between_codecs = |head: &str| {
        let last = head.rsplit(';').next().unwrap_or_default();
        last.trim_start()
            .get(..7)
            .is_some_and(|name| name.eq_ignore_ascii_case("codecs="))
    };
    let mut commas = text.bytes().take(LONGEST_HEAD).enumerate();
    let comma =
        commas.find_map(|(at, byte)| (byte == b',' && !is_between_codecs(&text[..at])).then_some(at))?;
    let head = text[..comma].to_ascii_lowercase();
    let is_base64 = head.split(';').any(|part| part.trim() == "base64")
        && (head.starts_with("data:") || head.trim() == "base64" || head.contains('/'))
        && !head.contains("://");
    is_base64.then(|| &text[comma + 1..])
}

/// Without the quotes around a text that was written as JSON twice, without line breaks around it, and without the
/// NULs of a C string. Blanks stay: they may have been `+`.
fn unquoted(text: &str) -> &str {
    let trimmed = text.trim();
    let quoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| trimmed.strip_prefix(quote)?.strip_suffix(quote));
    quoted.unwrap_or_else(|| text.trim_matches(['\r', '\n', '\t', '\0']))
}

/// `%2B` becomes `+`. A percent sign that begins no such triple stays, and is refused later.
fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind
            .get(..2)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
            .filter(|_| byte == b'%');
        match code {
            Some(code) => {
                decoded.push(code);
                rest = &behind[2..];
            }
            None => {
                decoded.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Without the blanks that line breaks of the usual widths became; `Ok(None)` where there are none. Such a text may
/// hold blanks that were `+` as well.
///
/// # Errors
/// When a few blanks stand where lines would end, and may as well have been `+`.
fn unwrapped(text: &str) -> Result<Option<String>, ()> {
    let text = text.trim_start();
    if !text.contains(' ') || text.contains(['\r', '\n', '\t', '\\']) {
        return Ok(None);
    }
    let columns = WIDTHS.into_iter().flat_map(|width| [(width, 1), (width, 2)]);
    let mut found = columns.filter_map(|(width, gap)| joined(text.as_bytes(), width, gap));
    let Some((ends, joined)) = found.next() else {
        return Ok(None);
    };
    // Of a few lines, a `+` may stand at a column of an encoder.
    if ends < SURELY_WRAPPED && found.next().is_some() {
        return Err(());
    }
    // Without padding the text may have been cut, and with one of two `=` as well.
    let is_padded = text.trim_end().ends_with('=');
    match (ends, is_in_groups(&joined), is_in_groups(text)) {
        (SURELY_WRAPPED.., ..) => Ok(Some(joined)),
        (_, true, false) if is_padded => Ok(Some(joined)),
        _ => Err(()),
    }
}

/// How many lines of so many symbols blanks end, and the lines without those blanks; `None` where they have other lengths.
fn joined(text: &[u8], width: usize, gap: usize) -> Option<(usize, String)> {
    let ends = text.len() / (width + gap);
    let lines = || text.chunks(width + gap);
    let is_wrapped = ends > 0
        && lines()
            .take(ends)
            .all(|line| line[width..].iter().all(|b| *b == b' '))
        && lines().nth(ends).is_none_or(|last| last.len() <= width);
    if !is_wrapped {
        return None;
    }
    let joined: Vec<u8> = lines()
        .flat_map(|line| &line[..line.len().min(width)])
        .copied()
        .collect();
    Some((ends, String::from_utf8(joined).ok()?))
}

/// Whether symbols, blanks and padding are groups of four.
fn is_in_groups(text: &str) -> bool {
    text.trim_end_matches(' ').len().is_multiple_of(4)
}
