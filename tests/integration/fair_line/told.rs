//! What is told of a job in the line: its place, the limit that it waits for, and its waits.

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{Broker, HistoryNote, Layout, Postponement};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use super::{Claims, add, add_raw, scenario};
use crate::support::{Scene, Sse, TestRedis, eventually, view};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_job_stands_where_it_is_taken(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "heavy", 30).await;
    for student in ["ann", "bob"] {
        add(&*broker, student, 2).await;
    }
    let mut claims = Claims::of(&*broker).await;
    claims.ids(3).await;
    let mut told = Vec::new();
    for id in ["heavy-1", "ann-1", "bob-1", "heavy-2", "heavy-20"] {
        let standing = broker.line_position(id).await.unwrap();
        assert_eq!((standing.waiting, standing.owners), (31, 3), "{id}");
        told.push((id, usize::try_from(standing.ahead.unwrap()).unwrap()));
    }
    assert_eq!(broker.line_position("nobody").await.unwrap().ahead, None);
    // Those that have come since the last claim are told their place, too.
    add_raw(&*broker, "new-0", r#"{"userId":"cyd"}"#).await;
    add_raw(&*broker, "new-1", r#"{"userId":"cyd"}"#).await;
    for (id, ahead) in [("new-0", 0), ("new-1", 4)] {
        assert_eq!(broker.line_position(id).await.unwrap().ahead, Some(ahead), "{id}");
    }
    for id in ["new-0", "new-1"] {
        broker.remove(id).await.unwrap();
    }
    let order = claims.rest().await;
    for (id, ahead) in told {
        assert_eq!(order[ahead], id, "{order:?}");
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_full_limit_is_told_with_the_place(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let queue = format!("{layout}:ai-jobs=4");
    let worker = scene
        .worker(&[("QUEUES", &queue), ("OPENAI_RATE_LIMIT_RPM", "3")])
        .await;
    let broker: Arc<dyn Broker> = scene.redis.broker(layout, "ai-jobs", "onlooker");
    for n in 0..8 {
        scenario::add(&*broker, "heavy", &format!("job-{n}")).await;
    }
    eventually("the limit of requests is used up", async || {
        let counts = broker.counts().await.unwrap();
        (counts.completed == 3 && counts.waiting == 5).then_some(())
    })
    .await;
    scenario::add(&*broker, "ann", "job-100").await;

    let url = format!("http://localhost:{}", worker.port);
    let last = eventually("the last job's place is told", async || {
        let answer = reqwest::get(format!("{url}/api/job-status/job-7")).await.unwrap();
        let job: Value = answer.json().await.unwrap();
        job["limit"].is_string().then_some(job)
    })
    .await;
    let limit = last["limit"].as_str().unwrap();
    assert!(
        limit.starts_with("openai: 3 of 3 requests this minute, next in "),
        "{limit}"
    );
    assert_eq!(last["jobsWaiting"], json!(6), "{last}");
    let place = last["position"].as_u64().unwrap();
    assert!((5..=6).contains(&place), "{last}");
    let start = |job: &Value| job["expectedStart"].as_str().unwrap_or_default().to_owned();
    let answer = reqwest::get(format!("{url}/api/job-status/job-3")).await.unwrap();
    let first: Value = answer.json().await.unwrap();
    assert!(
        !start(&first).is_empty() && start(&first) < start(&last),
        "{first} {last}"
    );

    let shown = scene
        .command(&["job", "show", "job-7"])
        .env("OPENAI_RATE_LIMIT_RPM", "3")
        .output()
        .await
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("3 of 3 requests this minute"), "{shown}");

    let mut stream = Sse::open(&format!("{url}/api/dashboard/events")).await;
    let words = loop {
        let frame = stream.until("frame").await;
        let limits = frame["figures"]["limits"]
            .as_array()
            .or(frame["limits"].as_array())
            .cloned();
        let openai = limits
            .into_iter()
            .flatten()
            .find(|limit| limit["provider"] == "openai");
        // A frame can be older than the last job.
        if let Some(words) = openai.and_then(|limit| limit["full"].as_str().map(str::to_owned))
            && words.contains("; 6 jobs wait")
        {
            break words;
        }
    };
    assert!(
        words.starts_with("openai: 3 of 3 requests this minute, next in "),
        "{words}"
    );
    assert!(words.ends_with("; 6 jobs wait, 2 students"), "{words}");
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_wait_that_repeats_is_one_line_of_history(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "ann", 1).await;
    let mut claims = Claims::of(&*broker).await;
    for nth in 0..12 {
        let delivery = loop {
            broker.wait(Duration::from_secs(5)).await.unwrap();
            if let Some(delivery) = claims.take(1).await.pop() {
                break delivery;
            }
        };
        let note = HistoryNote {
            attempt: 1,
            r#try: 0,
            class: "limited".to_owned(),
            cause: format!("Limit of requests a minute reached, next in {nth} s"),
            delay_ms: Some(1),
            replica: "w".to_owned(),
        };
        let later = Postponement {
            delay: Duration::from_millis(1),
            counts: false,
            reason: "Limit of requests a minute reached",
            gate: Some("openai"),
            note: Some(&note),
        };
        broker.put_off(&delivery.lease, later).await.unwrap();
    }
    let history = view(&*broker, "ann-0").await.history;
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!(history[0].times, Some(12));
    assert!(history[0].since.unwrap() <= history[0].at);
}
