use serde_json::{Value, json};

use super::*;
use crate::{
    FailureClass,
    testing::{FakeGuard, Script},
};

mod answers;
mod feedbacks;
mod flow;
mod payloads;

fn payload(change: Value) -> Payload {
    let mut payload = json!({ "referenceText": "Good morning", "audioUrl": "https://example.com/a.wav" });
    payload
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    serde_json::from_value(payload).unwrap()
}

fn scores(accuracy: f64, pronunciation: f64) -> Value {
    json!({
        "AccuracyScore": accuracy, "FluencyScore": 85.0, "CompletenessScore": 100.0, "PronScore": pronunciation,
    })
}

/// An answer in the form of REST: scores flat.
fn flat() -> Value {
    let mut best = scores(90.5, 88.0);
    best.as_object_mut().unwrap().extend(
        json!({
            "Display": "Good morning.",
            "Words": [
                { "Word": "good", "AccuracyScore": 97, "ErrorType": "None",
                  "Phonemes": [{ "Phoneme": "g", "AccuracyScore": 99 }] },
                { "Word": "morning", "AccuracyScore": 40, "ErrorType": "Mispronunciation", "Phonemes": [] },
            ],
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    json!({ "RecognitionStatus": "Success", "DisplayText": "Good morning.", "NBest": [best] })
}

/// The same answer in the form of the SDK: scores nested.
fn nested() -> Value {
    json!({
        "RecognitionStatus": "Success",
        "DisplayText": "Good morning.",
        "NBest": [{
            "Display": "Good morning.",
            "PronunciationAssessment": scores(90.5, 88.0),
            "Words": [
                { "Word": "good", "PronunciationAssessment": { "AccuracyScore": 97, "ErrorType": "None" },
                  "Phonemes": [{ "Phoneme": "g", "PronunciationAssessment": { "AccuracyScore": 99 } }] },
                { "Word": "morning",
                  "PronunciationAssessment": { "AccuracyScore": 40, "ErrorType": "Mispronunciation" } },
            ],
        }],
    })
}

fn read(body: &Value) -> Assessment {
    answer::read(body, "Good morning").unwrap().unwrap()
}

fn word(error_type: &str, score: f64, phonemes: &[(&str, f64)]) -> Word {
    let phonemes = phonemes
        .iter()
        .map(|(p, s)| Phoneme {
            phoneme: (*p).to_owned(),
            accuracy_score: *s,
        })
        .collect();
    Word {
        word: "morning".to_owned(),
        accuracy_score: score,
        error_type: error_type.to_owned(),
        phonemes,
    }
}

fn feedback(words: Vec<Word>, change: impl FnOnce(&mut Assessment)) -> Feedback {
    let mut assessment = read(&flat());
    assessment.words = words;
    change(&mut assessment);
    feedback::on(&assessment)
}
