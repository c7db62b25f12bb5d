//! Fuzz targets of Azure Vision's answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use hostile::Target;
use serde_json::Value;

use super::recognise::{OperationState, analyzed, polled, submitted};
use crate::{Failure, fuzzing::expect_modest};

/// An answer of either service: lines, the state of an operation, or a reason why it is neither.
pub(crate) static VISION_ANSWER: Target = Target::new("vision_answer", |input| {
    let Ok(body) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    expect_lines(analyzed(&body), input);
    match polled(&body) {
        Ok(OperationState::Running | OperationState::Unknown) => {}
        Ok(OperationState::Ended(end)) => expect_lines(end, input),
        Err(failure) => expect_modest(&failure),
    }
    if let Err(failure) = submitted(&body) {
        expect_modest(&failure);
    }
});

#[test]
fn vision_answers() {
    VISION_ANSWER.run();
}

fn expect_lines(lines: Result<Vec<String>, Failure>, input: &[u8]) {
    match lines {
        Ok(lines) => assert!(lines.iter().map(String::len).sum::<usize>() <= input.len()),
        Err(failure) => expect_modest(&failure),
    }
}
