//! What stands in the ledger: any version may have written it, or anybody.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target that is surprised shall end"
)]

use hostile::Target;

use super::{Value, read, written};

/// An entry: an answer, which is written the same way again, or none. The parser of fractions may be one off in their last
/// bit, which is less than any score shows.
pub static LEDGER_ENTRY: Target = Target::new("ledger_entry", |input| {
    let Some(reply) = read(&String::from_utf8_lossy(input)) else {
        return;
    };
    let again = read(&written(&reply)).expect("what was written is read");
    assert_eq!(again.tokens, reply.tokens);
    assert_eq!(without_fractions(again.body), without_fractions(reply.body));
});

fn without_fractions(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::Null,
        Value::Array(items) => items.into_iter().map(without_fractions).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, value)| (name, without_fractions(value)))
                .collect()
        }
        other => other,
    }
}
