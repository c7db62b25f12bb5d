//! From a chat completion to flashcards. Pure, so that an answer that was kept can be read again.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Difficulty, FEWEST_CARDS, Flashcard, Payload, TokenUsage};
use crate::{
    Failure, Provider,
    payload::without_values,
    raw::{Picked, pick},
};

/// A topic that the model chose needs this many cards to stand on its own.
const FEWEST_OF_A_TOPIC: usize = 5;
/// Characters of a refusal that are shown.
const REFUSAL_EXCERPT: usize = 200;

/// What an answer holds.
#[derive(Debug)]
pub(super) enum Answer {
    /// Usable cards.
    Cards(Vec<Flashcard>),
    /// The model ran out of room.
    CutOff,
}

/// The cards in an answer, and what they cost.
///
/// A refusal and filtered content are permanent. What has not the agreed form, or too few cards, is transient: the
/// model may do better next time.
pub(super) fn read(body: &RawValue, payload: &Payload) -> Result<(Answer, TokenUsage), Failure> {
    let [refusal, finish_reason, content, usage @ ..] = pick(
        body,
        [
            "/choices/0/message/refusal",
            "/choices/0/finish_reason",
            "/choices/0/message/content",
            "/usage/prompt_tokens",
            "/usage/completion_tokens",
            "/usage/total_tokens",
        ],
    );
    let text = |picked| Option::as_ref(picked).and_then(Picked::text);
    if let Some(refusal) = text(&refusal).filter(|text| !text.is_empty()) {
        return Err(permanent(format!(
            "openai: the model refused: {}",
            excerpt(refusal)
        )));
    }
    let usage = used(usage);
    match text(&finish_reason) {
        Some("stop") => {}
        Some("length") => return Ok((Answer::CutOff, usage)),
        Some("content_filter") => {
            return Err(permanent("openai: the content filter stopped the answer".into()));
        }
        _ => return Err(unusable("no finished choice")),
    }
    let content = text(&content).ok_or_else(|| unusable("no content"))?;
    let deck: Deck<'_> = serde_json::from_str(content)
        .map_err(|e| unusable("the content is not the agreed JSON").caused_by(without_values(&e)))?;
    let cards = cards(deck, payload);
    if cards.len() < FEWEST_CARDS {
        return Err(unusable(&format!("only {} usable flashcards", cards.len())));
    }
    Ok((Answer::Cards(cards), usage))
}

fn used(counts: [Option<Picked<'_>>; 3]) -> TokenUsage {
    let [prompt, completion, total] = counts.map(|count| count.and_then(|count| count.count()));
    let (prompt, completion) = (prompt.unwrap_or(0), completion.unwrap_or(0));
    TokenUsage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        total_tokens: total.unwrap_or(prompt.saturating_add(completion)),
    }
}

#[derive(Deserialize)]
struct Deck<'a> {
    // Cards are decoded one by one: a single odd one does not spoil the deck.
    #[serde(borrow)]
    flashcards: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawCard {
    front: String,
    back: String,
    #[serde(default)]
    topic: Option<String>,
    difficulty: Difficulty,
    #[serde(default)]
    example: Option<String>,
    #[serde(default)]
    pronunciation: Option<String>,
}

fn cards(deck: Deck<'_>, payload: &Payload) -> Vec<Flashcard> {
    let mut fronts = HashSet::new();
    let mut cards: Vec<Flashcard> = deck
        .flashcards
        .into_iter()
        .filter_map(|card| serde_json::from_str::<RawCard>(card.get()).ok())
        .map(|card| Flashcard {
            front: card.front.trim().to_owned(),
            back: card.back.trim().to_owned(),
            topic: payload
                .fixed_topic()
                .unwrap_or(card.topic.as_deref().unwrap_or_default().trim())
                .to_owned(),
            difficulty: card.difficulty,
            example: card.example.unwrap_or_default().trim().to_owned(),
            pronunciation: crate::payload::given(card.pronunciation.as_ref()).map(str::to_owned),
        })
        .filter(|card| !card.front.is_empty() && !card.back.is_empty() && fronts.insert(folded(&card.front)))
        .take(payload.cap())
        .collect();
    if payload.fixed_topic().is_none() {
        merge_small_topics(&mut cards);
    }
    cards
}

/// Gives the cards of a topic with fewer than five to the largest topic: none of them is lost, and the learner sees
/// no topic of two cards. Spellings that differ only in case or spaces are one topic, named as it first stands.
fn merge_small_topics(cards: &mut [Flashcard]) {
    let mut topics: Vec<(String, usize)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let place_of: Vec<usize> = cards
        .iter()
        .map(|card| {
            let place = *places.entry(folded(&card.topic)).or_insert_with(|| {
                topics.push((card.topic.clone(), 0));
                topics.len() - 1
            });
            topics[place].1 += 1;
            place
        })
        .collect();

    // A card that was left without a topic cannot name one. Of equals the first wins.
    let Some((largest, _)) = topics
        .iter()
        .rev()
        .filter(|(name, _)| !name.is_empty())
        .max_by_key(|(_, count)| *count)
    else {
        return cards
            .iter_mut()
            .for_each(|card| card.topic = "General".to_owned());
    };
    for (card, place) in cards.iter_mut().zip(place_of) {
        let (name, count) = &topics[place];
        let stands = *count >= FEWEST_OF_A_TOPIC && !name.is_empty();
        card.topic = if stands { name } else { largest }.clone();
    }
}

/// A text as it is compared: case and runs of white space do not count.
fn folded(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase()
}

fn excerpt(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(REFUSAL_EXCERPT)
        .collect()
}

fn permanent(message: String) -> Failure {
    Failure::permanent(message).by(Provider::OpenAi)
}

fn unusable(why: &str) -> Failure {
    Failure::transient(format!("openai: unusable answer: {why}")).by(Provider::OpenAi)
}
