//! The same provider answers through the replaced Node worker and through this one: the results have the same fields of
//! the same types. [`DIFFERENCES`] lists each difference with its reason, and holds both ways.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::node_script;

/// The corpus of provider answers. Each of its results is proven to be this worker's, by `handlers::decks`.
const CORPUS: &str = include_str!("../../jobs/generate_flashcards/tests/corpus.json");

/// The ten answers of the comparison, by their names in the corpus.
const ANSWERS: [&str; 10] = [
    "six good cards",
    "deck in a Markdown fence",
    "deck as a bare array",
    "text before and after",
    "difficulty with a capital",
    "cut off after 14 complete cards",
    "pronunciations",
    "duplicates by front in one topic",
    "a question as front is dropped",
    "no usage",
];

/// A difference between the two results.
struct Difference {
    answer: &'static str,
    /// The field; `flashcards[]` stands for any card.
    at: &'static str,
    node: &'static str,
    ours: &'static str,
    reason: &'static str,
}

const EACH: &str = "each";

const DIFFERENCES: &[Difference] = &[
    Difference {
        answer: EACH,
        at: "requestedCards",
        node: "missing",
        ours: "number",
        reason: "a deck with few cards says so",
    },
    Difference {
        answer: EACH,
        at: "usage",
        node: "missing",
        ours: "object",
        reason: "the details of the tokens stand beside their total",
    },
    Difference {
        answer: EACH,
        at: "flashcards[].pronunciation",
        node: "null",
        ours: "missing",
        reason: "the field is optional in the app's type, which knows no null; Node passed on the model's null",
    },
    Difference {
        answer: "pronunciations",
        at: "flashcards[].pronunciation",
        node: "null or string",
        ours: "missing or string",
        reason: "as above: cards without a pronunciation have none",
    },
    Difference {
        answer: "difficulty with a capital",
        at: "difficulty",
        node: "Beginner",
        ours: "beginner",
        reason: "the app counts three exact values",
    },
    Difference {
        answer: "duplicates by front in one topic",
        at: "cards",
        node: "4",
        ours: "3",
        reason: "two blanks inside of a front make no other term",
    },
    Difference {
        answer: "a question as front is dropped",
        at: "cards",
        node: "5",
        ours: "3",
        reason: "the app cannot play with a question as front",
    },
];

#[tokio::test]
async fn the_replaced_worker_and_this_one_have_the_same_results() {
    let corpus: Vec<Value> = serde_json::from_str(CORPUS).unwrap();
    let cases = ANSWERS.map(|name| {
        let mut case = corpus.iter().find(|case| case["name"] == name).unwrap().clone();
        case["payload"]["topic"] = json!("Cells");
        case
    });
    let theirs = replaced(&json!(cases)).await;
    let mut found: Vec<[String; 4]> = Vec::new();
    for (case, theirs) in cases.iter().zip(theirs.as_array().unwrap()) {
        let name = case["name"].as_str().unwrap();
        let (node, ours) = (outline(&theirs["result"]), outline(&case["result"]));
        let missing = "missing".to_owned();
        for at in node
            .keys()
            .chain(ours.keys().filter(|at| !node.contains_key(*at)))
        {
            let (node, ours) = (node.get(at).unwrap_or(&missing), ours.get(at).unwrap_or(&missing));
            if node != ours {
                found.push([name.to_owned(), at.clone(), node.clone(), ours.clone()]);
            }
        }
    }
    let is = |d: &Difference, [answer, at, node, ours]: &[String; 4]| {
        (d.answer == EACH || d.answer == answer) && d.at == at && d.node == node && d.ours == ours
    };
    let surprises: Vec<_> = found
        .iter()
        .filter(|f| !DIFFERENCES.iter().any(|d| is(d, f)))
        .collect();
    let unseen: Vec<_> = DIFFERENCES
        .iter()
        .filter(|d| !found.iter().any(|f| is(d, f)))
        .map(|d| (d.answer, d.at, d.reason))
        .collect();
    assert!(
        surprises.is_empty() && unseen.is_empty(),
        "not in the table: {surprises:#?}\nin the table, not seen: {unseen:#?}"
    );
}

/// The results of the replaced worker, in the order of the cases.
async fn replaced(cases: &Value) -> Value {
    let mut node = node_script("replaced-decks.mjs")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = node.stdin.take().unwrap();
    input.write_all(cases.to_string().as_bytes()).await.unwrap();
    drop(input);
    let output = node.wait_with_output().await.unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The types of a result's fields, its number of cards, and the difficulties and token totals in it.
fn outline(result: &Value) -> BTreeMap<String, String> {
    let mut outline = BTreeMap::new();
    for (name, value) in result.as_object().unwrap() {
        outline.insert(name.clone(), kind(value).to_owned());
    }
    let cards = result["flashcards"].as_array().unwrap();
    outline.insert("cards".to_owned(), cards.len().to_string());
    outline.insert("total of tokens".to_owned(), result["tokenUsage"].to_string());
    for field in ["front", "back", "topic", "difficulty", "example", "pronunciation"] {
        let mut kinds: Vec<_> = cards
            .iter()
            .map(|card| card.get(field).map_or("missing", kind))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        outline.insert(format!("flashcards[].{field}"), kinds.join(" or "));
    }
    let first = cards[0]["difficulty"].as_str().unwrap_or_default();
    outline.insert("difficulty".to_owned(), first.to_owned());
    outline
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
