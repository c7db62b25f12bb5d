//! Traces, from BullMQ's own client through a real replica to the provider.

use std::time::Duration;

use backend_worker::simulator::{Fault, Provider};
use serde_json::{Value, json};

use crate::{
    support::{Node, Scene},
    telemetry::{PAYLOAD, QUICK, stop},
};

/// A collector that remembers every span.
async fn collector() -> (String, std::sync::Arc<std::sync::Mutex<Vec<Value>>>) {
    let spans = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = spans.clone();
    let take = move |headers: axum::http::HeaderMap, axum::Json(body): axum::Json<Value>| async move {
        assert_eq!(headers["x-key"], "s3cret");
        let resource = &body["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0]["value"]["stringValue"],
            json!("backend-worker")
        );
        let batch = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        kept.lock().unwrap().extend(batch.iter().cloned());
        axum::Json(json!({}))
    };
    let router = axum::Router::new().route("/base/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, spans)
}

#[tokio::test]
async fn a_trace_goes_on_from_the_producer_to_the_provider() {
    let scene = Scene::set(Duration::ZERO).await;
    let (url, spans) = collector().await;
    let mut env = QUICK.to_vec();
    env.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &url));
    env.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret"));
    let worker = scene.worker(&env).await;
    let node = Node::start(&scene.redis, "ai-jobs").await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let metadata = json!({ "traceparent": format!("00-{trace}-{parent}-01") }).to_string();
    let faults = scene.simulator.faults();
    faults
        .on_match(Provider::OpenAi, "", Fault::status(503), Some(1))
        .unwrap();
    let data: Value = serde_json::from_str(PAYLOAD).unwrap();
    let job = json!({
        "name": "generate-flashcards", "data": data,
        "opts": { "jobId": "t1", "telemetry": { "metadata": metadata } },
    });
    node.ask("add", job).await;
    node.until("t1", "completed").await;
    let log = stop(worker).await;
    assert!(!log.contains("s3cret"), "{log}");

    let spans = spans.lock().unwrap().clone();
    let named = |name: &str| spans.iter().filter(|s| s["name"] == name).collect::<Vec<_>>();
    let (jobs, attempts, calls) = (named("job"), named("attempt"), named("call"));
    assert_eq!((jobs.len(), attempts.len(), calls.len()), (1, 2, 2), "{spans:#?}");
    assert!(spans.iter().all(|span| span["traceId"] == trace), "{spans:#?}");
    assert_eq!(jobs[0]["parentSpanId"], json!(parent));
    for (attempt, call) in attempts.iter().zip(&calls) {
        assert_eq!(attempt["parentSpanId"], jobs[0]["spanId"]);
        assert_eq!(call["parentSpanId"], attempt["spanId"]);
        assert_eq!(attempt["status"], call["status"]);
    }
    assert_eq!(
        (&calls[0]["status"], &calls[1]["status"]),
        (&json!({ "code": 2 }), &json!({}))
    );
    assert!(
        !spans.iter().any(|span| span.to_string().contains("marzipan")),
        "no payload is traced"
    );
    // What the provider was told.
    let requests = scene.simulator.journal().of(Provider::OpenAi);
    let told: Vec<&str> = requests
        .iter()
        .map(|request| request.headers["traceparent"].as_str())
        .collect();
    let expected: Vec<String> = calls
        .iter()
        .map(|call| format!("00-{trace}-{}-01", call["spanId"].as_str().unwrap()))
        .collect();
    assert_eq!(told, expected);
}
