//! Spans on their way to the collector: OTLP over HTTP, as JSON, in batches. Nothing waits for it; what it cannot
//! take is dropped, and counted.

use std::{fmt, time::Duration};

use jobs::http_client::{ClientError, ConnectOptions, HttpClient};
use reqwest::{
    Method, Request,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::SpanRecord;
use crate::telemetry::metrics::PROCESS;

/// Spans in one request at most.
const BATCH: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(2);
/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last batches may take when the replica stops.
const LAST: Duration = Duration::from_secs(3);

/// Where traces are sent.
#[derive(Clone)]
pub struct TraceSettings {
    /// The collector's base URL.
    pub endpoint: Url,
    /// Headers that it wants; they may hold a key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Name of this service.
    pub service: String,
}

impl fmt::Debug for TraceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceSettings")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// The exporter's task; none where nothing is traced.
#[derive(Debug, Default)]
pub struct ExporterTask {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl ExporterTask {
    pub(super) fn start(
        settings: &TraceSettings,
        replica: &str,
        spans: mpsc::Receiver<SpanRecord>,
    ) -> Result<Self, ClientError> {
        let mut url = settings.endpoint.clone();
        url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let exporter = SpanExporter {
            http: HttpClient::new("backend-worker", ConnectOptions::default())?,
            url,
            headers,
            resource: json!({ "attributes": [
                attribute("service.name", &settings.service),
                attribute("service.version", env!("CARGO_PKG_VERSION")),
                attribute("service.instance.id", replica),
            ]}),
            failing: false,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(exporter.run(spans, stop.clone()));
        Ok(Self {
            stop,
            task: Some(task),
        })
    }

    /// Sends what is left, and ends.
    pub async fn finish(self) {
        self.stop.cancel();
        if let Some(mut task) = self.task
            && tokio::time::timeout(LAST, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

struct SpanExporter {
    http: HttpClient,
    url: Url,
    headers: HeaderMap,
    resource: Value,
    /// The last batch was not taken: said once an outage.
    failing: bool,
}

impl SpanExporter {
    async fn run(mut self, mut spans: mpsc::Receiver<SpanRecord>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The sender is a static: the channel is never closed.
                _ = spans.recv_many(&mut batch, BATCH) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = async {
                    while batch.len() < BATCH && spans.recv_many(&mut batch, BATCH).await > 0 {}
                } => {}
                () = tokio::time::sleep(GATHER) => {}
            }
            self.send(&mut batch).await;
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
            if batch.len() >= BATCH {
                self.send(&mut batch).await;
            }
        }
        self.send(&mut batch).await;
    }

    async fn send(&mut self, batch: &mut Vec<SpanRecord>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let spans: Vec<Value> = batch.drain(..).map(|record| span(&record)).collect();
        let body = json!({ "resourceSpans": [{
            "resource": self.resource,
            "scopeSpans": [{ "scope": { "name": "backend-worker" }, "spans": spans }],
        }]});
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(body.to_string().into());
        let sent = tokio::time::timeout(TIMEOUT, self.http.execute(request)).await;
        let refused = match sent {
            Ok(Ok(answer)) if answer.status().is_success() => None,
            Ok(Ok(answer)) => Some(format!("it answered {}", answer.status())),
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Some(format!("no answer within {TIMEOUT:?}")),
        };
        match refused {
            None => {
                PROCESS.trace_spans[0].add(count);
                if std::mem::take(&mut self.failing) {
                    info!("the collector takes traces again");
                }
            }
            Some(error) => {
                PROCESS.trace_spans[1].add(count);
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(error, "the collector does not take traces: they are dropped");
                }
            }
        }
    }
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn span(record: &SpanRecord) -> Value {
    let notes: Vec<Value> = record
        .notes
        .iter()
        .map(|(key, value)| attribute(key, value))
        .collect();
    json!({
        "traceId": format!("{:032x}", record.context.trace()),
        "spanId": format!("{:016x}", record.context.span()),
        "parentSpanId": record.parent.map(|parent| format!("{parent:016x}")).unwrap_or_default(),
        "name": record.name,
        "kind": record.kind as u8,
        "startTimeUnixNano": record.began.to_string(),
        "endTimeUnixNano": record.ended.to_string(),
        "attributes": notes,
        "status": if record.failed { json!({ "code": 2 }) } else { json!({}) },
    })
}
