//! What a payload asks of the model, and what the model answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target that is surprised shall end"
)]

use hostile::Target;
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{Class, fuzzing::expect_modest};

/// A payload that passes becomes a request that is not much longer, and not estimated below the room of its answer.
pub static FLASHCARDS_PROMPT: Target = Target::new("flashcards_prompt", |input| {
    let Ok(payload) = serde_json::from_slice::<Payload>(input) else {
        return;
    };
    if payload.validate().is_err() {
        return;
    }
    let cap = prompt::token_cap(&payload);
    let request = prompt::request(&payload, "gpt", cap);
    assert!(request.estimated_tokens > cap);
    // A control character takes six bytes in JSON, and its backslash one more in the JSON around it.
    assert!(request.body.to_string().len() <= 16 * 1024 + 8 * input.len());
});

/// An answer of the model, or what stands in one: a deck of as many cards as were wanted, or a reason why it is none.
pub static FLASHCARDS_ANSWER: Target = Target::new("flashcards_answer", |input| {
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
            native_language: None,
            target_language: None,
            count,
        };
        match answer::read(&body, &payload) {
            Ok((Answer::CutOff, _)) => {}
            Ok((Answer::Cards(flashcards), usage)) => {
                assert!((FEWEST_CARDS..=payload.cap()).contains(&flashcards.len()));
                let fine = |card: &Flashcard| {
                    ![&card.front, &card.back, &card.topic]
                        .iter()
                        .any(|t| t.is_empty())
                };
                assert!(flashcards.iter().all(fine), "{flashcards:?}");
                let mut token_usage = TokenUsage::default();
                token_usage.add(usage);
                token_usage.add(usage);
                let output = Output {
                    success: true,
                    flashcards,
                    token_usage,
                };
                assert!(serde_json::to_value(output).is_ok());
            }
            Err(failure) => {
                expect_modest(&failure);
                assert!(
                    matches!(failure.class(), Class::Transient | Class::Permanent),
                    "{failure}"
                );
            }
        }
    }
})
.with_factor(64);
