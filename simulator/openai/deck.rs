//! The deck of flashcards that the simulated model writes: terms of the material with translations or definitions, by
//! the contract of the study app; and, on demand, decks as careless models write them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::digest;

/// A deck that is not as the request asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeckFlaw {
    /// The fronts are questions.
    Questions,
    /// The fronts are sentences of more than eight words.
    Sentences,
    /// Six cards, whatever was asked for.
    Few,
    /// Each card comes twice.
    Duplicates,
    /// The examples are missing.
    NoExamples,
    /// Difficulties are written with a capital letter.
    Capitals,
    /// The deck is inside a Markdown fence, with text around it.
    Fence,
    /// The deck is an array, without the object around it.
    Array,
    /// The model's reasoning, with a draft of a card, precedes the deck.
    Reasoning,
    /// Each back contains a lone surrogate.
    LoneSurrogates,
    /// Prose without any card.
    Prose,
    /// A deck without cards.
    Empty,
}

/// What a deck is made of.
pub(super) struct DeckSource<'a> {
    /// The user message: a JSON object of the worker, or plain text.
    pub(super) prompt: &'a str,
    /// How many cards the request asks for.
    pub(super) count: usize,
}

/// Most terms that are drawn from a material.
const MOST_TERMS: usize = 100;

impl DeckSource<'_> {
    /// The content of an answer to a request with this schema; `None` if the schema does not ask for flashcards.
    pub(super) fn content(&self, schema: &Value, flaw: Option<DeckFlaw>) -> Option<String> {
        let card = &schema["properties"]["flashcards"]["items"]["properties"];
        let properties = card
            .as_object()
            .filter(|card| card.contains_key("front") && card.contains_key("back"))?;
        let translates = card["back"]["description"]
            .as_str()
            .is_some_and(|text| text.to_lowercase().contains("translation"));
        let mut cards = self.cards(properties, translates);
        if let Some(flaw) = flaw {
            flaw.spoil_cards(&mut cards);
        }
        let deck = json!({ "flashcards": cards });
        Some(match flaw {
            None => deck.to_string(),
            Some(flaw) => flaw.spoil_text(&deck),
        })
    }

    fn cards(&self, properties: &Map<String, Value>, translates: bool) -> Vec<Map<String, Value>> {
        let fields = serde_json::from_str::<Map<String, Value>>(self.prompt).unwrap_or_default();
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let material = text("content").unwrap_or(self.prompt);
        let topic = text("topic").filter(|topic| !topic.eq_ignore_ascii_case("AI Selection"));
        let mark = digest::hex(digest::of(&[self.prompt.as_bytes()]));
        let terms = terms(material, self.count);
        let topics = (terms.len() / 5).max(1);
        terms
            .iter()
            .enumerate()
            .map(|(n, term)| {
                let own_topic = (n / 5).min(topics - 1);
                let value = |name: &str| match name {
                    "front" => json!(term),
                    "back" if translates => json!(translated(term)),
                    "back" => json!(format!("term {} of the study material", n + 1)),
                    "topic" => {
                        topic.map_or_else(|| json!(format!("Topic {}", own_topic + 1)), |topic| json!(topic))
                    }
                    "difficulty" => json!(["beginner", "intermediate", "expert"][n % 3]),
                    // The mark distinguishes the decks of different jobs.
                    "example" => json!(format!("In lesson {mark} we use the term {term} here.")),
                    "pronunciation" if n % 3 == 2 => Value::Null,
                    "pronunciation" => json!(format!("/{}/", term.to_lowercase())),
                    other => json!(format!("{other} of {term}")),
                };
                properties
                    .keys()
                    .map(|name| (name.clone(), value(name)))
                    .collect()
            })
            .collect()
    }
}

/// Terms of a material: its words, then phrases of two and three of them. Short material has few.
fn terms(material: &str, count: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in material.split(|c: char| !c.is_alphanumeric()) {
        let is_term = (4..=24).contains(&word.chars().count()) || word.bytes().any(|b| b.is_ascii_digit());
        if is_term && word.len() <= 96 && !words.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            words.push(word.to_owned());
        }
        if words.len() == MOST_TERMS {
            break;
        }
    }
    let count = count.min(MOST_TERMS);
    let mut terms = words.clone();
    let mut shorter = words.clone();
    for _ in 0..2 {
        let mut longer = Vec::new();
        'phrases: for phrase in &shorter {
            for word in words
                .iter()
                .filter(|word| !phrase.split(' ').any(|part| part == *word))
            {
                if terms.len() + longer.len() >= count {
                    break 'phrases;
                }
                longer.push(format!("{phrase} {word}"));
            }
        }
        terms.extend(longer.iter().cloned());
        shorter = longer;
    }
    terms.truncate(count);
    if terms.is_empty() {
        terms.push("nothing".to_owned());
    }
    terms
}

/// A word of an invented language: each vowel becomes the next one.
fn translated(term: &str) -> String {
    let next = |c: char| match c {
        'a' => 'e',
        'e' => 'i',
        'i' => 'o',
        'o' => 'u',
        'u' => 'a',
        'A' => 'E',
        'E' => 'I',
        'I' => 'O',
        'O' => 'U',
        'U' => 'A',
        other => other,
    };
    let translation: String = term.chars().map(next).collect();
    if translation == term {
        format!("{term} ta")
    } else {
        translation
    }
}

impl DeckFlaw {
    fn spoil_cards(self, cards: &mut Vec<Map<String, Value>>) {
        let each = |cards: &mut Vec<Map<String, Value>>, field: &str, change: &dyn Fn(&str) -> Value| {
            for card in cards {
                let text = card.get(field).and_then(Value::as_str).unwrap_or_default();
                let changed = change(text);
                card.insert(field.to_owned(), changed);
            }
        };
        match self {
            Self::Questions => each(cards, "front", &|front| {
                json!(format!("What is the meaning of {front}?"))
            }),
            Self::Sentences => each(cards, "front", &|front| {
                json!(format!(
                    "In this lesson we look at the term {front} for the first time."
                ))
            }),
            Self::Few => cards.truncate(6),
            Self::Duplicates => {
                *cards = cards
                    .iter()
                    .flat_map(|card| [card.clone(), card.clone()])
                    .collect()
            }
            Self::NoExamples => each(cards, "example", &|_| Value::Null),
            Self::Capitals => each(cards, "difficulty", &|level| json!(level.to_uppercase())),
            Self::Empty => cards.clear(),
            Self::Fence | Self::Array | Self::Reasoning | Self::LoneSurrogates | Self::Prose => {}
        }
    }

    fn spoil_text(self, deck: &Value) -> String {
        match self {
            Self::Fence => format!("Here is your deck:\n\n```json\n{deck:#}\n```\n\nHave fun!"),
            Self::Array => deck["flashcards"].to_string(),
            Self::Reasoning => format!(
                "<think>\nPerhaps {{\"front\":\"a draft\",\"back\":\"a try\"}}? No.\n</think>\n{deck}"
            ),
            Self::LoneSurrogates => deck.to_string().replace("\"back\":\"", "\"back\":\"\\ud83d "),
            Self::Prose => "I could not find any terms in this material.".to_owned(),
            _ => deck.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_material_has_few_terms_and_long_material_as_many_as_wanted() {
        assert_eq!(terms("a bc", 20), ["nothing"]);
        assert_eq!(terms("Mitochondria!", 20), ["Mitochondria"]);
        assert_eq!(
            terms("cells divide", 20),
            ["cells", "divide", "cells divide", "divide cells"]
        );
        assert_eq!(terms("plants turn light into sugar", 23).len(), 23);
        assert_eq!(terms(&"word another third ".repeat(100), 5).len(), 5);
        let many: String = (0..10_000).map(|n| format!("word{n} ")).collect();
        assert_eq!(terms(&many, 1_000).len(), MOST_TERMS);
    }

    #[test]
    fn a_translation_is_another_word() {
        assert_eq!(translated("Zelle"), "Zilli");
        assert_eq!(translated("細胞"), "細胞 ta");
    }
}
