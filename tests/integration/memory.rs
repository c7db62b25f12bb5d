//! Large payloads: many jobs that hold megabytes each stay within the budget, and within patience.
//!
//! `LARGE_JOBS=120` makes them as many; they take gigabytes of Redis, and minutes. Each run prints the worker's peak.

use std::time::Duration;

use backend_worker::queue::{Broker, JobState, Layout, NewJob};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use rstest::rstest;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::support::{Proxy, Scene, eventually, view};

const MIB: u64 = 1024 * 1024;

/// How many jobs there are, all of them in flight at a time.
fn jobs() -> usize {
    std::env::var("LARGE_JOBS").map_or(10, |jobs| jobs.parse().unwrap())
}

/// The most memory that the process has had so far, bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A picture of so many bytes, in base64: its header, and then nothing.
fn picture(bytes: u64) -> Box<RawValue> {
    let mut image = include_bytes!("../../samples/text.png").to_vec();
    image.resize(usize::try_from(bytes).unwrap(), 0);
    to_raw_value(&json!({"imageBase64": BASE64_STANDARD.encode(image)})).unwrap()
}

async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: &RawValue) {
    let job = NewJob {
        id,
        kind,
        payload,
        max_attempts: 1,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
}

/// Waits until jobs of these names have been completed. Their counts are asked for first: a job is read with its
/// payload.
async fn completed(broker: &dyn Broker, name: &str, jobs: usize) {
    for most in 1..=jobs as u64 {
        eventually(&format!("{most} of {jobs} have ended"), async || {
            // The simulator shares this test's thread, and digests each picture: Redis may be late.
            let counts = broker.counts().await.ok()?;
            (counts.completed + counts.failed >= most).then_some(())
        })
        .await;
    }
    for n in 0..jobs {
        let job = view(broker, &format!("{name}-{n}")).await;
        assert_eq!(job.state, JobState::Completed, "{name}-{n}: {:?}", job.error);
    }
}

/// Megabytes travel on connections of their own: those of claims, gate and ledger carry none, so nothing of these waits
/// behind a payload.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn large_payloads_hold_up_no_small_call(#[case] layout: Layout) {
    let scene = Scene::set(Duration::from_millis(20)).await;
    let proxy = Proxy::before(scene.redis.server.port()).await;
    let pictures = scene.redis.broker(layout, "vision-jobs", "onlooker");
    let decks = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let picture = picture(8 * MIB);
    for n in 0..6 {
        add(&*pictures, &format!("large-{n}"), JobType::ProcessImage, &picture).await;
    }
    for n in 0..60 {
        let deck = json!({"content": "cells", "subject": "s", "topic": "t", "userId": format!("u{n}")});
        let deck = to_raw_value(&deck).unwrap();
        add(&*decks, &format!("small-{n}"), JobType::GenerateFlashcards, &deck).await;
    }
    let queues = format!("{layout}:vision-jobs=6,{layout}:ai-jobs=4");
    let url = proxy.url();
    let env = [("QUEUES", queues.as_str()), ("REDIS_URL", url.as_str())];
    let _worker = scene.worker(&env).await;
    completed(&*decks, "small", 60).await;
    completed(&*pictures, "large", 6).await;
    let carried = proxy.carried();
    let is_large = |replies: u64| replies > 4 * MIB;
    let payloads: u64 = carried
        .iter()
        .map(|(_, replies)| *replies)
        .filter(|n| is_large(*n))
        .sum();
    assert!(payloads > 60 * MIB, "{carried:?}");
    for (requests, replies) in &carried {
        // Two short commands a payload; a job of the others takes a kilobyte and more.
        assert!(!is_large(*replies) || *requests < 32 * 1024, "{carried:?}");
    }
    assert!(
        carried.iter().any(|(requests, _)| *requests > 64 * 1024),
        "{carried:?}"
    );
}

/// All of them at once would take a gigabyte.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn many_large_payloads_stay_within_the_budget(#[case] layout: Layout) {
    let jobs = jobs();
    let scene = Scene::set(Duration::from_millis(500)).await;
    let broker = scene.redis.broker(layout, "vision-jobs", "onlooker");
    let payload = picture(20 * MIB);
    for n in 0..jobs {
        add(&*broker, &format!("large-{n}"), JobType::ProcessImage, &payload).await;
    }
    let budget = 128 * MIB;
    let queues = format!("{layout}:vision-jobs={jobs}");
    let worker = scene
        .worker(&[
            ("QUEUES", queues.as_str()),
            ("MEDIA_MEMORY", &budget.to_string()),
            ("AZURE_VISION_MAX_CONCURRENT", "0"),
            // Of many jobs the last waits for room for minutes, in a debug build on a machine that does other work.
            ("JOB_DEADLINE", "1h"),
        ])
        .await;
    completed(&*broker, "large", jobs).await;
    let peak = peak(worker.pid());
    println!(
        "{layout}: {jobs} jobs of 28 MB, a budget of {} MB: {} MB at most",
        budget / MIB,
        peak / MIB
    );
    assert!(peak < budget + 150 * MIB, "{} MB at most", peak / MIB);
}
