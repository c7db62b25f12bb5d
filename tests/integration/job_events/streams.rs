//! The limits of event streams: their number, their readers, their duration.

use std::time::Duration;

use backend_worker::{
    http_api::{AccessControl, EventStreams},
    queue::{ClaimNumber, Layout},
};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::json;

use super::{Scene, names};
use crate::support::{self, Sse, enqueue, eventually};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue(&*scene.broker, "1").await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = scene.open("1").await;
        stream.until("connected").await;
        streams.push(stream);
    }
    assert_eq!(scene.broker.watchers().count(), 20);
    if scene.broker.layout() == Layout::Bullmq {
        eventually("one connection reads for all", async || {
            (scene.readers().await == 1).then_some(())
        })
        .await;
    }
    let mut last = streams.pop().unwrap();
    drop(streams);
    eventually("the others have gone", async || {
        (scene.broker.watchers().count() == 1).then_some(())
    })
    .await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    last.until("active").await;
    drop(last);
    scene.until_unwatched().await;
    scene.complete(&delivery).await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn streams_outlive_broken_connections_to_redis(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    stream.until("active").await;
    for _ in 0..3 {
        let _: usize = scene
            .redis
            .ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
    }
    eventually("the job is completed", async || {
        scene.broker.complete(&delivery.lease, "1").await.ok()
    })
    .await;
    assert_eq!(stream.until("completed").await["result"], 1);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn streams_end_with_the_server(#[case] layout: Layout) {
    let scene = Scene::of(layout).await;
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    stream.until("connected").await;
    scene.stop.cancel();
    assert!(stream.rest().await.is_empty());
    scene.until_unwatched().await;
    scene.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_are_limited_and_need_the_read_token() {
    let access = AccessControl {
        read: Some("r3ad".into()),
        ..AccessControl::default()
    };
    let scene = Scene::with(
        Layout::Apalis,
        EventStreams::new(1, Duration::from_secs(15)),
        access,
    )
    .await;
    enqueue(&*scene.broker, "1").await;
    let url = format!("{}?jobId=1", scene.url);
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 401);
    let ask = async || {
        let request = reqwest::Client::new().get(&url).bearer_auth("r3ad");
        request.send().await.unwrap()
    };
    let open = ask().await;
    assert_eq!(open.status(), 200);
    let refused = ask().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    drop(open);
    eventually("the place is free again", async || {
        (ask().await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_tells_the_outcome_and_is_not_held_up() {
    let scene = support::Scene::set(Duration::from_secs(4)).await;
    let worker = scene.worker(&[("CONCURRENCY", "1")]).await;
    let data = json!({"content": "cells", "subject": "s", "topic": "t", "userId": "u"}).to_string();
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", "2"])
        .await;
    let open = async |id: &str| {
        Sse::open(&format!(
            "http://127.0.0.1:{}/api/job-events?jobId={id}",
            worker.port
        ))
        .await
    };
    let mut streams = [open(&ids[0]).await, open(&ids[1]).await];
    streams[0].until("active").await;
    worker.signal(Signal::SIGTERM);
    let (code, _) = worker.ended().await;
    assert_eq!(code, Some(0));
    let [first, second] = &mut streams;
    let (first, second) = (first.rest().await, second.rest().await);
    assert_eq!(
        first.last().map(|(name, _)| name.as_str()),
        Some("completed"),
        "{first:?}"
    );
    assert_eq!(
        names(&second),
        ["connected"],
        "what waits is another replica's to tell"
    );
}
