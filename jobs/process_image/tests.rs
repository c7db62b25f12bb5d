use std::time::Duration;

use serde_json::{Value, json};

use super::{recognise::OperationState, *};
use crate::{
    VisionApi,
    testing::{FakeGuard, Script},
};

mod answers;
mod flow;
mod loads;
mod payloads;
mod results;

fn validate(payload: Value) -> Result<(), Failure> {
    serde_json::from_value::<Payload>(payload).unwrap().validate()
}

fn words(lines: &[&str]) -> Result<Vec<String>, Failure> {
    Ok(lines.iter().map(|line| (*line).to_owned()).collect())
}

fn part(lines: &[&str]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|text| json!({ "text": text, "words": [] }))
        .collect();
    json!({ "lines": lines })
}
