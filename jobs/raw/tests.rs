use hostile::{inputs, seeds};
use serde_json::json;

use super::*;
use crate::FailureClass;

fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).unwrap()
}

fn pick<'a, const N: usize>(json: &'a RawValue, places: [&str; N]) -> [Option<PickedValue<'a>>; N] {
    super::pick(json.get(), places)
}

fn text(text: &str) -> Option<PickedValue<'_>> {
    Some(PickedValue::Text(text.into()))
}

fn count(count: u64) -> Option<PickedValue<'static>> {
    Some(PickedValue::Count(count))
}

#[test]
fn picks_what_stands_in_these_places() {
    let json = raw(r#" {"a": [{"b": 1, "c": "\u00e4\""}, {"b": 2}], "\u0064": "3", "e/f": 4} "#);
    let found = pick(json, ["/a/0/b", "/a/0/c", "/a/1/b", "/d"]);
    assert_eq!(found, [count(1), text("ä\""), count(2), text("3")]);
    let found = pick(json, ["/a/2/b", "/a/b", "/g", "/d/x", "/a", "/ab", "/e/f"]);
    assert_eq!(found, [const { None }; 7]);
}

#[test]
fn of_members_with_the_same_name_the_last_counts() {
    for (json, found) in [
        (r#"{"a":{"b":1,"b":2}}"#, count(2)),
        (r#"{"a":{"b":1},"a":{"b":2}}"#, count(2)),
        (r#"{"a":{"b":1,"b":null}}"#, None),
        (r#"{"a":{"b":1},"a":{}}"#, None),
        (r#"{"a":{"b":1},"a":7}"#, None),
    ] {
        assert_eq!(pick(raw(json), ["/a/b"]), [found], "{json}");
    }
}

#[test]
fn what_is_not_wanted_can_be_what_no_tree_can_hold() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let json = format!(r#"{{"x":{deep},"y":1e999,"z":"\ud800","a":1}}"#);
    let failure = tree(Provider::AzureSpeech, raw(&json)).unwrap_err();
    assert_eq!(failure.class(), FailureClass::Transient);
    assert_eq!(pick(raw(&json), ["/a", "/x"]), [count(1), None]);
    for unreadable in ["/y", "/z", "/y/b"] {
        assert_eq!(pick(raw(&json), ["/a", unreadable]), [None, None], "{unreadable}");
    }
    assert_eq!(pick(raw(r#"{"a":1,"\ud800":1}"#), ["/a"]), [None]);
}

#[test]
fn a_value_is_text_or_a_count() {
    let json =
        raw(r#"{"a":"7","b":7,"c":18446744073709551615,"d":-7,"e":7.0,"f":null,"g":true,"h":[],"i":-0}"#);
    let [a, b, c, rest @ ..] = pick(json, ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h", "/i"]);
    assert_eq!((&a, &b, c), (&text("7"), &count(7), count(u64::MAX)));
    assert_eq!(rest, [const { None }; 6]);
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.text(), a.count()), (Some("7"), None));
    assert_eq!((b.text(), b.count()), (None, Some(7)));
}

#[test]
fn finds_what_a_tree_holds() {
    let places = [
        "/choices/0/message/content",
        "/choices/0/finish_reason",
        "/choices/1",
        "/usage/total_tokens",
    ];
    let seeds = seeds("flashcards_answer");
    let seeds = seeds.into_iter().map(|(_, seed)| seed).collect();
    let (mut trees, mut values) = (0, 0);
    for input in inputs(seeds, 4_000) {
        let Ok(tree) = serde_json::from_slice::<Value>(&input) else {
            continue;
        };
        trees += 1;
        let json = serde_json::from_slice(&input).unwrap();
        for (place, found) in places.into_iter().zip(pick(json, places)) {
            values += usize::from(found.is_some());
            let held = tree.pointer(place);
            let (text, count) = (held.and_then(Value::as_str), held.and_then(Value::as_u64));
            let found = found.as_ref();
            assert_eq!(found.and_then(PickedValue::text), text, "{place} in {json}");
            assert_eq!(found.and_then(PickedValue::count), count, "{place} in {json}");
        }
    }
    assert!(
        trees > 1_000 && values > trees,
        "{values} values in {trees} trees"
    );
}

#[test]
fn a_tree_holds_everything() {
    let found = tree(Provider::AzureSpeech, raw(r#" {"a":[1,null,"ä"]}"#)).unwrap();
    assert_eq!(found, json!({ "a": [1, null, "ä"] }));
}

/// Two bytes name a value that takes seventy.
#[test]
fn an_answer_of_millions_of_values_becomes_no_tree() {
    let answer = |values: usize| {
        let text = format!("[{}0]", "0,".repeat(values));
        RawValue::from_string(text).unwrap()
    };
    let why = tree(Provider::AzureSpeech, &answer(4_000_000))
        .unwrap_err()
        .to_string();
    assert_eq!(
        why,
        "azure-speech: unusable answer: it has more than 1000000 values"
    );
    let value = tree(Provider::AzureSpeech, &answer(100_000)).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 100_001);
}
