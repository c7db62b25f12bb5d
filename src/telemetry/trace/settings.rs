//! The settings of traces, from the `OTEL_*` variables.

use std::{fmt, time::Duration};

use opentelemetry_sdk::trace::Sampler;
use reqwest::header::{HeaderName, HeaderValue};
use url::Url;

/// How spans are traced, and where they are sent.
#[derive(Clone)]
pub struct TraceSettings {
    /// The collector's URL for traces.
    pub endpoint: Url,
    /// Headers that it wants; they may hold a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long the collector may take.
    pub timeout: Duration,
    /// True if requests are compressed.
    pub is_compressed: bool,
    /// Name of this service.
    pub service: String,
    /// More attributes of this service.
    pub resource: Vec<(String, String)>,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// How spans wait for the collector.
    pub queue: ExportQueue,
}

impl fmt::Debug for TraceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceSettings")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// How spans wait for the collector.
#[derive(Debug, Clone, Copy)]
pub struct ExportQueue {
    /// Spans that wait at most: more are dropped, and counted.
    pub max_size: usize,
    /// Spans in one request at most.
    pub batch_size: usize,
    /// How long a span waits for others.
    pub delay: Duration,
}
