//! Properties of the request that a payload becomes, and of the deck that an answer becomes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target ends at a broken property"
)]

use hostile::Target;
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::fuzzing::expect_modest;

/// A valid payload becomes a request that is not much longer, and that is not estimated below the room of its answer.
pub(crate) static FLASHCARDS_PROMPT: Target = Target::new("flashcards_prompt", |input| {
    let Ok(payload) = serde_json::from_slice::<Payload>(input) else {
        return;
    };
    if payload.validate().is_err() {
        return;
    }
    let cap = prompt::token_cap(&payload);
    let request = prompt::request(&payload, &ModelRequest::default(), cap);
    assert!(request.estimated_tokens > cap);
    // A control character takes six bytes in JSON, and its backslash one more in the JSON around it.
    assert!(request.body.to_string().len() <= 16 * 1024 + 8 * input.len());
});

#[test]
fn flashcards_prompts() {
    FLASHCARDS_PROMPT.run();
}

/// An answer of the model, or the text in one, becomes a deck that keeps the structure of the contract, or a short
/// reason.
pub(crate) static FLASHCARDS_ANSWER: Target = Target::new("flashcards_answer", |input| {
    let whole = serde_json::from_slice::<Box<RawValue>>(input)
        .ok()
        .filter(|body| body.get().contains("\"choices\""));
    let body = whole.unwrap_or_else(|| {
        let message = json!({ "content": String::from_utf8_lossy(input) });
        let body = json!({ "choices": [{ "message": message, "finish_reason": "stop" }] });
        to_raw_value(&body).expect("JSON")
    });
    for (topic, count) in [("Biology", Some(12)), (AI_SELECTION, None)] {
        let payload = Payload {
            content: "text".to_owned(),
            subject: "subject".to_owned(),
            topic: topic.to_owned(),
            user_id: "1".to_owned(),
            native_language: Some("German".to_owned()),
            target_language: Some("English".to_owned()),
            count,
        };
        let answer = DeckAnswer::read(&body, &payload, 4_000);
        if answer.deck.cards.is_empty() {
            expect_modest(&answer.refusal().unwrap_or_else(|| answer.without_cards()));
            continue;
        }
        let mut account = TokenAccount::new("model");
        account.add(answer.tokens, &answer.model, &answer.deployment);
        account.add(answer.tokens, &answer.model, &answer.deployment);
        let output = Output::new(answer.deck.cards, &payload, account);
        let result = serde_json::to_value(output).expect("JSON");
        let broken: Vec<_> = contract::violations(&payload, &result)
            .into_iter()
            // A model's translation can be longer than the app likes, and is still shown.
            .filter(|violation| !violation.rule.starts_with("must be a translation"))
            .collect();
        assert!(broken.is_empty(), "{broken:?} in {result}");
    }
})
.with_factor(64);

#[test]
fn flashcards_answers() {
    FLASHCARDS_ANSWER.run();
}
