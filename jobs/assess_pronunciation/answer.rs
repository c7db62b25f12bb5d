//! From the provider's JSON to scores. REST puts the scores flat into each object, the SDK nests them under
//! `PronunciationAssessment`: both are read, and every one may be missing.

use serde_json::Value;

use super::{Assessment, PASS_SCORE, Phoneme, Word};
use crate::{Failure, Provider, context::UnusableAnswer, text::clean};

/// The scores in an answer, or `None` when no speech was heard.
///
/// The status `Error` is the provider's own fault. Any other answer of an unexpected form is useless. Speech without a
/// single score is final: the provider understood it, and would not score it the next time either.
pub(super) fn read(body: &Value, reference_text: &str) -> Result<Option<Assessment>, UnusableAnswer> {
    match body["RecognitionStatus"].as_str() {
        Some("Success") => {}
        Some("NoMatch" | "InitialSilenceTimeout" | "BabbleTimeout") => return Ok(None),
        Some("Error") => {
            let message = "azure-speech: the service failed inside of its answer (RecognitionStatus Error)";
            return Err(UnusableAnswer::ProviderFault(
                Failure::transient(message).by(Provider::AzureSpeech),
            ));
        }
        _ => {
            let message = "azure-speech: unusable answer: no known RecognitionStatus";
            return Err(UnusableAnswer::Useless(
                Failure::transient(message).by(Provider::AzureSpeech),
            ));
        }
    }
    let best = best_of(body);
    let heard = [&best["Display"], &body["DisplayText"], &best["Lexical"]]
        .into_iter()
        .find_map(|text| text.as_str().map(clean).filter(|text| !text.is_empty()));
    // Silence is at times answered by a success that heard nothing and scores it 0.
    let Some(heard) = heard else { return Ok(None) };

    let accuracy = score(best, "AccuracyScore");
    let Some(pronunciation) = score(best, "PronScore").or(accuracy) else {
        let message =
            "azure-speech: heard speech but gave no scores: is this language supported for assessment?";
        return Err(UnusableAnswer::Final(
            Failure::permanent(message).by(Provider::AzureSpeech),
        ));
    };
    Ok(Some(Assessment {
        accuracy_score: accuracy.unwrap_or(0.0),
        fluency_score: score(best, "FluencyScore").unwrap_or(0.0),
        completeness_score: score(best, "CompletenessScore").unwrap_or(0.0),
        pronunciation_score: pronunciation,
        recognized_text: heard,
        reference_text: reference_text.to_owned(),
        words: items(best, "Words").map(word).collect(),
        passed: pronunciation >= PASS_SCORE,
    }))
}

/// The alternative to report: the first that is spoken and scored. The service at times puts an empty one in front.
fn best_of(body: &Value) -> &Value {
    let alternatives = || items(body, "NBest");
    let is_scored = |best: &&Value| {
        let score = score(best, "PronScore").or_else(|| score(best, "AccuracyScore"));
        score.is_some_and(|score| score > 0.0)
    };
    let is_spoken = |best: &&Value| {
        let texts = [&best["Display"], &best["Lexical"]];
        texts
            .into_iter()
            .filter_map(Value::as_str)
            .any(|text| !text.trim().is_empty())
    };
    alternatives()
        .find(|best| is_spoken(best) && is_scored(best))
        .or_else(|| alternatives().find(is_scored))
        .or_else(|| alternatives().find(is_spoken))
        .unwrap_or(&body["NBest"][0])
}

fn word(value: &Value) -> Word {
    Word {
        word: text(value, "Word"),
        accuracy_score: score(value, "AccuracyScore").unwrap_or(0.0),
        error_type: field(value, "ErrorType")
            .as_str()
            .map_or_else(|| "None".to_owned(), clean),
        phonemes: items(value, "Phonemes").map(phoneme).collect(),
    }
}

fn phoneme(value: &Value) -> Phoneme {
    Phoneme {
        phoneme: text(value, "Phoneme"),
        accuracy_score: score(value, "AccuracyScore").unwrap_or(0.0),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&value["PronunciationAssessment"][name])
}

fn score(value: &Value, name: &str) -> Option<f64> {
    field(value, name).as_f64().map(|score| score.clamp(0.0, 100.0))
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().map(clean).unwrap_or_default()
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}
