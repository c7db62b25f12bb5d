//! Fuzz target of streamed answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target ends at a broken property"
)]

use hostile::Target;

use super::*;
use crate::chat_answer::ChatAnswer;

/// The bytes of an answer, whatever they are: what is put together of a stream is an answer in JSON, and no longer than
/// what has arrived allows; it is the same however the bytes are cut.
pub(crate) static ANSWER_STREAM: Target = Target::new("answer_stream", |input| {
    let whole = read(input.chunks(input.len().max(1)));
    assert_eq!(whole, read(input.chunks(7)));
    if let Some(body) = whole {
        let body: Box<RawValue> = serde_json::from_str(&body).expect("an answer in JSON");
        ChatAnswer::read(&body);
    }
})
.with_factor(64);

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut reader = StreamReader::default();
    for chunk in chunks {
        if reader.answer.is_done || reader.answer.error.is_some() {
            break;
        }
        reader.push(chunk);
    }
    reader.end();
    matches!(reader.bytes, AnswerBytes::Events(_)).then(|| reader.answer.parts.into_body())
}
