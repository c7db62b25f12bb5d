//! The trace that a producer says it is in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use hostile::Target;

use super::TraceContext;

/// A `traceparent`: it reads the same again, or counts for nothing.
pub(crate) static TRACEPARENT: Target = Target::new("traceparent", |input| {
    if let Some(context) = TraceContext::parse(&String::from_utf8_lossy(input)) {
        let header = context.to_string();
        assert_eq!(header.len(), 55);
        assert_eq!(TraceContext::parse(&header), Some(context));
    }
});

#[test]
fn traceparents() {
    TRACEPARENT.run();
}
