//! `generate-flashcards`: a deck of flashcards from a text, by a language model.
//!
//! # Layout
//! - `prompt`: the request, from the payload; `language` decides whether it asks for translations or definitions.
//! - `card_scanner`: the cards in a text that a model wrote. `deck` and `term`: their repair.
//! - `preview`: the cards of an answer that still arrives.
//! - [`contract`]: the rules of the study app, and their check.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tracing::warn;

use crate::{
    Failure, FailureClass, Job, JobResources, Provider, ProviderGuard, ProviderReply,
    chat::{ChatUsage, MOST_ROOM, TokenAccount},
    chat_answer::{ChatAnswer, FinishReason, TokenCounts},
    context::{self, AnswerReading},
    providers::{OpenAi, answer_stream::ArrivingAnswer, models::ModelRequest},
};

mod card_scanner;
pub mod contract;
mod deck;
mod deck_payload;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/flashcards.rs"]
pub(crate) mod fuzz;
mod language;
mod preview;
mod prompt;
mod term;
#[cfg(test)]
mod tests;

use card_scanner::ScanEnd;
use deck::Deck;
pub use deck_payload::Payload;

/// Most cards of a deck. Further ones are cut off.
const MOST_CARDS: usize = 40;
/// An answer that was cut off with fewer cards than these is asked for once more, with twice the room.
const ENOUGH_OF_A_CUT_DECK: usize = 5;
/// The `topic` that lets the model choose topics.
const AI_SELECTION: &str = "AI Selection";

/// The result of `generate-flashcards`, by the contract of the study app: see [`contract`].
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "generate-flashcards result")]
pub struct Output {
    /// Always true: a job without cards fails.
    pub success: bool,
    /// 1 to 40 cards, no two of a topic with the same front.
    #[schemars(length(min = 1, max = 40))]
    pub flashcards: Vec<Flashcard>,
    /// Number of cards that the deck was to have. Short material gives fewer.
    pub requested_cards: usize,
    /// Tokens of all calls, as the provider adds them up.
    pub token_usage: u64,
    /// The same in detail.
    pub usage: ChatUsage,
}

impl Output {
    fn new(flashcards: Vec<Flashcard>, payload: &Payload, account: TokenAccount) -> Self {
        Self {
            success: true,
            flashcards,
            requested_cards: payload.wanted(),
            token_usage: account.total(),
            usage: account.into_usage(),
        }
    }
}

/// One card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flashcard {
    /// A term in the target language: one word or a short phrase, without outer punctuation.
    pub front: String,
    /// The term's translation where the two languages differ, otherwise its short definition.
    pub back: String,
    /// The payload's topic, or one that the model chose.
    pub topic: String,
    /// The student's level that the term suits.
    pub difficulty: Difficulty,
    /// A sentence in the target language that contains the front literally, ignoring case; can be empty.
    pub example: String,
    /// Pronunciation of the front, where that helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pronunciation: Option<String>,
}

/// The level of the learners that a card suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Difficulty {
    /// Basic terms.
    Beginner,
    /// The terms of the subject.
    Intermediate,
    /// Rare terms.
    Expert,
}

/// Makes flashcards.
#[derive(Debug, Clone)]
pub struct GenerateFlashcards {
    openai: Option<OpenAi>,
}

impl Job for GenerateFlashcards {
    const NAME: &'static str = "generate-flashcards";
    const QUEUE: &'static str = "ai-jobs";
    const PROVIDER: Provider = Provider::OpenAi;
    const FAILURE_SENTENCE: &'static str = "The study material could not be turned into flashcards.";

    type Payload = Payload;
    type Output = Output;

    fn new(resources: &JobResources) -> Self {
        Self {
            openai: resources.clients.openai.clone(),
        }
    }

    fn validate(payload: &Payload) -> Result<(), Failure> {
        payload.validate()
    }

    /// Makes a deck.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`] for a bad payload, a refusal, or two answers without a usable card;
    /// [`FailureClass::Deployment`] without a key; otherwise the guard's failure.
    async fn run(&self, payload: Payload, guard: &dyn ProviderGuard) -> Result<Output, Failure> {
        payload.validate()?;
        let openai = self.openai.as_ref().ok_or_else(|| {
            Failure::deployment("OPENAI_API_KEY is not set: this worker cannot make flashcards")
                .by(Provider::OpenAi)
        })?;
        let chat = |request: Arc<RawValue>, arriving: Arc<ArrivingAnswer>| -> BoxFuture<'_, _> {
            Box::pin(async move { openai.chat_arriving(&request, &arriving).await })
        };
        generate(&payload, &openai.model(), guard, &chat).await
    }

    fn is_reusable(result: &Value) -> bool {
        let is_card = |card: &Value| card["front"].is_string() && card["back"].is_string();
        let cards = result["flashcards"].as_array();
        result["success"] == true && cards.is_some_and(|cards| !cards.is_empty() && cards.iter().all(is_card))
    }

    fn samples() -> Vec<Value> {
        let deck = |content: &str, subject: &str, topic: &str, native: &str, target: &str| {
            json!({
                "content": content, "subject": subject, "topic": topic, "userId": "demo",
                "nativeLanguage": native, "targetLanguage": target,
            })
        };
        vec![
            deck(
                "Plants turn light, water and carbon dioxide into sugar and oxygen.",
                "Biology",
                "Photosynthesis",
                "Spanish",
                "English",
            ),
            deck(
                "Movable type made books cheap, and ideas hard to stop.",
                "History",
                "The printing press",
                "English",
                "en-GB",
            ),
            deck(
                "Una semana en Madrid: saludos, comida, direcciones, números.",
                "Travel",
                AI_SELECTION,
                "en-US",
                "Spanish",
            ),
        ]
    }
}

/// Sends one request to the model, and shows its answer while it arrives.
type DeckRequestSender<'a> = dyn Fn(Arc<RawValue>, Arc<ArrivingAnswer>) -> BoxFuture<'a, Result<ProviderReply, Failure>>
    + Send
    + Sync
    + 'a;

async fn generate(
    payload: &Payload,
    model: &ModelRequest,
    guard: &dyn ProviderGuard,
    chat: &DeckRequestSender<'_>,
) -> Result<Output, Failure> {
    let cap = prompt::token_cap(payload);
    let ask = async |step, cap| {
        let request = prompt::request(payload, model, cap);
        let call = request.call(step, model, cap);
        let cap = cap + model.reasoning_room;
        let read = |body: &RawValue| Ok(DeckAnswer::read(body, payload, cap).into_reading());
        let attempt = || -> BoxFuture<'_, _> {
            Box::pin(async {
                let arriving = Arc::new(ArrivingAnswer::default());
                let sent = tokio::select! {
                    biased;
                    sent = chat(request.body.clone(), arriving.clone()) => sent,
                    never = preview::follow(payload, guard, &arriving) => match never {},
                };
                sent.or_else(|failure| enough_of_a_broken_stream(&arriving, payload, cap).ok_or(failure))
            })
        };
        context::read_call(guard, &call, &attempt, &read).await
    };
    let mut account = TokenAccount::new(&model.model);
    let first = ask("chat", cap).await?;
    let mut best = first.reading.value;
    account.add(best.tokens, &best.model, &best.deployment);
    if let Some(refusal) = best.refusal() {
        return Err(refusal);
    }
    // Another step, because the first answer was paid for, and is kept under its own.
    let second = match best.gap() {
        None => None,
        // Reasoning that ate up the room of the answer needs more than twice of it.
        Some(DeckGap::CutOff) => Some((
            "chat:larger",
            2 * (cap + best.tokens.reasoning.saturating_sub(model.reasoning_room)).min(MOST_ROOM),
        )),
        Some(DeckGap::NoCard) if first.is_second => None,
        Some(DeckGap::NoCard) => Some(("chat:again", cap)),
    };
    if let Some((step, cap)) = second {
        match ask(step, cap).await {
            Ok(answer) => {
                let answer = answer.reading.value;
                account.add(answer.tokens, &answer.model, &answer.deployment);
                if answer.deck.cards.len() >= best.deck.cards.len() {
                    best = answer;
                }
            }
            // The job comes back, and finds the first answer kept.
            Err(failure) if matches!(failure.class(), FailureClass::Blocked | FailureClass::Cancelled) => {
                return Err(failure);
            }
            // A small deck is better than none.
            Err(failure) if best.deck.cards.is_empty() => return Err(failure),
            Err(_) => {}
        }
    }
    if best.deck.cards.is_empty() {
        return Err(best.refusal().unwrap_or_else(|| best.without_cards()));
    }
    Ok(Output::new(best.deck.cards, payload, account))
}

/// The answer as far as it had arrived when its stream broke, if it has enough cards. The provider bills it as an answer.
fn enough_of_a_broken_stream(
    arriving: &ArrivingAnswer,
    payload: &Payload,
    cap: u64,
) -> Option<ProviderReply> {
    let body = arriving.take_partial()?;
    let cards = DeckAnswer::read(&body, payload, cap).deck.cards.len();
    if cards < ENOUGH_OF_A_CUT_DECK {
        return None;
    }
    warn!(
        provider = %Provider::OpenAi,
        "the provider broke off its answer behind {cards} cards: the deck is made of them, nothing is asked for again"
    );
    Some(ProviderReply {
        is_cut: true,
        ..ProviderReply::new(body, None)
    })
}

/// An answer of the model, read as a deck.
struct DeckAnswer {
    deck: Deck,
    refusal: String,
    finish: FinishReason,
    tokens: TokenCounts,
    model: String,
    deployment: String,
    has_choice: bool,
    /// The room that the request left for the answer, tokens.
    cap: u64,
}

/// Why an answer is asked for once more.
enum DeckGap {
    /// The model ran out of room before it had written enough cards.
    CutOff,
    /// No card of the answer is usable.
    NoCard,
}

impl DeckAnswer {
    fn read(body: &RawValue, payload: &Payload, cap: u64) -> Self {
        let answer = ChatAnswer::read(body);
        Self {
            deck: deck::read(&answer.text, payload),
            refusal: answer.refusal,
            finish: answer.finish,
            tokens: answer.tokens,
            model: answer.model,
            deployment: answer.deployment,
            has_choice: answer.has_choice,
            cap,
        }
    }

    fn into_reading(self) -> AnswerReading<Self> {
        AnswerReading {
            // An answer that was cut off leads to the larger call, which may be kept as well.
            is_useful: !self.deck.cards.is_empty() || (self.is_cut_off() && self.refusal().is_none()),
            value: self,
        }
    }

    /// True if the provider reports that the room for the answer was too small.
    fn is_cut_off(&self) -> bool {
        self.finish == FinishReason::Length
            || (self.deck.end == ScanEnd::CutOff && self.tokens.fill(self.cap))
    }

    fn gap(&self) -> Option<DeckGap> {
        match self.deck.cards.len() {
            0..ENOUGH_OF_A_CUT_DECK if self.is_cut_off() => Some(DeckGap::CutOff),
            0 => Some(DeckGap::NoCard),
            _ => None,
        }
    }

    /// The failure of a job whose material the model or a filter refuses. A usable deck comes before a refusal.
    fn refusal(&self) -> Option<Failure> {
        if !self.deck.cards.is_empty() {
            return None;
        }
        let message = if !self.refusal.is_empty() {
            // The model's own words can quote the material, which must not reach a log.
            "openai: the model refused to write about the material".to_owned()
        } else if self.finish == FinishReason::ContentFilter {
            "openai: the content filter stopped the answer".to_owned()
        } else {
            return None;
        };
        Some(Failure::permanent(message).by(Provider::OpenAi))
    }

    /// The failure of a job after its last answer.
    fn without_cards(&self) -> Failure {
        let mut message = "openai: unusable answer: ".to_owned();
        let TokenCounts {
            completion,
            reasoning,
            ..
        } = self.tokens;
        if self.is_cut_off() {
            message += &format!("it was cut off, even with room for {} tokens", self.cap);
            if reasoning > 0 {
                message += &format!(
                    "; {reasoning} of its {completion} tokens were reasoning: set OPENAI_MODEL to a model \
                     that reasons less"
                );
            }
        } else if !self.has_choice {
            message += "it holds no choice with a message";
        } else {
            message += "it holds no usable flashcard";
            let dropped = self.deck.dropped.to_string();
            if !dropped.is_empty() {
                message += &format!(" (dropped: {dropped})");
            }
        }
        Failure::permanent(message).by(Provider::OpenAi)
    }
}
