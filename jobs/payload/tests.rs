//! The JSON Schema files are what producers in other languages read. They are written from the types.

use std::{fs, path::PathBuf};

use schemars::Schema;

use super::payload_text;
use crate::JobType;

/// Compares a schema file with its type, or writes it when `UPDATE_SCHEMAS=1`.
fn check(name: &str, schema: &Schema) {
    let expected = serde_json::to_string_pretty(schema).unwrap() + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("schemas")
        .join(format!("{name}.json"));
    if std::env::var("UPDATE_SCHEMAS").is_ok_and(|value| value == "1") {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "schemas/{name}.json differs from its type. Run `UPDATE_SCHEMAS=1 cargo test -p jobs schema` and review \
         the change: other programs rely on these files."
    );
}

#[test]
fn schema_files_match_the_types() {
    for kind in JobType::ALL {
        let schemas = kind.schemas();
        check(&format!("{kind}.payload"), &schemas.payload);
        check(&format!("{kind}.result"), &schemas.result);
    }
}

#[test]
fn payloads_are_read_in_each_encoding_of_unicode() {
    let text = r#"{"content":"caf\u00e9 – Ωmega"}"#.replace("\\u00e9", "é");
    let units: Vec<u16> = text.encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for bytes in [
        text.clone().into_bytes(),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        [b"\xff\xfe", &little[..]].concat(),
        [b"\xfe\xff", &big[..]].concat(),
        little,
        big,
    ] {
        assert_eq!(payload_text(&bytes).unwrap(), text);
    }
    // Half of a pair becomes U+FFFD, in a name as in a value.
    let cut = [b"\xff\xfe".as_slice(), b"\"\0\x3d\xd8\"\0"].concat();
    assert_eq!(payload_text(&cut).unwrap(), "\"\u{fffd}\"");
    let names = payload_text(br#"{"\ud83d":1,"a":"\ude00"}"#).unwrap();
    assert_eq!(names, r#"{"\ufffd":1,"a":"\ufffd"}"#);
    assert_eq!(payload_text(b"").unwrap(), "");
    for bytes in [&b"\xff\xfe\x00"[..], b"{\"a\":\"caf\xe9\"}"] {
        let refusal = payload_text(bytes).unwrap_err().to_string();
        assert!(refusal.contains("it is not UTF-8"), "{refusal}");
    }
}
