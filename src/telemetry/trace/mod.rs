//! Traces for OpenTelemetry: job → attempt → call, continued from the producer's trace, and handed on to the provider
//! as `traceparent`. Off unless a collector is configured.
//!
//! Made here and not by the opentelemetry crates: three kinds of span and one JSON request do not need them, and their
//! weight would be in every build.
//!
//! # Layout
//! - [`TraceContext`]: the W3C header.
//! - [`TraceSpan`]: one span; free of cost while nothing is traced.
//! - `export`: batches of them on their way to the collector.

mod context;
mod export;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/traceparent.rs"]
pub(crate) mod fuzz;

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

pub use context::TraceContext;
pub use export::{ExporterTask, TraceSettings};

use super::metrics::PROCESS;

/// Spans that wait for the exporter at most: what is more is dropped, and counted.
const MOST_WAITING: usize = 8192;

static EXPORTER: OnceLock<mpsc::Sender<SpanRecord>> = OnceLock::new();

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Starts sending traces, where a collector is configured.
///
/// # Errors
/// When the HTTP client cannot be built.
pub fn start(settings: Option<&TraceSettings>, replica: &str) -> Result<ExporterTask, jobs::ClientError> {
    let Some(settings) = settings else {
        return Ok(ExporterTask::default());
    };
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    let exporting = ExporterTask::start(settings, replica, receiver)?;
    let _ = EXPORTER.set(sender); // A process starts once.
    Ok(exporting)
}

/// The kind of a span, with OTLP's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside of the service.
    Internal = 1,
    /// A request to another service.
    Client = 3,
    /// A message taken from a queue.
    Consumer = 5,
}

/// A span that has ended.
#[derive(Debug)]
struct SpanRecord {
    context: TraceContext,
    parent: Option<u64>,
    name: &'static str,
    kind: SpanKind,
    /// Nanoseconds since 1970.
    began: u128,
    ended: u128,
    notes: Vec<(&'static str, String)>,
    failed: bool,
}

/// A span. It is sent when it [ends](Self::end), or is dropped, which counts as a failure.
#[derive(Debug)]
#[must_use = "a span that is dropped at once measures nothing"]
pub struct TraceSpan(Option<SpanRecord>, Option<TraceContext>);

impl TraceSpan {
    /// Begins now, within `parent`'s trace or one of its own; nothing where nothing is traced.
    pub fn start(name: &'static str, kind: SpanKind, parent: Option<TraceContext>) -> Self {
        if EXPORTER.get().is_none() {
            return Self(None, None);
        }
        let context = parent.map_or_else(TraceContext::root, TraceContext::child);
        let record = context.is_sampled().then(|| SpanRecord {
            context,
            parent: parent.map(|parent| parent.span()),
            name,
            kind,
            began: now(),
            ended: 0,
            notes: Vec::new(),
            failed: true,
        });
        Self(record, Some(context))
    }

    /// The context for child spans and other services; `None` where tracing is off.
    pub const fn context(&self) -> Option<TraceContext> {
        self.1
    }

    /// Adds an attribute. Never a payload.
    pub fn note(&mut self, name: &'static str, value: &str) {
        if let Some(record) = &mut self.0 {
            record.notes.push((name, value.to_owned()));
        }
    }

    /// Ends it.
    pub fn end(mut self, failed: bool) {
        if let Some(record) = &mut self.0 {
            record.failed = failed;
        }
    }
}

impl Drop for TraceSpan {
    fn drop(&mut self) {
        if let (Some(mut record), Some(exporter)) = (self.0.take(), EXPORTER.get()) {
            record.ended = now();
            if exporter.try_send(record).is_err() {
                PROCESS.trace_spans[1].add(1);
            }
        }
    }
}

/// Runs a future within a trace: what it starts belongs to it.
pub async fn within<F: Future>(context: Option<TraceContext>, future: F) -> F::Output {
    match context {
        Some(context) => CURRENT.scope(context, future).await,
        None => future.await,
    }
}

/// The trace that this task is in.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok()
}

fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos())
}
