//! The key is taken out however it is written down.

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::providers::{http::MAX_ANSWER, redact::redact};

const KEY: &str = "sk-a/uN0061b+c";

fn without(body: &str) -> String {
    let body = redact(Bytes::copy_from_slice(body.as_bytes()), &SecretString::from(KEY));
    String::from_utf8(body.to_vec()).unwrap()
}

/// A text in which every character is escaped.
fn escaped(text: &str) -> String {
    text.chars().map(|c| format!("\\u{:04X}", u32::from(c))).collect()
}

#[test]
fn the_key_is_found_plain_and_escaped() {
    for (body, left) in [
        (KEY.to_owned(), "[key]"),
        (format!("{KEY}{KEY} and {KEY}."), "[key][key] and [key]."),
        (r"bad key: sk-a\/uN0061b+c".to_owned(), "bad key: [key]"),
        (r"\u0073k-\u0061/\u0075N0061b+c!".to_owned(), "[key]!"),
        (escaped(KEY), "[key]"),
        (format!(r"a\n{KEY}\n"), r"a\n[key]\n"),
        // What is no key, and what is a part of one.
        (
            r"sk-a/uN0061b+d \\\\ sk-a/uN0061b+".to_owned(),
            r"sk-a/uN0061b+d \\\\ sk-a/uN0061b+",
        ),
        (r"\u0073k-\u00".to_owned(), r"\u0073k-\u00"),
        (r"sk-\u006/uN0061b+c\".to_owned(), r"sk-\u006/uN0061b+c\"),
        (String::new(), ""),
    ] {
        assert_eq!(without(&body), left, "{body}");
    }
}

/// Redacts JSON within JSON within JSON: no level of decoding reveals the key, and every level stays valid JSON.
#[test]
fn the_key_is_found_in_json_within_json() {
    let mut body = format!(r#"{{"key": "{}", "n": "\\\\"}}"#, escaped(KEY));
    for _ in 0..4 {
        let clean = without(&body);
        assert!(clean.contains("[key]") && !clean.contains("0061"), "{clean}");
        let mut value: Value = serde_json::from_str(&clean).unwrap();
        while let Some(text) = value["in"].as_str() {
            value = serde_json::from_str(text).unwrap();
        }
        assert_eq!(value, json!({"key": "[key]", "n": "\\\\"}));
        body = json!({ "in": body }).to_string();
    }
}

#[test]
fn a_stand_ins_short_key_garbles_nothing() {
    let body = Bytes::from_static(b"{\"status\": \"succeeded\"}");
    assert_eq!(redact(body.clone(), &SecretString::from("s")), body);
}

/// The worst that a provider can send costs a few looks at each byte. With one at each pair of bytes, this would not
/// end.
#[test]
fn a_long_run_of_backslashes_is_read_once() {
    let body = "\\".repeat(MAX_ANSWER);
    assert_eq!(without(&body), body);
}
