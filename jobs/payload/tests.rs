//! The JSON Schema files are what producers in other languages read. They are written from the types.

use std::{fs, path::PathBuf};

use schemars::Schema;

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
