//! Large payloads pass no script.

use std::time::Duration;

use backend_worker::queue::{JobState, Layout, ListQuery, NewJob};
use jobs::JobType;
use rstest::rstest;

use super::FIRST;
use crate::support::{TestRedis, raw};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_large_payload_passes_no_script(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "a");
    broker.renew(&[]).await.unwrap();
    let text = "x".repeat(5 * 1024 * 1024);
    let payload = raw(&format!("\"{text}\""));
    let job = NewJob {
        id: "1",
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
    assert!(!broker.enqueue(&job).await.unwrap(), "its id is known");
    for (kind, found) in [
        (None, 1),
        (Some("generate-flashcards"), 1),
        (Some("process-image"), 0),
    ] {
        let query = ListQuery {
            state: JobState::Waiting,
            kind,
            since: None,
            after: None,
            limit: 50,
        };
        let page = broker.list(&query).await.unwrap();
        assert_eq!(page.jobs.len(), found, "{kind:?}");
        assert!(
            page.jobs
                .iter()
                .all(|job| job.kind.as_deref() == Some("generate-flashcards"))
        );
    }
    let claimed = broker.claim(FIRST, 10).await.unwrap();
    let body = claimed[0].payload.as_ref().unwrap();
    let whole = match layout {
        Layout::Apalis => format!(r#"{{"type":"generate-flashcards","data":"{text}"}}"#),
        Layout::Bullmq => format!("\"{text}\""),
    };
    assert!(*body == whole.as_bytes(), "the payload is whole");
    // The interpreter's memory tells: a script that had the payload in its hands would have left it there.
    let info: String = redis.ask(&["INFO", "memory"]).await;
    let lua = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory_vm_eval:"));
    let lua: usize = lua.expect("Redis 7 or later").trim().parse().unwrap();
    assert!(lua < text.len(), "{lua} bytes");
    let ttl: i64 = match layout {
        Layout::Apalis => -1,
        Layout::Bullmq => redis.ask(&["PTTL", "bull:q:1"]).await,
    };
    assert_eq!(ttl, -1, "the job does not run out");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_claim_with_large_payloads_may_be_sent_again(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "a");
    broker.renew(&[]).await.unwrap();
    for n in 0..8 {
        let id = n.to_string();
        let payload = raw(&format!("\"{}\"", id.repeat(1024 * 1024)));
        let job = NewJob {
            id: &id,
            kind: JobType::GenerateFlashcards,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
    }
    let claimed = broker.claim(FIRST, 32).await.unwrap();
    assert_eq!(claimed.len(), 4, "no more than some megabytes at a time");
    let mut again = broker.claim(FIRST, 32).await.unwrap();
    again.sort_by(|a, b| a.lease.id.cmp(&b.lease.id));
    for (first, second) in claimed.iter().zip(&again) {
        assert_eq!(first.lease, second.lease);
        assert!(
            first.payload.is_some() && first.payload == second.payload,
            "its payload"
        );
    }
    assert_eq!(again.len(), 4);
}
