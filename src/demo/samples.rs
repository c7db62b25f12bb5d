//! The payloads of the demo's jobs, from the samples that the tests use too.

use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use serde_json::{json, value::RawValue};

const SPEECH: &[&[u8]] = &[
    include_bytes!("../../samples/good_morning.wav"),
    include_bytes!("../../samples/good_morning.ogg"),
];
const IMAGES: &[&[u8]] = &[
    include_bytes!("../../samples/text.png"),
    include_bytes!("../../samples/text.jpg"),
];
/// Subject, topic, native language, target language and material.
const SUBJECTS: &[[&str; 5]] = &[
    [
        "Biology",
        "Photosynthesis",
        "Spanish",
        "English",
        "Plants turn light, water and carbon dioxide into sugar and oxygen.",
    ],
    [
        "History",
        "The printing press",
        "English",
        "en-GB",
        "Movable type made books cheap, and ideas hard to stop.",
    ],
    [
        "Travel",
        "AI Selection",
        "en-US",
        "Spanish",
        "Una semana en Madrid: saludos, comida, direcciones, números.",
    ],
];

/// The payload of the `n`th job.
pub(super) fn payload(kind: JobType, n: u32) -> anyhow::Result<Box<RawValue>> {
    let pick = n as usize / JobType::ALL.len();
    let value = match kind {
        JobType::GenerateFlashcards => {
            let [subject, topic, native, target, content] = SUBJECTS[pick % SUBJECTS.len()];
            json!({
                "content": format!("{content} (job-{n})"), "subject": subject, "topic": topic, "userId": "demo",
                "nativeLanguage": native, "targetLanguage": target,
            })
        }
        JobType::AssessPronunciation => {
            let audio = BASE64_STANDARD.encode(SPEECH[pick % SPEECH.len()]);
            json!({ "referenceText": "Good morning", "audioBase64": audio, "language": "en-US" })
        }
        JobType::ProcessImage => {
            let images: Vec<_> = IMAGES.iter().take(1 + pick % IMAGES.len()).collect();
            let images: Vec<_> = images
                .into_iter()
                .map(|bytes| json!({ "imageBase64": BASE64_STANDARD.encode(bytes) }))
                .collect();
            json!({ "images": images })
        }
    };
    Ok(serde_json::value::to_raw_value(&value)?)
}
