//! The payload of a deck, and what it asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Number;

use super::{AI_SELECTION, MOST_CARDS, language};
use crate::{Failure, payload};

/// Fewest cards that a payload can ask for.
const FEWEST_REQUESTED: usize = 10;
/// Cards to ask for when the payload names no count.
pub(super) const USUAL_CARDS: usize = 20;
/// Cards to ask for beyond those that are wanted: a duplicate or an unusable one then costs no card of the deck.
const SPARE_CARDS: usize = 3;

/// The payload of `generate-flashcards`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "generate-flashcards payload")]
pub struct Payload {
    /// The study material, at most 200,000 characters.
    #[serde(default, deserialize_with = "payload::prose")]
    #[schemars(!default, length(min = 1, max = 200_000))]
    pub content: String,
    /// The subject that the material belongs to, at most 500 characters.
    #[serde(default, deserialize_with = "payload::prose")]
    #[schemars(!default, length(min = 1, max = 500))]
    pub subject: String,
    /// The topic of all cards, at most 500 characters; `AI Selection` lets the model choose topics.
    #[serde(default, deserialize_with = "payload::prose")]
    #[schemars(!default, length(min = 1, max = 500))]
    pub topic: String,
    /// The student's id, at most 500 characters. A number is taken as text.
    #[serde(default, deserialize_with = "user_id")]
    #[schemars(!default, with = "TextOrNumber")]
    pub user_id: String,
    /// The student's own language, a name or a tag: the backs are translations into it. Absent, or the same as the
    /// target language: the backs are short definitions.
    #[serde(default, deserialize_with = "payload::optional_prose")]
    #[schemars(!default, length(max = 100))]
    pub native_language: Option<String>,
    /// The language of the cards' fronts and examples, a name or a tag. Absent: English.
    #[serde(default, deserialize_with = "payload::optional_prose")]
    #[schemars(!default, length(max = 100))]
    pub target_language: Option<String>,
    /// Number of cards to make, 10 to 40; a number as text is accepted. Absent: about 20.
    #[serde(default, deserialize_with = "count")]
    #[schemars(!default, range(min = 10, max = 40))]
    pub count: Option<i64>,
}

impl Payload {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`crate::FailureClass::Permanent`], naming the field and what is wrong with it.
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
            Some(count) if self.requested().is_none() => {
                let why = format_args!("must be from {FEWEST_REQUESTED} to {MOST_CARDS}, is {count}");
                Err(Failure::invalid_field("count", why))
            }
            _ => Ok(()),
        }
    }

    /// How many cards the deck should have.
    pub(super) fn wanted(&self) -> usize {
        self.requested().unwrap_or(USUAL_CARDS)
    }

    /// How many cards to ask the model for.
    pub(super) fn to_write(&self) -> usize {
        self.wanted() + SPARE_CARDS
    }

    /// How many cards to keep.
    pub(super) fn most_cards(&self) -> usize {
        self.requested().unwrap_or(MOST_CARDS)
    }

    fn requested(&self) -> Option<usize> {
        usize::try_from(self.count?)
            .ok()
            .filter(|count| (FEWEST_REQUESTED..=MOST_CARDS).contains(count))
    }

    /// Returns true if the backs are translations: both languages are given, and differ.
    pub(super) fn wants_translations(&self) -> bool {
        match (self.native_language(), self.target_language()) {
            (Some(native), Some(target)) => !language::is_same(native, target),
            _ => false,
        }
    }

    pub(super) fn native_language(&self) -> Option<&str> {
        payload::given(self.native_language.as_ref()).filter(|name| language::is_given(name))
    }

    pub(super) fn target_language(&self) -> Option<&str> {
        payload::given(self.target_language.as_ref()).filter(|name| language::is_given(name))
    }

    /// The topic of all cards, or `None` when the model chooses topics.
    pub(super) fn fixed_topic(&self) -> Option<&str> {
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
