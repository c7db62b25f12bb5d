//! Sends spans to the collector: OTLP over HTTP, as protobuf, in batches. No job waits for the collector; spans that it
//! does not take are dropped, and counted.
//!
//! The SDK batches and encodes, on a thread of its own. Two parts are ours: the HTTP client, which bounds the answers of the
//! collector, and the count of dropped spans, which the SDK does not offer.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jobs::{
    ClientError,
    http_client::{ConnectOptions, HttpClient},
};
use opentelemetry::{Context, KeyValue, trace::TracerProvider};
use opentelemetry_http::{HttpError, ResponseBodyTooLarge};
use opentelemetry_otlp::{
    Compression, ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::TelemetryResourceDetector,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};
use reqwest::header::HeaderMap;
use tokio::runtime::Handle;
use tracing::{Subscriber, info, warn};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::{IS_ON, TraceSettings, names};
use crate::{locks::locked, telemetry::metrics::PROCESS};

/// How long the last batches may take when the replica stops.
const LAST: Duration = Duration::from_secs(3);

/// The longest answer of a collector, bytes. It says how many spans it refused, and why.
const MAX_ANSWER: usize = 64 * 1024;

/// Traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no HTTP client.
    #[error("traces cannot be sent")]
    Client(#[from] ClientError),
    /// The SDK refuses a setting.
    #[error("traces cannot be sent: OpenTelemetry's SDK refuses a setting")]
    Exporter(#[from] ExporterBuildError),
}

/// Hands spans to the collector. The SDK's thread ends with it.
#[derive(Debug)]
pub struct TraceExporter(SdkTracerProvider);

impl TraceExporter {
    /// Starts the SDK's thread; its requests run on this runtime.
    ///
    /// # Errors
    /// When there is no HTTP client, or a setting that the SDK refuses.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(settings: &TraceSettings, replica: &str) -> Result<Self, StartError> {
        let outage = Arc::new(Mutex::new(String::new()));
        let client = CollectorClient {
            http: HttpClient::new("backend-worker", ConnectOptions::default())?,
            headers: settings.headers.iter().cloned().collect(),
            timeout: settings.timeout,
            runtime: Handle::current(),
            outage: outage.clone(),
        };
        let mut exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(settings.endpoint.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(settings.timeout);
        if settings.is_compressed {
            exporter = exporter.with_compression(Compression::Gzip);
        }
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = CountedExporter {
            inner: exporter.build()?,
            waiting: waiting.clone(),
            is_failing: AtomicBool::new(false),
            outage,
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(settings.queue.max_size)
            .with_max_export_batch_size(settings.queue.batch_size)
            .with_scheduled_delay(settings.queue.delay)
            .build();
        let processor = BoundedProcessor {
            inner: BatchSpanProcessor::builder(exporter)
                .with_batch_config(batches)
                .build(),
            waiting,
            max_size: settings.queue.max_size,
        };
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampler.clone())
            .with_resource(resource(settings, replica))
            .with_span_processor(processor)
            .build();
        Ok(Self(provider))
    }

    /// The layer that takes spans from the log.
    pub(in crate::telemetry) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        IS_ON.store(true, Ordering::Relaxed);
        let tracer = names::ConventionTracer(self.0.tracer("backend-worker"));
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            // A job's span is entered at each poll of its task: nothing here reads the context of the thread.
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_filter(filter_fn(names::is_traced))
    }

    /// Sends what is left, and ends.
    pub async fn finish(self) {
        // It blocks, and the requests that it waits for run on this runtime.
        let stopping = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(LAST));
        if let Ok(Err(error)) = stopping.await {
            warn!(%error, "the last traces may not have reached the collector");
        }
    }
}

/// The attributes that name this replica. Those of `OTEL_RESOURCE_ATTRIBUTES` come last and win.
fn resource(settings: &TraceSettings, replica: &str) -> Resource {
    let given = settings.resource.iter();
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", replica.to_owned()),
        ])
        .with_attributes(given.map(|(name, value)| KeyValue::new(name.clone(), value.clone())))
        .with_attribute(KeyValue::new("service.name", settings.service.clone()))
        .build()
}

/// Bounds the spans that wait, because the SDK does not tell what its own bound drops.
#[derive(Debug)]
struct BoundedProcessor {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    max_size: usize,
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.max_size {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            PROCESS.trace_spans[1].add(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts the spans that arrive and that are dropped, and logs an outage once.
#[derive(Debug)]
struct CountedExporter {
    inner: OtlpExporter,
    waiting: Arc<AtomicUsize>,
    is_failing: AtomicBool,
    outage: Arc<Mutex<String>>,
}

impl SpanExporter for CountedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let sent = self.inner.export(batch).await;
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        PROCESS.trace_spans[usize::from(sent.is_err())].add(count as u64);
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        if sent.is_err() && !was_failing {
            let error = locked(&self.outage).clone();
            warn!(
                error,
                "the collector does not take traces: they are dropped until it does"
            );
        } else if sent.is_ok() && was_failing {
            info!("the collector takes traces again");
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Sends the SDK's requests through the worker's HTTP client.
#[derive(Debug)]
struct CollectorClient {
    http: HttpClient,
    headers: HeaderMap,
    timeout: Duration,
    runtime: Handle,
    /// Why the last request failed: the SDK keeps the status only.
    outage: Arc<Mutex<String>>,
}

#[async_trait]
impl opentelemetry_http::HttpClient for CollectorClient {
    async fn send_bytes(
        &self,
        mut request: opentelemetry_http::Request<Bytes>,
    ) -> Result<opentelemetry_http::Response<Bytes>, HttpError> {
        request.headers_mut().extend(self.headers.clone());
        let request = reqwest::Request::try_from(request)?;
        let (http, timeout) = (self.http.clone(), self.timeout);
        // The SDK's thread has no runtime, which hyper and the timer need.
        let sending = async move { tokio::time::timeout(timeout, exchange(http, request)).await };
        let answer = match self.runtime.spawn(sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(format!("no answer within {:?}", self.timeout).into()),
            Err(error) => Err(error.into()),
        };
        let refusal = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refusal) = refusal {
            *locked(&self.outage) = refusal;
        }
        answer
    }
}

async fn exchange(
    http: HttpClient,
    request: reqwest::Request,
) -> Result<opentelemetry_http::Response<Bytes>, HttpError> {
    let answer = http.execute(request).await;
    let mut answer = answer.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let mut response = opentelemetry_http::Response::new(Bytes::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ResponseBodyTooLarge::new().into());
        }
        body.extend_from_slice(&chunk);
    }
    *response.body_mut() = body.freeze();
    Ok(response)
}
