//! Traces, from BullMQ's own client through a real replica to the provider, and as OTLP to a collector.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use backend_worker::simulator::{Fault, Provider};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use prost::Message;
use serde_json::{Value, json};

use crate::{
    support::{Node, Scene, eventually},
    telemetry::{PAYLOAD, QUICK, scrape, stop},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A request as a collector receives it.
#[derive(Clone)]
struct Received {
    headers: HeaderMap,
    body: ExportTraceServiceRequest,
}

/// A collector that remembers each request, and answers with a status.
struct Collector {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    async fn start(status: StatusCode) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = received.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let body = ExportTraceServiceRequest::decode(body).expect("protobuf");
            kept.lock().unwrap().push(Received { headers, body });
            status
        };
        let router = Router::new().route("/base/v1/traces", post(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, received }
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.received().into_iter();
        let resources = requests.flat_map(|request| request.body.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|found| found.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn has_failed(span: &Span) -> bool {
    let status = span.status.as_ref().map(|status| status.code());
    assert_ne!(status, Some(SpanStatus::Ok), "{span:?}");
    status == Some(SpanStatus::Error)
}

/// Adds a flashcard job with BullMQ's own client, within a trace, and waits until it has completed.
async fn run_traced_job(scene: &Scene, id: &str) {
    let node = Node::start(&scene.redis, "ai-jobs").await;
    let metadata = json!({ "traceparent": format!("00-{TRACE}-{PARENT}-01") }).to_string();
    let data: Value = serde_json::from_str(PAYLOAD).unwrap();
    let job = json!({
        "name": "generate-flashcards", "data": data,
        "opts": { "jobId": id, "telemetry": { "metadata": metadata } },
    });
    node.ask("add", job).await;
    node.until(id, "completed").await;
}

#[tokio::test]
async fn a_trace_goes_on_from_the_producer_to_the_provider() {
    let scene = Scene::set(Duration::ZERO).await;
    let collector = Collector::start(StatusCode::OK).await;
    let mut env = QUICK.to_vec();
    env.extend([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-key=s3cret%2C%20of%20the%20collector",
        ),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test%20bench",
        ),
        // The log leaves the spans out; the traces do not.
        (
            "RUST_LOG",
            "info,backend_worker::worker::ack=warn,backend_worker::guard=warn",
        ),
    ]);
    let worker = scene.worker(&env).await;
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(503), Some(1))
        .unwrap();
    run_traced_job(&scene, "t1").await;
    let log = stop(worker).await;
    assert!(!log.contains("s3cret"), "{log}");

    for Received { headers, body } in collector.received() {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["x-key"], "s3cret, of the collector");
        let resource = &body.resource_spans[0].resource.as_ref().unwrap().attributes;
        assert_eq!(attribute(resource, "service.name"), "backend-worker");
        assert_eq!(attribute(resource, "deployment.environment.name"), "test bench");
        assert!(!attribute(resource, "service.instance.id").is_empty());
        assert_eq!(attribute(resource, "telemetry.sdk.language"), "rust");
    }
    let spans = collector.spans();
    let named = |name: &str| spans.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let (jobs, attempts, calls) = (named("job"), named("attempt"), named("call"));
    assert_eq!((jobs.len(), attempts.len(), calls.len()), (1, 2, 2), "{spans:#?}");
    assert!(
        spans.iter().all(|span| hex(&span.trace_id) == TRACE),
        "{spans:#?}"
    );
    assert!(
        spans.iter().all(|span| span.events.is_empty()),
        "the log's events stay in the log"
    );
    let [job] = jobs[..] else { unreachable!() };
    assert_eq!(hex(&job.parent_span_id), PARENT);
    assert_eq!((job.kind(), has_failed(job)), (SpanKind::Consumer, false));
    for (key, value) in [
        ("messaging.system", "bullmq"),
        ("messaging.destination.name", "ai-jobs"),
        ("messaging.message.id", "t1"),
        ("backend_worker.outcome", "succeeded"),
    ] {
        assert_eq!(attribute(&job.attributes, key), value);
    }
    assert_eq!(job.attributes.len(), 4, "{:?}", job.attributes);
    for (attempt, call) in attempts.iter().zip(&calls) {
        assert_eq!(attempt.parent_span_id, job.span_id);
        assert_eq!(call.parent_span_id, attempt.span_id);
        assert_eq!(has_failed(attempt), has_failed(call));
        assert_eq!(
            (attempt.kind(), call.kind()),
            (SpanKind::Internal, SpanKind::Client)
        );
        assert_eq!(attempt.attributes.len(), 1, "{:?}", attempt.attributes);
        assert!(!attribute(&attempt.attributes, "backend_worker.step").is_empty());
        assert_eq!(attribute(&call.attributes, "server.address"), "openai");
        assert!(call.start_time_unix_nano <= call.end_time_unix_nano);
    }
    assert_eq!((has_failed(calls[0]), has_failed(calls[1])), (true, false));
    let outcome = |call: &Span| {
        let of = |key| attribute(&call.attributes, key).to_owned();
        (of("http.response.status_class"), of("error.type"))
    };
    assert_eq!(outcome(calls[0]), ("5xx".to_owned(), "transient".to_owned()));
    assert_eq!(outcome(calls[1]), ("2xx".to_owned(), "none".to_owned()));
    assert!(!format!("{spans:?}").contains("marzipan"), "no payload is traced");
    // What the provider was told.
    let requests = scene.simulator.journal().of(Provider::OpenAi);
    let told: Vec<&str> = requests
        .iter()
        .map(|request| request.headers["traceparent"].as_str())
        .collect();
    let expected: Vec<String> = calls
        .iter()
        .map(|call| format!("00-{TRACE}-{}-01", hex(&call.span_id)))
        .collect();
    assert_eq!(told, expected);
}

/// A collector that refuses traces delays no job and no stop. The spans count as dropped, and the log says so once.
#[tokio::test]
async fn a_collector_that_refuses_traces_is_no_fault_of_the_jobs() {
    let scene = Scene::set(Duration::ZERO).await;
    let collector = Collector::start(StatusCode::FORBIDDEN).await;
    let mut env = QUICK.to_vec();
    env.extend([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ]);
    let worker = scene.worker(&env).await;
    run_traced_job(&scene, "t1").await;
    run_traced_job(&scene, "t2").await;
    eventually("every span is dropped", async || {
        let dropped = r#"backend_worker_trace_spans_total{fate="dropped"}"#;
        (scrape(&worker).await.get(dropped) == 6.0).then_some(())
    })
    .await;
    let log = stop(worker).await;
    let told = log.matches("the collector does not take traces").count();
    assert_eq!(told, 1, "{log}");
    assert!(log.contains("403 Forbidden"), "{log}");
}
