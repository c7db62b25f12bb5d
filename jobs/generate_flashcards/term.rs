//! A term as the app's games use it: the student types it, hears it, and arranges its letters.

use crate::text::clean;

mod markup;
#[cfg(test)]
mod tests;

/// More words than these make a sentence.
pub(super) const MOST_WORDS: usize = 8;
/// Longest term, characters.
const LONGEST: usize = 100;
/// Layers of marks that are taken off a term.
const MOST_LAYERS: usize = 16;

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
    let mut term = term_in(text)?;
    // Marks can hide others: without its outer asterisk, "*`term`:" has quotes around a word.
    for _ in 0..MOST_LAYERS {
        let inner = term_in(&term)?;
        if inner == term {
            break;
        }
        term = inner;
    }
    Ok(term)
}

fn term_in(text: &str) -> Result<String, UnsuitableTerm> {
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

/// The text without inline HTML, Markdown emphasis and the label of its field ("Term: …"), cleaned.
pub(super) fn plain(text: &str) -> String {
    let cleaned = clean(&markup::stripped(text));
    match cleaned.split_once(": ") {
        Some((label, rest)) if LABELS.iter().any(|known| label.eq_ignore_ascii_case(known)) => {
            rest.to_owned()
        }
        _ => cleaned,
    }
}

/// Labels that models repeat in a value.
const LABELS: [&str; 12] = [
    "front",
    "back",
    "term",
    "word",
    "translation",
    "definition",
    "meaning",
    "example",
    "question",
    "answer",
    "q",
    "a",
];

/// Returns true if a text asks something: by its mark in any script, or by its first words, such as "What is the".
pub(super) fn is_question(text: &str) -> bool {
    const MARKS: [char; 7] = ['?', '？', '؟', '⸮', '፧', '⁈', '⁇'];
    // The mark can stand before quotes, brackets, a full stop or a remark in brackets. Inside of a title it does not
    // ask.
    let asks_at_end = |text: &str| {
        let mut end = text.chars().rev().take_while(|c| !c.is_alphanumeric());
        end.any(|c| MARKS.contains(&c))
    };
    let without_remark = text
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" ("))
        .map_or(text, |(text, _)| text);
    let mut start = text.chars().take_while(|c| !c.is_alphanumeric());
    if start.any(|c| c == '¿') || asks_at_end(text) || asks_at_end(without_remark) {
        return true;
    }
    // Armenian puts its mark into a word; the Greek one is a semicolon in Unicode's composed form.
    let is_greek = |c: char| matches!(c, '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}');
    text.contains('՞') || (text.ends_with(';') && text.chars().any(is_greek)) || begins_asking(text)
}

/// Returns true if a text begins like a question: the mark can be missing.
fn begins_asking(text: &str) -> bool {
    const ASKING: [&str; 8] = ["what", "which", "why", "who", "how", "when", "where", "whose"];
    const VERBS: [&str; 13] = [
        "is", "are", "was", "were", "do", "does", "did", "can", "could", "will", "would", "should", "has",
    ];
    /// The same in other languages that students learn.
    const BEGINNINGS: [&str; 20] = [
        "qué es ",
        "qué son ",
        "cuál es ",
        "cuáles son ",
        "was ist ",
        "was sind ",
        "wie heißt ",
        "qu'est-ce que ",
        "qu'est-ce qu'",
        "quel est ",
        "quelle est ",
        "quels sont ",
        "che cos'è ",
        "qual è ",
        "o que é ",
        "o que são ",
        "qual é ",
        "wat is ",
        "что такое ",
        "co to jest ",
    ];
    /// "How are you" and "Was ist los" are phrases that students learn.
    const FEWEST_WORDS: usize = 4;
    let first: Vec<String> = text
        .split(' ')
        .take(FEWEST_WORDS)
        .map(|word| word.to_lowercase().replace('’', "'"))
        .collect();
    let [asking, verb, ..] = first.as_slice() else {
        return false;
    };
    let contraction = asking.strip_suffix("'s");
    let is_english = contraction.is_some_and(|asking| ASKING.contains(&asking))
        || (ASKING.contains(&asking.as_str()) && VERBS.contains(&verb.as_str()));
    let beginning = first.join(" ");
    let is_other = BEGINNINGS.iter().any(|known| beginning.starts_with(known));
    first.len() == FEWEST_WORDS && (is_english || is_other)
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
const PAIRS: [(char, char); 20] = [
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
    ('《', '》'),
    ('〈', '〉'),
    ('【', '】'),
    ('（', '）'),
    ('［', '］'),
    ('{', '}'),
    ('$', '$'),
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
        '\u{2190}'..='\u{21ff}'
            | '\u{25a0}'..='\u{27bf}'
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
            | '॥'
            | '།'
            | '۔'
            | '։'
            | '።'
            | '፧'
            | '។'
            | '။'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
            | '‹'
            | '›'
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
    let end = text.trim_end_matches(['-', '/']);
    if end.len() < text.len() && (end.ends_with(' ') || end.is_empty()) {
        text = end.trim_end();
    }
    text
}

/// Without "1. ", "2) ", "(3) " or "a) " at the beginning.
fn without_list_mark(text: &str) -> &str {
    let inside = text.strip_prefix('(').unwrap_or(text);
    let rest = inside.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = inside.len() - rest.len();
    let letter = text.split_once(") ").filter(|(letter, _)| {
        let bytes = letter.as_bytes();
        bytes.len() == 1 && bytes[0].is_ascii_lowercase()
    });
    match (rest.strip_prefix(['.', ')']), letter) {
        (Some(rest), _) if (1..=2).contains(&digits) && rest.starts_with(' ') => rest.trim_start(),
        (_, Some((_, rest))) => rest.trim_start(),
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
