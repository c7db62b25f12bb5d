//! Turns the cards that a model wrote into a deck that the study app can play with.
//!
//! The rules are those of [`contract`](super::contract). A card is repaired where that is certain, and dropped only
//! where it would break a game: without a front or a back, with a question or a long sentence as its front, or as a
//! duplicate.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::ControlFlow,
};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::{
    AI_SELECTION, Difficulty, Flashcard, Payload,
    card_scanner::{RawCard, ScanEnd, scan},
    term::{self, UnsuitableTerm},
};
use crate::text::{clean, folded};

#[cfg(test)]
mod tests;

/// A topic that the model chose needs this many cards to stand on its own.
pub(super) const FEWEST_OF_A_TOPIC: usize = 5;
/// Name of the one topic when the model chose none.
const FALLBACK_TOPIC: &str = "General";
/// Longest back, characters. A longer one is a text that no student types.
const LONGEST_BACK: usize = 300;
/// Longest example, pronunciation and topic, characters. Longer ones are left out.
const LONGEST_DETAIL: usize = 500;
/// Definitions with more words are cut at their first clause, where they have one.
pub(super) const MOST_WORDS_OF_A_DEFINITION: usize = 12;
/// Translations with more words are cut at the end of their first clause, where an explanation begins.
pub(super) const MOST_WORDS_OF_A_TRANSLATION: usize = term::MOST_WORDS + 2;

/// The usable cards of an answer.
#[derive(Debug)]
pub(super) struct Deck {
    pub(super) cards: Vec<Flashcard>,
    pub(super) dropped: DroppedCards,
    /// How the scan of the answer ended.
    pub(super) end: ScanEnd,
}

/// How many cards were dropped, by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct DroppedCards {
    pub(super) incomplete: usize,
    pub(super) questions: usize,
    pub(super) sentences: usize,
    pub(super) duplicates: usize,
}

impl fmt::Display for DroppedCards {
    /// `3 incomplete, 1 duplicate`; nothing when none was dropped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.incomplete, "incomplete"),
            (self.questions, "with a question as front"),
            (self.sentences, "with a sentence as front"),
            (self.duplicates, "duplicates"),
        ];
        let mut separator = "";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Reads the deck in a text that a model wrote.
pub(super) fn read(text: &str, payload: &Payload) -> Deck {
    let mut builder = DeckBuilder::new(DeckRules::of(payload));
    let most = payload.most_cards();
    let end = scan(text, &mut |card| {
        builder.add(card);
        match builder.cards.len() < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    let DeckBuilder {
        mut cards,
        mut dropped,
        rules,
        ..
    } = builder;
    if rules.fixed_topic.is_none() {
        merge_small_topics(&mut cards);
        // Two topics can have had the same front, and be one now.
        let mut seen = HashSet::new();
        let before = cards.len();
        cards.retain(|card| seen.insert(identity(card)));
        dropped.duplicates += before - cards.len();
    }
    Deck { cards, dropped, end }
}

/// Equal for cards that the app takes for duplicates.
pub(super) fn identity(card: &Flashcard) -> (String, String) {
    (folded(&card.front), folded(&card.topic))
}

/// The conditions that a payload makes for the cards of its deck.
#[derive(Debug)]
pub(super) struct DeckRules {
    is_translation: bool,
    fixed_topic: Option<String>,
}

impl DeckRules {
    pub(super) fn of(payload: &Payload) -> Self {
        Self {
            is_translation: payload.wants_translations(),
            fixed_topic: payload.fixed_topic().map(clean),
        }
    }
}

/// Collects the usable cards of an answer, one by one.
#[derive(Debug)]
pub(super) struct DeckBuilder {
    rules: DeckRules,
    seen: HashSet<(String, String)>,
    cards: Vec<Flashcard>,
    dropped: DroppedCards,
}

impl DeckBuilder {
    pub(super) fn new(rules: DeckRules) -> Self {
        Self {
            rules,
            seen: HashSet::new(),
            cards: Vec::new(),
            dropped: DroppedCards::default(),
        }
    }

    /// The cards so far.
    pub(super) fn cards(&self) -> &[Flashcard] {
        &self.cards
    }

    pub(super) fn add(&mut self, raw: RawCard) {
        let front = match term::front(&raw.front) {
            Ok(front) => front,
            Err(UnsuitableTerm::Blank) => return self.dropped.incomplete += 1,
            Err(UnsuitableTerm::Question) => return self.dropped.questions += 1,
            Err(UnsuitableTerm::Sentence) => return self.dropped.sentences += 1,
        };
        let is_translation = self.rules.is_translation;
        let back = back(raw.back(is_translation), is_translation);
        let front = without_gloss(&front, &back).to_owned();
        let back = without_gloss(&back, &front).to_owned();
        // A translation can be the same word. A definition that repeats its term defines nothing.
        if back.is_empty() || (!is_translation && folded(&back) == folded(&front)) {
            return self.dropped.incomplete += 1;
        }
        let card = Flashcard {
            topic: self
                .rules
                .fixed_topic
                .clone()
                .unwrap_or_else(|| topic(&raw.topic)),
            difficulty: Difficulty::of(&raw.difficulty),
            example: example(&raw.example, &front),
            pronunciation: pronunciation(&raw.pronunciation),
            front,
            back,
        };
        if self.seen.insert(identity(&card)) {
            self.cards.push(card);
        } else {
            self.dropped.duplicates += 1;
        }
    }
}

/// The text without the other side of the card in brackets behind it: "la célula (the cell)".
fn without_gloss<'a>(text: &'a str, other: &str) -> &'a str {
    text.strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" ("))
        .filter(|(_, gloss)| folded(gloss) == folded(other))
        .map_or(text, |(text, _)| text.trim_end())
}

/// The translation or definition, without outer punctuation; empty when it is unusable.
fn back(text: &str, is_translation: bool) -> String {
    let text = term::plain(text);
    let mut back = term::without_outer_punctuation(&text);
    let (most_words, fewest_left) = match is_translation {
        true => (MOST_WORDS_OF_A_TRANSLATION, 1),
        // Two words before a colon or a bracket define nothing.
        false => (MOST_WORDS_OF_A_DEFINITION, 3),
    };
    if term::words(back) > most_words {
        back = first_clause(back, fewest_left);
    }
    match back.chars().nth(LONGEST_BACK) {
        None => back.to_owned(),
        Some(_) => String::new(),
    }
}

/// The text without its second sentence, its aside or its list of details, if at least `fewest_left` words are left.
fn first_clause(text: &str, fewest_left: usize) -> &str {
    const ENDS: [&str; 12] = [
        ". ", "。", "; ", "；", " (", "（", " – ", " — ", " - ", ": ", "：", ", which ",
    ];
    let mut cuts: Vec<usize> = ENDS.iter().filter_map(|end| text.find(end)).collect();
    cuts.sort_unstable();
    cuts.into_iter()
        .map(|at| term::without_outer_punctuation(&text[..at]))
        .find(|clause| !clause.is_empty() && term::words(clause) >= fewest_left)
        .unwrap_or(text)
}

/// The example, if it shows the front literally; the app builds a sentence of its own for an empty one.
fn example(text: &str, front: &str) -> String {
    let mut example = detail(&term::plain(text));
    // "L’eau" and "l'eau" are one spelling.
    for (apostrophe, other) in [('\'', '’'), ('’', '\'')] {
        if front.contains(apostrophe) && !contains(&example, front) {
            example = example.replace(other, &apostrophe.to_string());
        }
    }
    match contains(&example, front) {
        true => example,
        false => String::new(),
    }
}

/// The topic that the model chose; empty when it chose none.
fn topic(text: &str) -> String {
    let topic = detail(&term::plain(text));
    let is_none = is_placeholder(&topic) || topic.eq_ignore_ascii_case(AI_SELECTION);
    if is_none { String::new() } else { topic }
}

fn pronunciation(text: &str) -> Option<String> {
    let text = detail(&term::plain(text));
    let is_spoken = text.chars().any(char::is_alphabetic) && !is_placeholder(&text);
    is_spoken.then_some(text)
}

/// Words that models write where a field has no value.
fn is_placeholder(text: &str) -> bool {
    let placeholders = ["null", "none", "n/a", "undefined"];
    placeholders.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Returns true if a text contains another, ignoring case.
pub(super) fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

fn detail(text: &str) -> String {
    let text = clean(text);
    match text.chars().nth(LONGEST_DETAIL) {
        None => text,
        Some(_) => String::new(),
    }
}

impl Difficulty {
    /// The value for what a model wrote, in any case and spelling; `intermediate` for anything unknown.
    ///
    /// Models also write a number, a level of the European framework, or a word of the student's language.
    pub(super) fn of(text: &str) -> Self {
        let text: String = text.nfd().filter(|c| !is_combining_mark(*c)).collect();
        let text = text.to_lowercase();
        let mut words = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty() && !Self::LABELS.contains(word));
        let Some(word) = words.next() else {
            return Self::Intermediate;
        };
        if text.contains("intermed") {
            return Self::Intermediate;
        }
        if let Ok(number) = word.parse::<u32>() {
            return match number {
                0 | 1 => Self::Beginner,
                2 => Self::Intermediate,
                _ => Self::Expert,
            };
        }
        let starts = |beginnings: &[&str]| beginnings.iter().any(|b| word.starts_with(b));
        if starts(&Self::EASY) {
            Self::Beginner
        } else if starts(&Self::HARD) {
            Self::Expert
        } else {
            Self::Intermediate
        }
    }

    /// Words that can precede a level.
    const LABELS: [&str; 6] = ["level", "difficulty", "very", "pre", "nivel", "niveau"];
    /// Beginnings of words for `beginner`, without accents.
    const EASY: [&str; 23] = [
        "beg",
        "bas",
        "eas",
        "elem",
        "nov",
        "start",
        "simpl",
        "low",
        "intro",
        "fundam",
        "entry",
        "a1",
        "a2",
        "princip",
        "inici",
        "facil",
        "leicht",
        "einfach",
        "anfang",
        "debut",
        "初",
        "начал",
        "легк",
    ];
    /// Beginnings of words for `expert`, without accents.
    const HARD: [&str; 21] = [
        "exp",
        "adv",
        "hard",
        "diff",
        "prof",
        "mast",
        "high",
        "tough",
        "chall",
        "complex",
        "c1",
        "c2",
        "avan",
        "dific",
        "schwer",
        "schwierig",
        "fortgeschr",
        "高",
        "上",
        "эксп",
        "сложн",
    ];
}

/// Gives the cards of a topic with fewer than five to the largest topic: no card is lost, and the student sees no topic
/// of two cards. Spellings that differ only in case or blanks are one topic, named as it stands first.
fn merge_small_topics(cards: &mut [Flashcard]) {
    let mut topics: Vec<(String, usize)> = Vec::new();
    let mut index_of: HashMap<String, usize> = HashMap::new();
    let topic_of_card: Vec<usize> = cards
        .iter()
        .map(|card| {
            let index = *index_of.entry(folded(&card.topic)).or_insert_with(|| {
                topics.push((card.topic.clone(), 0));
                topics.len() - 1
            });
            topics[index].1 += 1;
            index
        })
        .collect();

    // A card without a topic cannot name one. Of equally large topics the first wins.
    let largest = topics
        .iter()
        .rev()
        .filter(|(name, _)| !name.is_empty())
        .max_by_key(|(_, count)| *count)
        .map_or(FALLBACK_TOPIC, |(name, _)| name);
    for (card, index) in cards.iter_mut().zip(topic_of_card) {
        let (name, count) = &topics[index];
        let is_kept = *count >= FEWEST_OF_A_TOPIC && !name.is_empty();
        card.topic = if is_kept { name.as_str() } else { largest }.to_owned();
    }
}
