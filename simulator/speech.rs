//! Azure Speech, pronunciation assessment: the checks of a request, and scores drawn from text and audio.

use std::collections::HashMap;

use axum::{extract::Query, http::HeaderMap};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    Bill, Fault, azure, digest,
    exchange::{SimulatedAnswer, SimulatedRequest},
};

/// Longest audio for an assessment.
const MAX_SECONDS: f64 = 30.0;

/// Samples that stay below this are silence.
const SILENCE: u16 = 100;

/// 100 ns, the unit of Azure's times, in a second.
const TICKS: f64 = 10_000_000.0;

/// The content types that the REST interface takes.
const WAV: &str = "audio/wav; codecs=audio/pcm; samplerate=16000";
const OGG: &str = "audio/ogg; codecs=opus";

/// The decoded assessment header as text; empty without one.
pub(super) fn assessment_text(headers: &HeaderMap) -> String {
    let decoded = headers
        .get("pronunciation-assessment")
        .and_then(|value| BASE64_STANDARD.decode(value).ok());
    decoded
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// 429. Speech documents no time to wait: it is said only when one is given.
pub(super) fn rate_limited(retry_after: Option<f64>) -> SimulatedAnswer {
    let answer = azure::refuse(429);
    match retry_after {
        Some(seconds) => answer.with("retry-after", seconds),
        None => answer,
    }
}

/// POST /speech/recognition/conversation/cognitiveservices/v1.
pub(super) fn assess(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    let answer = try_assess(ask).unwrap_or_else(|refusal| refusal);
    answer.with("x-requestid", azure::guid(ask.shared.seed, ask.seq))
}

fn try_assess(ask: &SimulatedRequest<'_>) -> Result<SimulatedAnswer, SimulatedAnswer> {
    azure::authorize(ask, &ask.shared.keys.speech)?;
    let query: Query<HashMap<String, String>> =
        Query::try_from_uri(&ask.parts.uri).map_err(|_| invalid("The query string is not valid."))?;
    if query
        .get("language")
        .is_none_or(|language| language.trim().is_empty())
    {
        return Err(invalid("Missing query parameter: language."));
    }
    if query.get("format").map(String::as_str) != Some("detailed") {
        return Err(invalid(
            "An assessment needs the query parameter format=detailed.",
        ));
    }
    let accept = ask.header("accept");
    if !accept.is_empty() && !accept.contains("application/json") && !accept.contains("*/*") {
        return Err(azure::error(
            406,
            "NotAcceptable",
            "Only application/json can be produced.",
        ));
    }
    let wanted = AssessmentRequest::from_header(&assessment_text(&ask.parts.headers))?;
    let audio = AudioFacts::read(ask)?;
    if audio.seconds > MAX_SECONDS {
        return Err(invalid("The audio of an assessment is limited to 30 seconds."));
    }
    let bill = Bill {
        seconds: audio.seconds.ceil() as u64,
        ..Bill::default()
    };
    if let Some(Fault::Speech { status }) = ask.fault {
        return Ok(unrecognized(status.as_str(), audio.seconds).billed(bill));
    }
    if audio.silent {
        return Ok(unrecognized("InitialSilenceTimeout", audio.seconds).billed(bill));
    }
    Ok(SimulatedAnswer::json(200, &wanted.score(ask.body.len(), audio.seconds)).billed(bill))
}

fn invalid(message: &str) -> SimulatedAnswer {
    azure::error(400, "BadRequest", message)
}

fn unrecognized(status: &str, seconds: f64) -> SimulatedAnswer {
    SimulatedAnswer::json(
        200,
        &json!({"RecognitionStatus": status, "Offset": ticks(seconds), "Duration": 0}),
    )
}

fn ticks(seconds: f64) -> u64 {
    (seconds * TICKS) as u64
}

/// What is known of the audio without decoding it.
struct AudioFacts {
    seconds: f64,
    silent: bool,
}

impl AudioFacts {
    fn read(ask: &SimulatedRequest<'_>) -> Result<Self, SimulatedAnswer> {
        let said: String = ask
            .header("content-type")
            .to_ascii_lowercase()
            .split_whitespace()
            .collect();
        let is = |known: &str| said == known.replace(' ', "");
        if is(WAV) {
            Self::wav(ask.body)
                .ok_or_else(|| invalid("The audio is not RIFF/WAVE with 16 kHz mono 16-bit PCM."))
        } else if is(OGG) {
            Self::ogg(ask.body).ok_or_else(|| invalid("The audio is not an Ogg stream with Opus."))
        } else {
            Err(azure::error(
                415,
                "UnsupportedMediaType",
                &format!("Content-Type must be {WAV} or {OGG}."),
            ))
        }
    }

    fn wav(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
        let mut right_format = false;
        loop {
            let (head, tail) = rest.split_at_checked(8)?;
            let length = usize::try_from(u32::from_le_bytes([head[4], head[5], head[6], head[7]])).ok()?;
            match &head[..4] {
                b"fmt " => {
                    let number = |at: usize| Some(u16::from_le_bytes([*tail.get(at)?, *tail.get(at + 1)?]));
                    let rate = u32::from(number(4)?) | u32::from(number(6)?) << 16;
                    right_format = (number(0)?, number(2)?, rate, number(14)?) == (1, 1, 16_000, 16);
                }
                // A stream may not know its length and give the largest: what is there counts.
                b"data" => {
                    let samples = &tail[..length.min(tail.len())];
                    let loudest = samples
                        .chunks_exact(2)
                        .map(|sample| i16::from_le_bytes([sample[0], sample[1]]).unsigned_abs())
                        .max();
                    let seconds = samples.len() as f64 / 32_000.0;
                    let silent = loudest.is_none_or(|sample| sample < SILENCE);
                    return right_format.then_some(Self { seconds, silent });
                }
                _ => {}
            }
            // Chunks are padded to an even length.
            rest = tail.get(length.checked_add(length % 2)?..)?;
        }
    }

    fn ogg(bytes: &[u8]) -> Option<Self> {
        let first = bytes
            .get(..bytes.len().min(128))
            .filter(|head| head.starts_with(b"OggS"))?;
        digest::find(first, b"OpusHead")?;
        // The last page says how many samples, at 48 kHz, end there.
        let last = bytes.windows(4).rposition(|window| window == b"OggS")?;
        let samples = u64::from_le_bytes(bytes.get(last + 6..last + 14)?.try_into().ok()?);
        Some(Self {
            seconds: samples as f64 / 48_000.0,
            silent: false,
        })
    }
}

/// What the assessment header asks for.
struct AssessmentRequest {
    reference: String,
    comprehensive: bool,
    words: bool,
    phonemes: bool,
    miscue: bool,
}

impl AssessmentRequest {
    fn from_header(decoded: &str) -> Result<Self, SimulatedAnswer> {
        let Ok(Value::Object(wanted)) = serde_json::from_str(decoded) else {
            return Err(invalid(
                "The header Pronunciation-Assessment must be the base64 of a JSON object.",
            ));
        };
        let text = |name: &str| wanted.get(name).and_then(Value::as_str).unwrap_or_default();
        let reference = text("ReferenceText").trim().to_owned();
        if reference.is_empty() {
            return Err(invalid("Pronunciation-Assessment lacks ReferenceText."));
        }
        if !["", "HundredMark"].contains(&text("GradingSystem")) {
            return Err(invalid(
                "The simulator knows the GradingSystem HundredMark alone.",
            ));
        }
        let granularity = text("Granularity");
        if !["", "Phoneme", "Word", "FullText"].contains(&granularity) {
            return Err(invalid("Granularity must be Phoneme, Word or FullText."));
        }
        let miscue = wanted.get("EnableMiscue");
        Ok(Self {
            reference,
            comprehensive: text("Dimension") == "Comprehensive",
            words: granularity != "FullText",
            phonemes: ["", "Phoneme"].contains(&granularity),
            miscue: miscue.is_some_and(|flag| *flag == true || *flag == "True" || *flag == "true"),
        })
    }

    /// 60 to 100 for everything; 20 to 45 with errors when the reference text says "mumble".
    fn score(&self, audio_bytes: usize, seconds: f64) -> Value {
        let seed = digest::of(&[self.reference.as_bytes(), &audio_bytes.to_le_bytes()]);
        let mumbled = self.reference.to_lowercase().contains("mumble");
        let score = |salt: u64| {
            let (least, span) = if mumbled { (20, 25) } else { (60, 40) };
            let tenths = digest::mix(seed ^ digest::mix(salt)) % (span * 10 + 1);
            (least * 10 + tenths) as f64 / 10.0
        };
        let spoken: Vec<&str> = self
            .reference
            .split_whitespace()
            .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
            .filter(|word| !word.is_empty())
            .collect();
        let error_of = |i: usize| match (mumbled, i % 3) {
            (true, 0) => "Mispronunciation",
            (true, 1) if self.miscue => "Omission",
            _ => "None",
        };
        let heard: Vec<&str> = spoken
            .iter()
            .enumerate()
            .filter_map(|(i, word)| (error_of(i) != "Omission").then_some(*word))
            .collect();
        let (display, lexical) = match heard.len() == spoken.len() {
            true => (self.reference.clone(), heard.join(" ").to_lowercase()),
            false => (heard.join(" "), heard.join(" ").to_lowercase()),
        };
        let mut best = json!({
            "Confidence": 0.97,
            "Lexical": lexical,
            "ITN": lexical,
            "MaskedITN": lexical,
            "Display": display,
            "AccuracyScore": score(1),
        });
        if self.comprehensive {
            let completeness = 100.0 * heard.len() as f64 / spoken.len().max(1) as f64;
            best["FluencyScore"] = json!(score(2));
            best["CompletenessScore"] = json!(completeness.round());
            best["PronScore"] = json!(score(1).min(score(2)));
        }
        if self.words {
            let step = seconds / spoken.len().max(1) as f64;
            let words = spoken.iter().enumerate().map(|(i, word)| {
                let (error, salt) = (error_of(i), (i as u64 + 1) << 16);
                let mut scored = json!({
                    "Word": word,
                    "AccuracyScore": if error == "Omission" { 0.0 } else { score(salt) },
                    "ErrorType": error,
                });
                if error != "Omission" {
                    scored["Offset"] = json!(ticks(step * i as f64));
                    scored["Duration"] = json!(ticks(step));
                }
                if self.phonemes && error != "Omission" {
                    let phonemes = word.chars().filter(|c| c.is_alphanumeric()).take(64).enumerate();
                    scored["Phonemes"] = phonemes
                        .map(|(n, letter)| {
                            let phoneme: String = letter.to_lowercase().collect();
                            json!({"Phoneme": phoneme, "AccuracyScore": score(salt + 1 + n as u64)})
                        })
                        .collect();
                }
                scored
            });
            best["Words"] = words.collect();
        }
        json!({
            "RecognitionStatus": "Success",
            "Offset": 0,
            "Duration": ticks(seconds),
            "DisplayText": display,
            "NBest": [best],
        })
    }
}
