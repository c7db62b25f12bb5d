//! Cleans texts that come from outside, so that a result can be shown, compared and stored as PostgreSQL `jsonb`.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

#[cfg(test)]
mod tests;

/// Replaces each lone surrogate escape (`\ud83d` without its partner) in JSON text by the escape of U+FFFD.
///
/// JavaScript writes such escapes when it cuts a text inside of an emoji, and no Rust string can hold them. The
/// replacement has the same length, and text without lone surrogates is returned as it is.
pub(crate) fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    const REPLACEMENT: &str = "\\ufffd";
    // A deck holds hundreds of escaped quotes, and hardly ever a surrogate.
    if !json.contains("\\ud") && !json.contains("\\uD") {
        return Cow::Borrowed(json);
    }
    let mut mended: Option<String> = None;
    let mut at = 0;
    while let Some(found) = json[at..].find('\\') {
        let start = at + found;
        at = match surrogate(json, start) {
            // Both halves are there: one character.
            Some(Half::Leading) if surrogate(json, start + 6) == Some(Half::Trailing) => start + 12,
            Some(_) => {
                mended
                    .get_or_insert_with(|| json.to_owned())
                    .replace_range(start..start + 6, REPLACEMENT);
                start + 6
            }
            // Another escape. Its second character can be a backslash, which begins no escape of its own.
            None => start + 1 + json[start + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    mended.map_or(Cow::Borrowed(json), Cow::Owned)
}

#[derive(PartialEq)]
enum Half {
    Leading,
    Trailing,
}

/// Which half of a surrogate pair is escaped at this place of a JSON text.
fn surrogate(json: &str, at: usize) -> Option<Half> {
    let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Half::Leading),
        0xdc00..=0xdfff => Some(Half::Trailing),
        _ => None,
    }
}

/// The text in Unicode's composed form (NFC), on one line, without control characters and outer blanks.
///
/// White space of any kind becomes single blanks. Zero-width joiners stay: Persian, Indic scripts and emoji need them.
pub(crate) fn clean(text: &str) -> String {
    let trimmed = text.trim_ascii();
    match is_clean(trimmed) {
        true => trimmed.to_owned(),
        false => cleaned(text),
    }
}

/// Returns true if a text without outer blanks is certainly clean. Most texts are, and need no table of Unicode.
fn is_clean(text: &str) -> bool {
    let mut was_blank = false;
    text.chars().all(|c| {
        let is_blank = c == ' ';
        let fits = match c {
            ' ' => !was_blank,
            // No controls and no blanks. Below U+0300 nothing combines with the character before it.
            '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{2ff}' => true,
            _ => false,
        };
        was_blank = is_blank;
        fits
    })
}

fn cleaned(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len().min(1024));
    let mut blank_is_due = false;
    // Filtered first: two characters that an invisible one kept apart can compose.
    let visible = text.chars().filter(|c| c.is_whitespace() || !is_invisible(*c));
    for c in visible.nfc() {
        if c.is_whitespace() {
            blank_is_due = !cleaned.is_empty();
        } else {
            if std::mem::take(&mut blank_is_due) {
                cleaned.push(' ');
            }
            cleaned.push(c);
        }
    }
    cleaned
}

/// A text without the control characters that a provider refuses or a database cannot store (NUL before all), for texts
/// of several lines: line breaks and tabs stay, a carriage return becomes a line break.
pub(crate) fn without_controls(text: String) -> String {
    let is_kept = |c: char| match c {
        '\n' | '\t' => true,
        '\u{feff}' => false,
        c => !c.is_control() && !is_noncharacter(c),
    };
    if text.chars().all(is_kept) {
        return text;
    }
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().filter(|c| is_kept(*c)).collect()
}

/// Code points that Unicode reserves for a program's own use and that no text may carry.
fn is_noncharacter(c: char) -> bool {
    u32::from(c) & 0xfffe == 0xfffe || matches!(c, '\u{fdd0}'..='\u{fdef}')
}

/// An upper estimate of the tokens of a text. Three ASCII characters make at most one token; another character can take one.
pub(crate) fn tokens_at_most(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let others = text.chars().count() - ascii;
    (ascii.div_ceil(3) + others) as u64
}

/// Whether a text has nothing to show: white space and invisible characters alone.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_invisible(c))
}

/// The beginning of a foreign text, cleaned, for a message: at most `most` characters and an ellipsis.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    // A character takes four bytes at most, and what is cut off need not be cleaned.
    let head: String = text.chars().take(most + 1).collect();
    let head = clean(&head);
    match head.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &head[..end]),
        None => head,
    }
}

/// Characters that no result may hold: controls, byte order marks, zero-width spaces, soft hyphens, direction marks and
/// noncharacters. A student could neither see nor type them.
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || is_noncharacter(c)
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'
                | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// A text as it is compared: case, outer blanks and runs of white space do not count.
pub(crate) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        // As a whole word, because the lower case of a Greek sigma depends on its place.
        folded.push_str(&word.to_lowercase());
    }
    folded
}
