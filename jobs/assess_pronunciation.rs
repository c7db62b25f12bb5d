//! `assess-pronunciation`: a score for a spoken sentence, by Azure Speech.
//!
//! - `answer`: the scores, from what came back.
//! - `feedback`: the texts for the learner about them.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    CallAttempt, CallUsage, Failure, Job, JobCost, JobResources, Provider, ProviderCall, ProviderGuard,
    context::{self, UnusableAnswer},
    media::{Media, MediaSource, audio, decoder::MediaDecoder},
    payload,
    providers::AzureSpeech,
    raw,
};

mod answer;
mod feedback;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/speech.rs"]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

/// The provider assesses no more than this.
const LONGEST_AUDIO: Duration = Duration::from_secs(30);
/// The language when the payload names none.
const USUAL_LANGUAGE: &str = "en-US";
/// The pronunciation score from which a sentence has passed.
const PASS_SCORE: f64 = 60.0;
/// Feedback for a recording without speech.
const NO_SPEECH: &str = "No speech recognized. Please speak clearly, close to the microphone, and try again.";

/// The payload of `assess-pronunciation`. Exactly one of the three `audio…` fields is given. The recording lasts at
/// most 30 s.
// No Debug: a signed URL is a secret.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    title = "assess-pronunciation payload",
    extend("oneOf" = [
        {"required": ["audioUrl"]}, {"required": ["audioBase64"]}, {"required": ["audioFilePath"]}
    ])
)]
pub struct Payload {
    /// The text to say, at most 1,000 characters.
    #[serde(default, deserialize_with = "payload::prose")]
    #[schemars(!default, length(min = 1, max = 1_000))]
    pub reference_text: String,
    /// Where the recording can be fetched, over https.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub audio_url: Option<String>,
    /// The recording itself, in base64, with or without a `data:` prefix.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub audio_base64: Option<String>,
    /// The recording's path below the uploads folder.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub audio_file_path: Option<String>,
    /// The language spoken, a BCP 47 tag. Absent: `en-US`.
    #[serde(default, deserialize_with = "payload::optional_prose")]
    #[schemars(!default, length(max = 35))]
    pub language: Option<String>,
    /// The text that this was read from: it counts as memory in use until this is dropped.
    #[serde(skip)]
    #[schemars(skip)]
    pub held: Option<Bytes>,
}

impl Payload {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`](crate::FailureClass::Permanent), naming the field and what is wrong with it.
    pub fn validate(&self) -> Result<(), Failure> {
        payload::required(&[("referenceText", &self.reference_text)])?;
        payload::at_most("referenceText", &self.reference_text, 1_000)?;
        if !is_language_tag(self.language()) {
            return Err(Failure::invalid_field(
                "language",
                "must be a language tag such as en-US",
            ));
        }
        self.source().map(drop)
    }

    fn source(&self) -> Result<(String, MediaSource<'_>), Failure> {
        payload::one_source(
            "audio",
            self.audio_url.as_ref(),
            self.audio_base64.as_ref(),
            self.audio_file_path.as_ref(),
        )
    }

    fn language(&self) -> &str {
        payload::given(self.language.as_ref()).unwrap_or(USUAL_LANGUAGE)
    }
}

/// The form of a BCP 47 tag, not its meaning: the provider knows which languages it assesses.
fn is_language_tag(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let language = parts.next().unwrap_or_default();
    tag.len() <= 35
        && (2..=8).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_alphabetic())
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The result of `assess-pronunciation`: the scores with feedback, or an error that the learner can act on.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "assess-pronunciation result")]
pub struct Output {
    /// True if speech was heard, and so could be scored.
    pub success: bool,
    /// The scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Assessment>,
    /// Advice on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The cost of the job. The worker adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<JobCost>,
}

impl Output {
    fn scored(assessment: Assessment) -> Self {
        let feedback = Some(feedback::on(&assessment));
        Self {
            success: true,
            result: Some(assessment),
            feedback,
            error: None,
            usage: None,
        }
    }

    fn no_speech() -> Self {
        Self {
            success: false,
            result: None,
            feedback: None,
            error: Some(NO_SPEECH.to_owned()),
            usage: None,
        }
    }
}

/// The scores of a sentence, each from 0 to 100.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assessment {
    /// Closeness of the sounds to a native speaker's.
    pub accuracy_score: f64,
    /// Closeness of the pauses to a native speaker's.
    pub fluency_score: f64,
    /// Share of the reference text that was said.
    pub completeness_score: f64,
    /// The overall score.
    pub pronunciation_score: f64,
    /// The text that was heard.
    pub recognized_text: String,
    /// The text to say.
    pub reference_text: String,
    /// Word by word.
    pub words: Vec<Word>,
    /// True if the overall score is 60 or more.
    pub passed: bool,
}

/// The score of a word.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Word {
    /// The word.
    pub word: String,
    /// From 0 to 100.
    pub accuracy_score: f64,
    /// `None`, `Omission`, `Insertion`, `Mispronunciation`, or what else the provider says.
    pub error_type: String,
    /// Sound by sound.
    pub phonemes: Vec<Phoneme>,
}

/// The score of a sound.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phoneme {
    /// The sound, in the provider's alphabet.
    pub phoneme: String,
    /// From 0 to 100.
    pub accuracy_score: f64,
}

/// The feedback for the learner.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feedback {
    /// On the whole sentence.
    pub overall: String,
    /// On its sounds.
    pub accuracy: String,
    /// On its flow.
    pub fluency: String,
    /// The words to work on, in the order of the sentence.
    pub word_issues: Vec<WordIssue>,
}

/// A word to work on.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WordIssue {
    /// The word.
    pub word: String,
    /// The word's error type, or `LowAccuracy`.
    pub issue: String,
    /// The word's accuracy, from 0 to 100.
    pub score: f64,
    /// Advice on it.
    pub suggestion: String,
}

/// Scores recordings.
#[derive(Debug, Clone)]
pub struct AssessPronunciation {
    speech: Option<AzureSpeech>,
    media: Media,
    decoder: Arc<dyn MediaDecoder>,
}

impl Job for AssessPronunciation {
    const NAME: &'static str = "assess-pronunciation";
    const QUEUE: &'static str = "audio-jobs";
    const PROVIDER: Provider = Provider::AzureSpeech;
    const FAILURE_SENTENCE: &'static str = "The recording could not be assessed.";

    type Payload = Payload;
    type Output = Output;

    fn new(resources: &JobResources) -> Self {
        Self {
            speech: resources.clients.speech.clone(),
            media: resources.media.clone(),
            decoder: resources.decoder.clone(),
        }
    }

    fn validate(payload: &Payload) -> Result<(), Failure> {
        payload.validate()
    }

    fn keep_source(payload: &mut Payload, source: Bytes) {
        payload.held = Some(source);
    }

    /// Scores a recording.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`](crate::FailureClass::Permanent) for a bad payload or recording, and for a language
    /// that the provider does not score; [`FailureClass::Deployment`](crate::FailureClass::Deployment) without a key;
    /// else what the media or the guard say.
    async fn run(&self, payload: Payload, guard: &dyn ProviderGuard) -> Result<Output, Failure> {
        payload.validate()?;
        let speech = self.speech.as_ref().ok_or_else(|| {
            Failure::deployment("AZURE_SPEECH_KEY is not set: this worker cannot assess pronunciation")
                .by(Provider::AzureSpeech)
        })?;
        let (field, source) = payload.source()?;
        let bytes = self.media.load(&field, source).await?;
        let audio = audio::prepare(&*self.decoder, &field, bytes, LONGEST_AUDIO).await?;
        let (text, language) = (
            payload.reference_text.trim().to_owned(),
            payload.language().to_owned(),
        );
        // The recording in it is large, and the call may wait for long.
        drop(payload);
        let (text, language) = (text.as_str(), language.as_str());
        assess(text, audio.duration, guard, &|| {
            Box::pin(speech.assess(text, language, &audio))
        })
        .await
    }
    fn is_reusable(result: &Value) -> bool {
        result["success"] == true && result["result"]["words"].is_array()
    }

    fn samples() -> Vec<Value> {
        let recordings: [&[u8]; 2] = [
            include_bytes!("../samples/good_morning.wav"),
            include_bytes!("../samples/good_morning.ogg"),
        ];
        let sample = |recording| {
            let audio = BASE64_STANDARD.encode(recording);
            json!({ "referenceText": "Good morning", "audioBase64": audio, "language": "en-US" })
        };
        recordings.map(sample).to_vec()
    }
}

async fn assess<'a>(
    reference_text: &'a str,
    duration: Duration,
    guard: &'a dyn ProviderGuard,
    ask: &'a CallAttempt<'a>,
) -> Result<Output, Failure> {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let call = ProviderCall::new(Provider::AzureSpeech, "assess").estimating(CallUsage::audio(milliseconds));
    let read = |answer: &_| {
        answer::read(
            &raw::tree(call.provider, answer).map_err(UnusableAnswer::Useless)?,
            reference_text,
        )
    };
    let assessment = context::ask(guard, &call, ask, &read).await?;
    Ok(assessment.map_or_else(Output::no_speech, Output::scored))
}
