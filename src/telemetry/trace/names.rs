//! The spans that are traced, under the names of OpenTelemetry's conventions.
//!
//! The fields of a span are those of the log. Some become attributes under another name; the others stay in the log.

use opentelemetry::{
    Context, Key,
    trace::{SpanBuilder, SpanKind, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use tracing::Metadata;

/// A span that is traced.
struct TracedSpan {
    name: &'static str,
    kind: SpanKind,
    /// A field of the log, and the attribute that it becomes.
    field: (&'static str, &'static str),
}

const SPANS: [TracedSpan; 3] = [
    TracedSpan {
        name: "job",
        kind: SpanKind::Consumer,
        field: ("id", "messaging.message.id"),
    },
    TracedSpan {
        name: "attempt",
        kind: SpanKind::Internal,
        field: ("step", "backend_worker.step"),
    },
    TracedSpan {
        name: "call",
        kind: SpanKind::Client,
        field: ("provider", "server.address"),
    },
];

/// Returns true for the spans of this crate that are traced. Events are not: their texts are the log's.
pub(super) fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && metadata.target().starts_with("backend_worker")
        && SPANS.iter().any(|span| span.name == metadata.name())
}

/// Makes the SDK's spans out of those of the log.
#[derive(Debug)]
pub(super) struct ConventionTracer(pub(super) SdkTracer);

impl Tracer for ConventionTracer {
    type Span = Span;

    fn build_with_context(&self, mut builder: SpanBuilder, parent: &Context) -> Span {
        if let Some(traced) = SPANS.iter().find(|span| span.name == builder.name) {
            builder.span_kind = Some(traced.kind.clone());
            let (field, name) = traced.field;
            if let Some(attributes) = &mut builder.attributes {
                attributes.retain_mut(|attribute| {
                    if attribute.key.as_str() == field {
                        attribute.key = Key::from_static_str(name);
                    }
                    // Fields of the log are single words, names of OpenTelemetry have a namespace.
                    attribute.key.as_str().contains('.')
                });
            }
        }
        self.0.build_with_context(builder, parent)
    }
}
