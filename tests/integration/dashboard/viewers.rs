//! Many viewers and none: one reader of Redis for all of them, and room for so many.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{stream, url};
use crate::support::{Scene, eventually};

#[tokio::test]
async fn redis_is_read_once_for_all_viewers_and_not_at_all_for_none() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    // Only a sampling reads whole hashes: the fleet's minutes, its replicas, and three gates.
    const HASHES: u64 = 5;
    let before = scene.redis.calls("hgetall").await;
    let mut first = stream(&worker).await;
    first.until("frame").await;
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(stream(&worker).await);
    }
    let begun = scene.redis.calls("hgetall").await;
    assert!(begun > before);
    const FRAMES: u64 = 3;
    for _ in 0..FRAMES {
        first.until("frame").await;
    }
    let read = scene.redis.calls("hgetall").await - begun;
    let once = HASHES * (FRAMES - 1)..=HASHES * (FRAMES + 1);
    assert!(once.contains(&read), "{read} for ten viewers");
    for other in &mut others {
        other.until("frame").await;
    }

    drop((first, others));
    // What was under way when the last one left may still have been read.
    let beat = async || -> f64 { scene.redis.ask(&["ZSCORE", "fleet:seen", &worker.name]).await };
    let next_beat = async || {
        let last = beat().await;
        eventually("a heartbeat", async || (beat().await > last).then_some(())).await;
    };
    next_beat().await;
    let left = scene.redis.calls("hgetall").await;
    next_beat().await;
    assert_eq!(scene.redis.calls("hgetall").await, left, "somebody still reads");
    // Who comes back finds what was seen before, and figures of now.
    let mut again = stream(&worker).await;
    let (name, history) = again.next().await.unwrap();
    assert_eq!(name, "history");
    assert!(history["points"].as_array().unwrap().len() >= 4, "{history}");
    assert_eq!(history["queues"].as_array().unwrap().len(), 6);
    assert!(again.until("frame").await["ageMs"].as_u64() < Some(2000));
}

#[tokio::test]
async fn there_is_room_for_so_many_viewers_and_then_for_the_next() {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let mut viewers = Vec::new();
    for _ in 0..32 {
        viewers.push(stream(&worker).await);
    }
    let refused = reqwest::get(url(&worker, "/api/dashboard/events")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    viewers.pop();
    eventually("a place comes free", async || {
        let answer = reqwest::get(url(&worker, "/api/dashboard/events")).await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
    // Streams do not hold up a stop.
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.ended().await.0, Some(0));
    viewers[0].rest().await;
}
