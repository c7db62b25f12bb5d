//! The JSON Schema files are what producers in other languages read. They are written from the types.

use std::{fs, path::PathBuf};

use schemars::{JsonSchema, generate::SchemaSettings};

use crate::{assess_pronunciation, generate_flashcards, process_image};

/// Compares a schema file with its type, or writes it when `UPDATE_SCHEMAS=1`.
fn check<T: JsonSchema>(name: &str, settings: SchemaSettings) {
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let expected = serde_json::to_string_pretty(&schema).unwrap() + "\n";
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

fn payload<T: JsonSchema>(kind: &str) {
    check::<T>(&format!("{kind}.payload"), SchemaSettings::draft2020_12());
}

fn result<T: JsonSchema>(kind: &str) {
    check::<T>(
        &format!("{kind}.result"),
        SchemaSettings::draft2020_12().for_serialize(),
    );
}

#[test]
fn schema_files_match_generate_flashcards() {
    payload::<generate_flashcards::Payload>("generate-flashcards");
    result::<generate_flashcards::Output>("generate-flashcards");
}

#[test]
fn schema_files_match_assess_pronunciation() {
    payload::<assess_pronunciation::Payload>("assess-pronunciation");
    result::<assess_pronunciation::Output>("assess-pronunciation");
}

#[test]
fn schema_files_match_process_image() {
    payload::<process_image::Payload>("process-image");
    result::<process_image::Output>("process-image");
}
