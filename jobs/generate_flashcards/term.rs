//! A term as the app's games use it: the student types it, hears it, and arranges its letters.

use std::borrow::Cow;

use crate::text::clean;

#[cfg(test)]
mod tests;

/// More words than these make a sentence.
pub(super) const MOST_WORDS: usize = 8;
/// Longest term, characters.
const LONGEST: usize = 100;

/// Why a text cannot be a card's front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnsuitableTerm {
    Blank,
    Question,
    Sentence,
}

/// The term in the front that a model wrote.
///
/// # Errors
/// Why it is none, for a blank text, a question, or a sentence of more than eight words.
pub(super) fn front(text: &str) -> Result<String, UnsuitableTerm> {
    let text = plain(text);
    if is_question(&text) {
        return Err(UnsuitableTerm::Question);
    }
    let term = without_outer_punctuation(&text);
    if !term.chars().any(char::is_alphanumeric) {
        return Err(UnsuitableTerm::Blank);
    }
    if words(term) > MOST_WORDS || term.chars().nth(LONGEST).is_some() {
        return Err(UnsuitableTerm::Sentence);
    }
    Ok(term.to_owned())
}

/// The text without inline HTML and without the label of its field ("Term: …"), cleaned.
pub(super) fn plain(text: &str) -> String {
    let cleaned = clean(&without_html(text));
    match cleaned.split_once(": ") {
        Some((label, rest)) if LABELS.iter().any(|known| label.eq_ignore_ascii_case(known)) => {
            rest.to_owned()
        }
        _ => cleaned,
    }
}

/// Labels that models repeat in a value.
const LABELS: [&str; 8] = [
    "front",
    "back",
    "term",
    "word",
    "translation",
    "definition",
    "meaning",
    "example",
];

/// Without the tags that models use for emphasis, and with the characters of the usual entities.
fn without_html(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '&']) {
        return Cow::Borrowed(text);
    }
    const ENTITIES: [(&str, &str); 6] = [
        ("&nbsp;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    const TAGS: [&str; 12] = [
        "b", "i", "u", "em", "strong", "span", "p", "br", "sup", "sub", "mark", "code",
    ];
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((entity, character)) = ENTITIES.iter().find(|(entity, _)| rest.starts_with(entity)) {
            plain.push_str(character);
            rest = &rest[entity.len()..];
            continue;
        }
        let inside = rest.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        let name = inside.map(|(tag, _)| tag.trim_matches('/').split(' ').next().unwrap_or_default());
        match (inside, name) {
            (Some((_, behind)), Some(name)) if TAGS.iter().any(|tag| name.eq_ignore_ascii_case(tag)) => {
                rest = behind;
            }
            _ => {
                plain.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// Returns true if a text asks something: by its mark in any script, or by an English beginning such as "What is the".
pub(super) fn is_question(text: &str) -> bool {
    let marks = ['?', '？', '؟', '⸮', '՞', '፧', '\u{37e}'];
    // The mark can stand before quotes, brackets or a full stop. Inside of a title it does not ask.
    let mut end = text.chars().rev().take_while(|c| !c.is_alphanumeric());
    let mut start = text.chars().take_while(|c| !c.is_alphanumeric());
    if start.any(|c| c == '¿') || end.any(|c| marks.contains(&c)) {
        return true;
    }
    const ASKING: [&str; 8] = ["what", "which", "why", "who", "how", "when", "where", "whose"];
    const VERBS: [&str; 13] = [
        "is", "are", "was", "were", "do", "does", "did", "can", "could", "will", "would", "should", "has",
    ];
    let is_one_of = |word: Option<&str>, list: &[&str]| {
        word.is_some_and(|word| list.iter().any(|other| word.eq_ignore_ascii_case(other)))
    };
    let mut first_words = text.split(' ');
    let begins_asking = is_one_of(first_words.next(), &ASKING) && is_one_of(first_words.next(), &VERBS);
    // "How are you" is a phrase that students learn.
    begins_asking && first_words.count() >= 2
}

/// How many words a text has. Scripts without blanks between words are counted by their usual length.
pub(super) fn words(text: &str) -> usize {
    text.split_whitespace()
        .map(|word| {
            let (mut ideographs, mut syllables) = (0, 0);
            for c in word.chars() {
                match c {
                    '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' => {
                        ideographs += 1
                    }
                    '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' => {
                        syllables += 1
                    }
                    _ => {}
                }
            }
            usize::max(1, (ideographs / 3) + (syllables / 6))
        })
        .sum()
}

/// Pairs that can stand around a whole text.
const PAIRS: [(char, char); 13] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('“', '”'),
    ('„', '“'),
    ('„', '”'),
    ('‘', '’'),
    ('«', '»'),
    ('»', '«'),
    ('(', ')'),
    ('[', ']'),
    ('「', '」'),
    ('『', '』'),
];

/// Removes quotes, Markdown, list marks and sentence marks from the ends of a text.
///
/// Marks that belong to a term stay: `C++`, `.NET`, `-itis`, `hyper-`, `(to) run`.
pub(super) fn without_outer_punctuation(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let before = text;
        text = without_list_mark(text);
        text = text.trim_matches(|c: char| is_outer(c) || c.is_whitespace());
        text = without_detached_ends(text);
        for (open, close) in PAIRS {
            text = without_pair(text, open, close);
        }
        if text == before {
            return text;
        }
    }
}

/// Marks that belong to no term, at either end; pictures among them, which no student can type.
fn is_outer(c: char) -> bool {
    matches!(
        c,
        '\u{2600}'..='\u{27bf}'
            | '\u{1f000}'..='\u{1faff}'
            | '\u{fe0f}'
            | ','
            | ';'
            | ':'
            | '!'
            | '?'
            | '*'
            | '_'
            | '"'
            | '|'
            | '•'
            | '·'
            | '…'
            | '¡'
            | '¿'
            | '。'
            | '、'
            | '，'
            | '；'
            | '：'
            | '！'
            | '？'
            | '؟'
            | '،'
            | '؛'
            | '।'
            | '“'
            | '”'
            | '„'
            | '«'
            | '»'
            | '「'
            | '」'
            | '『'
            | '』'
            | '–'
            | '—'
            | '='
            | '~'
            | '^'
            | '\\'
    )
}

/// Without full stops at the end, and without dots, dashes, quotes and heading marks that stand apart from a word.
fn without_detached_ends(text: &str) -> &str {
    let mut text = text.trim_end_matches(['.', '．', '｡']);
    // "- term" and "... term", but not "-itis" and ".NET".
    let start = text.trim_start_matches(['-', '.', '#', '+']);
    if start.len() < text.len() && (start.starts_with(' ') || text.starts_with("..")) {
        text = start.trim_start();
    }
    let end = text.trim_end_matches('-');
    if end.len() < text.len() && (end.ends_with(' ') || end.is_empty()) {
        text = end.trim_end();
    }
    text
}

/// Without "1. " or "2) " at the beginning.
fn without_list_mark(text: &str) -> &str {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.len() - rest.len();
    match rest.strip_prefix(['.', ')']) {
        Some(rest) if (1..=2).contains(&digits) && rest.starts_with(' ') => rest.trim_start(),
        _ => text,
    }
}

/// Without a pair around the whole text. In "(a) and (b)" the first bracket closes before the end.
fn without_pair(text: &str, open: char, close: char) -> &str {
    let inside = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    match inside {
        Some(inside) if !inside.contains([open, close]) => inside.trim(),
        _ => text,
    }
}
