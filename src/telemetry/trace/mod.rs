//! Traces for OpenTelemetry: job → attempt → call, continued from the producer's trace, and handed on to the provider
//! as `traceparent`. Off unless a collector is configured.
//!
//! All spans are those of `tracing`. The log shows them, and with traces on, a layer hands them to OpenTelemetry's SDK.
//!
//! # Layout
//! - [`TraceContext`]: the W3C header.
//! - `names`: the spans that are traced, and their attributes by OpenTelemetry's conventions.
//! - [`TraceSettings`]: the settings from the `OTEL_*` variables.
//! - [`TraceExporter`]: batches of spans on their way to the collector.

mod context;
mod export;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/traceparent.rs"]
pub(crate) mod fuzz;
mod names;
mod settings;

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::Status;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use context::TraceContext;
pub use export::{StartError, TraceExporter};
pub use settings::{ExportQueue, TraceSettings};

/// Set once spans are handed to OpenTelemetry: without it the functions here cost one load.
static IS_ON: AtomicBool = AtomicBool::new(false);

fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Puts a span into the trace that `parent` names. Before the span has children.
pub fn continue_from(span: &Span, parent: Option<&TraceContext>) {
    if let Some(parent) = parent.filter(|_| is_on()) {
        // An error means that the log's filter leaves the span out, and the layer with it: nothing is traced then.
        let _ = span.set_parent(parent.as_parent());
    }
}

/// Adds an attribute to the span of a trace alone, not to that of the log. Callers pass no payload.
pub fn note(span: &Span, name: &'static str, value: &str) {
    if is_on() {
        span.set_attribute(name, value.to_owned());
    }
}

/// The context for requests to other services; `None` where tracing is off.
pub fn context(span: &Span) -> Option<TraceContext> {
    is_on().then(|| TraceContext::of(&span.context())).flatten()
}

/// The end of a span: dropped, it marks the span as failed, because work that was cut off has failed.
#[derive(Debug)]
#[must_use = "a span that is not ended has failed"]
pub struct SpanEnd<'a>(&'a Span, bool);

impl<'a> SpanEnd<'a> {
    /// The end of this span.
    pub fn of(span: &'a Span) -> Self {
        Self(span, true)
    }

    /// Ends it.
    pub fn set(mut self, failed: bool) {
        self.1 = failed;
    }
}

impl Drop for SpanEnd<'_> {
    fn drop(&mut self) {
        if self.1 && is_on() {
            self.0.set_status(Status::error(""));
        }
    }
}
