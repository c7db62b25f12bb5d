//! Fuzz targets of Azure Speech's answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target ends at a broken property"
)]

use hostile::Target;
use serde_json::Value;

use super::*;
use crate::{FailureClass, fuzzing::expect_modest};

/// An answer: scores from 0 to 100 with feedback on them, silence, or a reason why it is neither.
pub(crate) static SPEECH_ANSWER: Target = Target::new("speech_answer", |input| {
    let Ok(body) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    match answer::read(&body, "Good morning") {
        Ok(None) => {}
        Ok(Some(assessment)) => {
            let sounds = assessment
                .words
                .iter()
                .flat_map(|word| &word.phonemes)
                .map(|p| p.accuracy_score);
            let words = assessment.words.iter().map(|word| word.accuracy_score);
            let whole = [
                assessment.accuracy_score,
                assessment.fluency_score,
                assessment.completeness_score,
                assessment.pronunciation_score,
            ];
            let mut scores = whole.into_iter().chain(words).chain(sounds);
            assert!(
                scores.all(|score| (0.0..=100.0).contains(&score)),
                "{assessment:?}"
            );
            assert!(serde_json::to_value(Output::scored(assessment)).is_ok());
        }
        Err(unusable) => {
            let failure = Failure::from(unusable);
            expect_modest(&failure);
            assert!(
                matches!(failure.class(), FailureClass::Transient | FailureClass::Permanent),
                "{failure}"
            );
        }
    }
});

#[test]
fn speech_answers() {
    SPEECH_ANSWER.run();
}
