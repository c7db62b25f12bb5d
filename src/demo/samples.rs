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
const SUBJECTS: &[(&str, &str, &str)] = &[
    (
        "Biology",
        "Photosynthesis",
        "Plants turn light, water and carbon dioxide into sugar and oxygen.",
    ),
    (
        "History",
        "The printing press",
        "Movable type made books cheap, and ideas hard to stop.",
    ),
    (
        "Spanish",
        "AI Selection",
        "A first week in Madrid: greetings, food, directions, numbers.",
    ),
];

/// The payload of the `n`th job.
pub(super) fn payload(kind: JobType, n: u32) -> anyhow::Result<Box<RawValue>> {
    let pick = n as usize / JobType::ALL.len();
    let value = match kind {
        JobType::GenerateFlashcards => {
            let (subject, topic, content) = SUBJECTS[pick % SUBJECTS.len()];
            json!({ "content": format!("{content} (job-{n})"), "subject": subject, "topic": topic, "userId": "demo" })
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
