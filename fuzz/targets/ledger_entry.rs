//! Fuzz targets of the ledger's entries: other versions and other programs can write them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use hostile::Target;

use super::page::{read, written};

/// An entry: an answer, which is written the same way again, or none. No tree is made of it.
pub(crate) static LEDGER_ENTRY: Target = Target::new("ledger_entry", |input| {
    let Some(reply) = read(&String::from_utf8_lossy(input)) else {
        return;
    };
    let again = read(&written(&reply)).expect("what was written is read");
    assert_eq!(again, reply);
})
.with_factor(16);

#[test]
fn ledger_entries() {
    LEDGER_ENTRY.run();
}
