//! Tells a model's answer from its reasoning.

use super::is_padding;

/// Tags around a model's reasoning, opening and closing.
pub(super) const REASONING_TAGS: [(&str, &str); 12] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<analysis>", "</analysis>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
];

/// The answer behind the model's reasoning. Reasoning can hold drafts of cards, which are not the answer.
pub(super) fn without_reasoning(text: &str) -> &str {
    let mut text = text.trim_start_matches(is_padding);
    // Blocks can follow each other; each round consumes one.
    while let Some((open, close)) = REASONING_TAGS.iter().find(|(open, _)| starts_with(text, open)) {
        match find(text, close) {
            Some(end) => text = text[end + close.len()..].trim_start_matches(is_padding),
            // The model forgot the tag, and went on to its answer.
            None if ends_with_deck(text) => return &text[open.len()..],
            // Cut off while the model was still reasoning.
            None => return "",
        }
    }
    // Some chat templates swallow the opening tag. A text that begins with JSON has no reasoning before it: the tag
    // is then a word on a card.
    if !text.starts_with(['{', '[', '`']) {
        for (_, close) in REASONING_TAGS {
            if let Some(end) = rfind(text, close) {
                return &text[end + close.len()..];
            }
        }
    }
    text
}

/// Returns true if a text ends with an array, or with an object that ends with one, perhaps in a Markdown fence. A text
/// that was cut off hardly does.
fn ends_with_deck(text: &str) -> bool {
    let end = text.trim_end_matches(|c| is_padding(c) || c == '`');
    let end = end.strip_suffix('}').unwrap_or(end);
    end.trim_end_matches(is_padding).ends_with(']')
}

fn starts_with(text: &str, tag: &str) -> bool {
    text.get(..tag.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(tag))
}

pub(super) fn find(text: &str, tag: &str) -> Option<usize> {
    places(text, tag).find(|at| starts_with(&text[*at..], tag))
}

fn rfind(text: &str, tag: &str) -> Option<usize> {
    places(text, tag).rev().find(|at| starts_with(&text[*at..], tag))
}

/// Positions of the first character of a tag. Each tag contains that character once or twice, so the search is linear.
fn places<'a>(text: &'a str, tag: &str) -> impl DoubleEndedIterator<Item = usize> + use<'a> {
    let first = tag.chars().next().unwrap_or_default();
    text.match_indices(first).map(|(at, _)| at)
}
