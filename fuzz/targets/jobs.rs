//! The fuzz targets of `jobs`. Each file beside this one is a module of the parser that it feeds, so that it sees the
//! parser's private parts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use hostile::Target;

use crate::{
    Failure, FailureClass, JobType, Jobs,
    assess_pronunciation::fuzz::SPEECH_ANSWER,
    generate_flashcards::fuzz::{FLASHCARDS_ANSWER, FLASHCARDS_PROMPT},
    media::fuzz::{AUDIO, BASE64, FILE_PATH, IMAGE, MEDIA_URL},
    process_image::fuzz::VISION_ANSWER,
    providers::{answer_stream::fuzz::ANSWER_STREAM, fuzz::REFUSAL},
};

/// Every target of this crate. The binary of `fuzz/` finds a target here by its name, and its seeds in
/// `fuzz/seeds/<name>`.
pub static TARGETS: &[&Target] = &[
    &ANSWER_STREAM,
    &AUDIO,
    &BASE64,
    &FILE_PATH,
    &FLASHCARDS_ANSWER,
    &FLASHCARDS_PROMPT,
    &IMAGE,
    &MEDIA_URL,
    &PAYLOAD,
    &REFUSAL,
    &SPEECH_ANSWER,
    &VISION_ANSWER,
];

/// Longest text of a failure, characters: it goes into logs, histories and answers.
const LONGEST_FAILURE: usize = 1_500;

/// A payload, of whichever type: checked, or refused with a reason that names the field.
pub(crate) static PAYLOAD: Target = Target::new("payload", |input| {
    for kind in JobType::ALL {
        if let Err(failure) = Jobs::validate(kind, input) {
            expect_modest(&failure);
            assert_eq!(failure.class(), FailureClass::Permanent, "{failure}");
        }
    }
})
.with_factor(8);

#[test]
fn payloads() {
    PAYLOAD.run();
}

/// A failure is short, whatever was sent.
pub(crate) fn expect_modest(failure: &Failure) {
    let text = failure.to_string();
    assert!(text.chars().count() <= LONGEST_FAILURE, "{text}");
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use hostile::Target;
    use serde_json::Value;

    /// The inputs are hostile: each of these promises is broken by one of them.
    #[test]
    fn what_is_broken_is_found() {
        let promises = [
            Target::new("payload", |input| {
                assert!(input.is_empty() || serde_json::from_slice::<Value>(input).is_ok());
            }),
            Target::new("payload", |input| {
                let value = serde_json::from_slice::<Value>(input).unwrap_or_default();
                assert!(!value["count"].is_array(), "a field's type is swapped");
            }),
            Target::new("payload", |input| {
                let value = serde_json::from_slice::<Value>(input).unwrap_or_default();
                assert!(!value.is_object() || value.get("subject").is_some() || value.get("topic").is_none());
            }),
            Target::new("refusal", |input| assert!(!input.contains(&0xff))),
            Target::new("payload", |input| {
                drop(black_box(Vec::<u8>::with_capacity(input.len() * 1_000)));
            }),
        ];
        for (nth, promise) in promises.iter().enumerate() {
            assert!(
                catch_unwind(AssertUnwindSafe(|| promise.run())).is_err(),
                "promise {nth} holds"
            );
        }
    }
}
