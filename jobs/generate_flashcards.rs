//! `generate-flashcards`: 10 to 40 flashcards from a text, by a language model.
//!
//! - `prompt`: the request, from the payload.
//! - `answer`: the cards, from what came back.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Number, value::RawValue};

use crate::{Call, Failure, Guard, Provider, Reply, context, payload, providers::OpenAi};

mod answer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod prompt;
#[cfg(test)]
mod tests;

use answer::Answer;

/// Fewer cards than this are no deck.
const FEWEST_CARDS: usize = 10;
/// More cards than this are cut off.
const MOST_CARDS: usize = 40;
/// Cards to ask for when the payload names no count.
const USUAL_CARDS: usize = 20;
/// Cards to ask for beyond those that are wanted: a duplicate or an odd one is paid for, and must not cost the deck.
const SPARE_CARDS: usize = 3;
/// The `topic` that lets the model choose topics.
const AI_SELECTION: &str = "AI Selection";

/// The payload of `generate-flashcards`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "generate-flashcards payload")]
pub struct Payload {
    /// The study material, at most 200,000 characters.
    #[serde(default)]
    #[schemars(!default, length(min = 1, max = 200_000))]
    pub content: String,
    /// The subject that the material belongs to, at most 500 characters.
    #[serde(default)]
    #[schemars(!default, length(min = 1, max = 500))]
    pub subject: String,
    /// The topic of all cards, at most 500 characters; `AI Selection` lets the model choose topics.
    #[serde(default)]
    #[schemars(!default, length(min = 1, max = 500))]
    pub topic: String,
    /// Who studies, at most 500 characters. A number is taken as text.
    #[serde(default, deserialize_with = "user_id")]
    #[schemars(!default, with = "TextOrNumber")]
    pub user_id: String,
    /// The learner's own language: answers are written in it. Absent: the target language.
    #[schemars(length(max = 100))]
    pub native_language: Option<String>,
    /// The language of the cards' fronts and examples. Absent: English.
    #[schemars(length(max = 100))]
    pub target_language: Option<String>,
    /// How many cards to make, 10 to 40; a number as text is accepted. Absent: about 20.
    #[serde(default, deserialize_with = "count")]
    #[schemars(!default, range(min = 10, max = 40))]
    pub count: Option<i64>,
}

impl Payload {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Class::Permanent`](crate::Class::Permanent), naming the field and what is wrong with it.
    pub fn validate(&self) -> Result<(), Failure> {
        payload::required(&[
            ("content", &self.content),
            ("subject", &self.subject),
            ("topic", &self.topic),
            ("userId", &self.user_id),
        ])?;
        payload::at_most("content", &self.content, 200_000)?;
        payload::at_most("subject", &self.subject, 500)?;
        payload::at_most("topic", &self.topic, 500)?;
        payload::at_most("userId", &self.user_id, 500)?;
        payload::at_most(
            "nativeLanguage",
            self.native_language.as_deref().unwrap_or_default(),
            100,
        )?;
        payload::at_most(
            "targetLanguage",
            self.target_language.as_deref().unwrap_or_default(),
            100,
        )?;
        match self.count {
            Some(count) if self.asked_for().is_none() => {
                let why = format_args!("must be from {FEWEST_CARDS} to {MOST_CARDS}, is {count}");
                Err(Failure::invalid_field("count", why))
            }
            _ => Ok(()),
        }
    }

    /// How many cards the deck should have.
    fn wanted(&self) -> usize {
        self.asked_for().unwrap_or(USUAL_CARDS)
    }

    /// How many cards to ask the model for.
    fn to_write(&self) -> usize {
        self.wanted() + SPARE_CARDS
    }

    /// How many cards to keep.
    fn cap(&self) -> usize {
        self.asked_for().unwrap_or(MOST_CARDS)
    }

    fn asked_for(&self) -> Option<usize> {
        usize::try_from(self.count?)
            .ok()
            .filter(|count| (FEWEST_CARDS..=MOST_CARDS).contains(count))
    }

    /// The topic of all cards, or `None` when the model chooses topics.
    fn fixed_topic(&self) -> Option<&str> {
        let topic = self.topic.trim();
        (!topic.eq_ignore_ascii_case(AI_SELECTION)).then_some(topic)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum TextOrNumber {
    Text(String),
    Number(Number),
}

fn user_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Option::<TextOrNumber>::deserialize(deserializer) {
        Ok(None) => Ok(String::new()),
        Ok(Some(TextOrNumber::Text(text))) => Ok(text),
        Ok(Some(TextOrNumber::Number(number))) => Ok(number.to_string()),
        Err(_) => Err(D::Error::custom("userId must be text or a number")),
    }
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let count = match Option::<TextOrNumber>::deserialize(deserializer) {
        Ok(None) => return Ok(None),
        Ok(Some(TextOrNumber::Text(text))) => text.trim().parse().ok(),
        Ok(Some(TextOrNumber::Number(number))) => number.as_i64(),
        Err(_) => None,
    };
    count
        .map(Some)
        .ok_or_else(|| D::Error::custom("count must be a whole number"))
}

/// The result of `generate-flashcards`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "generate-flashcards result")]
pub struct Output {
    /// Always true: a job without cards fails.
    pub success: bool,
    /// 10 to 40 cards, no two with the same front.
    pub flashcards: Vec<Flashcard>,
    /// What the cards cost.
    pub token_usage: TokenUsage,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flashcard {
    /// The question or term.
    pub front: String,
    /// The answer.
    pub back: String,
    /// The payload's topic, or one that the model chose.
    pub topic: String,
    /// For whom it is.
    pub difficulty: Difficulty,
    /// The front in use; can be empty.
    pub example: String,
    /// How the front is spoken, where that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pronunciation: Option<String>,
}

/// For whom a card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Difficulty {
    /// Basic terms and facts.
    Beginner,
    /// Understanding and use.
    Intermediate,
    /// Fine points.
    Expert,
}

/// Tokens that the provider counted, over all answers that were used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenUsage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
}

impl TokenUsage {
    fn add(&mut self, other: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.total_tokens = self.total_tokens.saturating_add(other.total_tokens);
    }
}

/// Makes flashcards.
#[derive(Debug, Clone)]
pub struct GenerateFlashcards {
    openai: Option<OpenAi>,
}

impl GenerateFlashcards {
    /// A handler that asks `openai`; without it every job fails as a deployment fault.
    pub fn new(openai: Option<OpenAi>) -> Self {
        Self { openai }
    }

    /// Runs one job.
    ///
    /// # Errors
    /// [`Class::Permanent`](crate::Class::Permanent) for a bad payload, a refusal, or an answer that is cut off
    /// twice; [`Class::Deployment`](crate::Class::Deployment) without a key; else what the guard says.
    pub async fn run(&self, payload: Payload, guard: &dyn Guard) -> Result<Output, Failure> {
        payload.validate()?;
        let openai = self.openai.as_ref().ok_or_else(|| {
            Failure::deployment("OPENAI_API_KEY is not set: this worker cannot make flashcards")
                .by(Provider::OpenAi)
        })?;
        let chat = |request: Arc<RawValue>| -> BoxFuture<'_, _> {
            Box::pin(async move { openai.chat(&request).await })
        };
        generate(&payload, openai.model(), guard, &chat).await
    }
}

/// Sends one request to the model.
type Chat<'a> = dyn Fn(Arc<RawValue>) -> BoxFuture<'a, Result<Reply, Failure>> + Send + Sync + 'a;

async fn generate(
    payload: &Payload,
    model: &str,
    guard: &dyn Guard,
    chat: &Chat<'_>,
) -> Result<Output, Failure> {
    let cap = prompt::token_cap(payload);
    let mut token_usage = TokenUsage::default();
    // An answer that was cut off is asked for once more with twice the room. It has its own step, because the
    // cut answer was paid for: where replies are kept, it is kept under the first.
    for (step, cap) in [("chat", cap), ("chat:larger", 2 * cap)] {
        let request = prompt::request(payload, model, cap);
        let call = Call::new(Provider::OpenAi, step).with_estimated_tokens(request.estimated_tokens);
        let attempt = || chat(request.body.clone());
        let read = |answer: &_| answer::read(answer, payload);
        let (answer, usage) = context::ask(guard, &call, &attempt, &read).await?;
        token_usage.add(usage);
        if let Answer::Cards(flashcards) = answer {
            return Ok(Output {
                success: true,
                flashcards,
                token_usage,
            });
        }
    }
    let message = format!(
        "openai: the answer was cut off, even with room for {} tokens",
        2 * cap
    );
    Err(Failure::permanent(message).by(Provider::OpenAi))
}
