//! What stands in the way of strangers: the page is open, its data is not, and no other site's page changes anything.

use std::time::Duration;

use super::{FLASHCARDS, url};
use crate::support::{Scene, Sse};

#[tokio::test]
async fn the_page_is_open_and_its_data_is_not() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene
        .worker(&[
            ("READ_TOKEN", "r3ad-t0ken-of-tests"),
            ("ADMIN_TOKEN", "adm1n-t0ken-of-tests"),
        ])
        .await;
    let page = reqwest::get(url(&worker, "/dashboard")).await.unwrap();
    assert_eq!(page.status(), 200);
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, is) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(header(name), is);
    }
    let text = page.text().await.unwrap();
    assert!(
        text.starts_with("<!doctype html>") && text.len() < 100_000,
        "{}",
        text.len()
    );
    assert!(!text.contains("r3ad-t0ken-of-tests") && !text.contains(&worker.name));

    let events = url(&worker, "/api/dashboard/events");
    let refused = reqwest::get(&events).await.unwrap();
    assert_eq!(refused.status(), 401);
    let in_url = reqwest::get(format!("{events}?token=r3ad-t0ken-of-tests"))
        .await
        .unwrap();
    assert_eq!(in_url.status(), 401, "a token in a URL is none");
    for token in ["r3ad-t0ken-of-tests", "adm1n-t0ken-of-tests"] {
        let mut stream = Sse::open_with(&events, Some(token)).await;
        assert_eq!(stream.next().await.unwrap().0, "history");
        stream.until("frame").await;
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_through_a_browser_on_this_host() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let port = worker.port;
    let client = reqwest::Client::new();
    let post = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = client.post(url(&worker, path)).body(FLASHCARDS);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let here = format!("http://localhost:{port}");
    let reset = "/api/circuit-breakers/reset/openai";
    for fine in [
        vec![],
        vec![("origin", here.as_str()), ("sec-fetch-site", "same-origin")],
        vec![("sec-fetch-site", "none")],
    ] {
        assert_eq!(post(reset, &fine).await, 200, "{fine:?}");
    }
    let rebound = format!("evil.example:{port}");
    for strange in [
        vec![("origin", "http://evil.example")],
        vec![("origin", "null")],
        vec![("sec-fetch-site", "cross-site")],
        // Another port of this host is another page's.
        vec![("origin", "http://localhost:1"), ("sec-fetch-site", "same-site")],
        // A name that its owner has bound to 127.0.0.1.
        vec![("host", rebound.as_str())],
    ] {
        for path in [
            reset,
            "/api/jobs/generate-flashcards",
            "/api/jobs/1/retry",
            "/api/jobs/retry",
        ] {
            assert_eq!(post(path, &strange).await, 403, "{path} {strange:?}");
        }
        let mut request = client.delete(url(&worker, "/api/jobs/1"));
        for (name, value) in &strange {
            request = request.header(*name, *value);
        }
        assert_eq!(request.send().await.unwrap().status(), 403, "{strange:?}");
    }
    let waiting: u64 = scene.redis.ask(&["LLEN", "ai-jobs:active"]).await;
    assert_eq!(waiting, 0);

    // With a token it is the token that counts.
    let closed = scene.worker(&[("ADMIN_TOKEN", "adm1n-t0ken-of-tests")]).await;
    let reset = client
        .post(url(&closed, reset))
        .header("host", "ops.example")
        .header("origin", "https://ops.example");
    let without = reset.try_clone().unwrap().send().await.unwrap();
    assert_eq!(without.status(), 401);
    assert_eq!(
        reset
            .bearer_auth("adm1n-t0ken-of-tests")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}
