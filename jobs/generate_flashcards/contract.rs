//! The contract between this worker and the study app: what a deck must be for the app's games.
//!
//! The app teaches a language through terminology. It scrambles a front's letters, plays hangman with it, speaks it,
//! has the student type it after hearing it, and matches it with its back; the student types the back as well, and the
//! app scrambles the words of the example. Tests, simulator and demo all check decks with [`violations`].

use std::{collections::HashMap, fmt};

use serde_json::Value;

use super::{Flashcard, MOST_CARDS, Payload, deck, term};
use crate::text::{clean, folded, is_invisible};

/// Most words of a back that is a definition. The prompt asks for ten.
pub const MOST_WORDS_OF_A_DEFINITION: usize = deck::MOST_WORDS_OF_A_DEFINITION;

/// A rule of the contract that a result breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractViolation {
    /// The place in the result: `flashcards[3].front`.
    pub place: String,
    /// The rule that is broken there.
    pub rule: &'static str,
}

impl fmt::Display for ContractViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

/// Checks the result of a `generate-flashcards` job, as JSON, against the payload that it answers. Empty for a result
/// that keeps the contract.
pub fn violations(payload: &Payload, result: &Value) -> Vec<ContractViolation> {
    let mut found = Vec::new();
    let mut check = |place: &str, holds: bool, rule| {
        if !holds {
            found.push(ContractViolation {
                place: place.to_owned(),
                rule,
            });
        }
    };
    check("success", result["success"] == true, "must be true");
    check(
        "tokenUsage",
        result["tokenUsage"].is_u64(),
        "must be a number, the total of tokens",
    );
    for name in [
        "promptTokens",
        "cachedTokens",
        "completionTokens",
        "reasoningTokens",
        "calls",
    ] {
        check(
            &format!("usage.{name}"),
            result["usage"][name].is_u64(),
            "must be a number",
        );
    }
    check(
        "usage.model",
        result["usage"]["model"].is_string(),
        "must be a string",
    );
    check(
        "requestedCards",
        result["requestedCards"] == payload.wanted(),
        "must be the number of cards that the payload asks for",
    );
    let cards = result["flashcards"].as_array().map_or(&[][..], Vec::as_slice);
    check(
        "flashcards",
        (1..=payload.most_cards().min(MOST_CARDS)).contains(&cards.len()),
        "must hold 1 to 40 cards, and no more than the payload asks for",
    );
    let cards: Vec<_> = cards
        .iter()
        .map(|card| serde_json::from_value::<Flashcard>(card.clone()).ok())
        .collect();
    for (index, card) in cards.iter().enumerate() {
        let place = format!("flashcards[{index}]");
        match card {
            Some(card) => check_card(payload, card, &mut |field, holds, rule| {
                check(&format!("{place}.{field}"), holds, rule);
            }),
            None => check(
                &place,
                false,
                "must have the texts front, back, topic and example, and a difficulty of beginner, intermediate or \
                 expert",
            ),
        }
    }
    let cards: Vec<Flashcard> = cards.into_iter().flatten().collect();
    check_deck(payload, &cards, &mut check);
    found
}

fn check_card(payload: &Payload, card: &Flashcard, check: &mut dyn FnMut(&str, bool, &'static str)) {
    for (field, text) in [
        ("front", &card.front),
        ("back", &card.back),
        ("topic", &card.topic),
        ("example", &card.example),
    ] {
        check(
            field,
            *text == clean(text),
            "must be clean: one line, no outer blanks, composed",
        );
        check(
            field,
            !text.chars().any(is_invisible),
            "must hold no control characters",
        );
        check(field, field == "example" || !text.is_empty(), "must not be empty");
    }
    check(
        "front",
        term::front(&card.front).as_deref() == Ok(card.front.as_str()),
        "must be a term of at most eight words: no question, no sentence, no outer punctuation",
    );
    check(
        "back",
        card.back == term::without_outer_punctuation(&card.back),
        "must have no outer punctuation",
    );
    let most = match payload.wants_translations() {
        true => deck::MOST_WORDS_OF_A_TRANSLATION,
        false => MOST_WORDS_OF_A_DEFINITION,
    };
    check(
        "back",
        term::words(&card.back) <= most,
        "must be a translation of the term alone, or a definition of about ten words",
    );
    check(
        "example",
        card.example.is_empty() || deck::contains(&card.example, &card.front),
        "must be empty or contain the front literally, ignoring case",
    );
    check(
        "pronunciation",
        card.pronunciation.as_deref() != Some(""),
        "must be left out when there is none",
    );
    if let Some(topic) = payload.fixed_topic() {
        check("topic", card.topic == clean(topic), "must be the payload's topic");
    }
}

fn check_deck(payload: &Payload, cards: &[Flashcard], check: &mut dyn FnMut(&str, bool, &'static str)) {
    let mut seen = std::collections::HashSet::new();
    let unique = cards.iter().all(|card| seen.insert(deck::identity(card)));
    check(
        "flashcards",
        unique,
        "must have no two cards with the same front and topic",
    );
    if payload.fixed_topic().is_none() {
        let mut topics: HashMap<String, usize> = HashMap::new();
        for card in cards {
            *topics.entry(folded(&card.topic)).or_default() += 1;
        }
        check(
            "flashcards",
            topics.len() <= 1 || topics.values().all(|count| *count >= deck::FEWEST_OF_A_TOPIC),
            "must have at least five cards for each topic that the model chose",
        );
    }
}
