//! The routes by which another process steers the simulator.

use axum::extract::ConnectInfo;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::JournalEntry;

#[tokio::test]
async fn the_journal_is_read_page_by_page() {
    let bench = Bench::new().await;
    for text in ["job-a", "job-b", "job-c"] {
        send(bench.chat(&prompt(text)), 200).await;
    }
    let page = send(bench.http.get(bench.url("/_sim/journal?since=1")), 200).await;
    assert_eq!(page["next"], 3);
    let entries: Vec<JournalEntry> = serde_json::from_value(page["entries"].clone()).unwrap();
    assert_eq!(entries, bench.sim.journal().entries(1, 10));
    let end = send(bench.http.get(bench.url("/_sim/journal?since=3")), 200).await;
    assert_eq!(end, json!({"entries": [], "next": 3}));
    send_bad(bench.http.get(bench.url("/_sim/journal?since=x"))).await;
}

async fn send_bad(request: RequestBuilder) {
    let status = request.send().await.unwrap().status();
    assert!(status.is_client_error(), "{status}");
}

#[tokio::test]
async fn stats_cover_each_provider() {
    let bench = Bench::new().await;
    bench.script(Provider::OpenAi, Fault::status(500));
    bench.script(Provider::OpenAi, Fault::status(500));
    send(bench.chat(&prompt("hello")), 500).await;
    let stats = send(bench.http.get(bench.url("/_sim/stats")), 200).await;
    assert!(stats["uptime_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(
        stats["providers"]["openai"],
        json!({
            "requests": 1, "current": 0, "peak": 1, "max_per_minute": 1, "unanswered": 0,
            "statuses": {"500": 1}, "faults": {"status": 1}, "pending_faults": 1,
        })
    );
    assert_eq!(stats["providers"]["azure-speech"]["requests"], 0);
    assert_eq!(stats["providers"]["azure-vision"]["requests"], 0);
}

#[tokio::test]
async fn faults_are_set_and_forgotten() {
    let bench = Bench::new().await;
    let post = |query: &str, faults: Value| {
        bench
            .http
            .post(bench.url(&format!("/_sim/faults?{query}")))
            .json(&faults)
            .send()
    };
    let script = json!([{"kind": "status", "status": 503, "retry_after": 2}, {"kind": "rate_limit"}]);
    assert_eq!(post("provider=openai", script).await.unwrap().status(), 204);
    let matching = post("provider=openai&match=job-5&times=1", json!([{"kind": "quota"}]))
        .await
        .unwrap();
    assert_eq!(matching.status(), 204);
    for (text, status) in [("a", 503), ("job-5", 429), ("b", 429), ("job-5", 200)] {
        send(bench.chat(&prompt(text)), status).await;
    }
    assert_eq!(
        post("provider=azure-vision", json!([{"kind": "reset"}]))
            .await
            .unwrap()
            .status(),
        204
    );
    let cleared = bench.http.delete(bench.url("/_sim/faults")).send().await.unwrap();
    assert_eq!(cleared.status(), 204);
    send(bench.analyze(png(99, 99, "")), 200).await;

    for (query, faults) in [
        ("", json!([{"kind": "reset"}])),
        ("provider=google", json!([{"kind": "reset"}])),
        ("provider=openai&times=2", json!([{"kind": "reset"}])),
        ("provider=openai&matching=x", json!([{"kind": "reset"}])),
        ("provider=openai", json!({"kind": "reset"})),
        ("provider=openai", json!([{"kind": "earthquake"}])),
        ("provider=azure-vision", json!([{"kind": "refusal"}])),
        (
            "provider=azure-vision&match=x",
            json!([{"kind": "quota"}, {"kind": "refusal"}]),
        ),
        (
            "provider=openai&match=x",
            json!(vec![json!({"kind": "reset"}); crate::MAX_PENDING + 1]),
        ),
    ] {
        let status = post(query, faults).await.unwrap().status();
        assert!(status.is_client_error(), "{query}: {status}");
    }
    assert!(
        Provider::ALL
            .iter()
            .all(|provider| bench.sim.faults().pending(*provider) == 0)
    );
}

#[tokio::test]
async fn options_change_while_it_runs() {
    let bench = Bench::new().await;
    let set = |change: Value| bench.http.post(bench.url("/_sim/options")).json(&change);
    assert_eq!(
        set(json!({"latency_ms": 120})).send().await.unwrap().status(),
        204
    );
    send(bench.chat(&prompt("hello")), 200).await;
    assert!(bench.sim.journal().entries(0, 1)[0].took_ms.unwrap() >= 120.0);
    assert_eq!(
        set(json!({"latency_ms": 0, "random_faults": 1}))
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    // Every fault of chance is one or the other: no answer, or a bad one.
    let _ = bench.chat(&prompt("hello")).send().await;
    assert!(bench.sim.journal().entries(1, 1)[0].fault.is_some());
    for bad in [
        json!({"random_faults": 2}),
        json!({"latency": 5}),
        json!({"latency_ms": -1}),
    ] {
        send_bad(set(bad)).await;
    }
    set(json!({"random_faults": 0})).send().await.unwrap();
    send(bench.chat(&prompt("hello")), 200).await;
}

#[tokio::test]
async fn a_peer_from_elsewhere_finds_nothing() {
    let bench = Bench::new().await;
    let router = TowerToHyperService::new(crate::server::routes(bench.sim.handle.0.clone()));
    let table = [
        ("127.0.0.1:9", 200),
        ("[::1]:9", 200),
        ("[::ffff:127.0.0.1]:9", 200),
        ("192.0.2.1:9", 404),
    ];
    for (peer, status) in table {
        let mut request = axum::extract::Request::new(axum::body::Body::empty());
        *request.uri_mut() = "/_sim/stats".parse().unwrap();
        request
            .extensions_mut()
            .insert(ConnectInfo::<std::net::SocketAddr>(peer.parse().unwrap()));
        assert_eq!(router.call(request).await.unwrap().status(), status, "{peer}");
    }
}
