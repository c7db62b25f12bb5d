//! The producers of the test: BullMQ's own library from Node in one layout, the CLI and its broker in the other.

use std::{path::PathBuf, time::Duration};

use backend_worker::queue::{Layout, NewJob};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::field::{Field, QUEUE};

/// Attempts of each job: enough for whatever the provider's failures use up.
const ATTEMPTS: u32 = 20;
/// One in so many jobs of the apalis layout is enqueued by the CLI, in a process of its own.
const BY_CLI: usize = 100;
/// How often producers enqueue.
const EVERY: Duration = Duration::from_millis(250);

/// The id of the `n`th job of a layout. It stands in the payload too: the simulator's journal goes by it.
pub(crate) fn id(layout: Layout, n: usize) -> String {
    format!("job-{layout}-{n}")
}

/// The job whose calls answer the `n`th one: itself, or an earlier one that asks the same.
///
/// Equal jobs are both of the type flashcards and of one student: eight jobs apart, and even.
pub(crate) fn asked_by(layout: Layout, n: usize, repeats: bool) -> String {
    let repeated = repeats && n >= 8 && matches!(n % 20, 16 | 18);
    id(layout, if repeated { n - 8 } else { n })
}

/// The key that two equal jobs of the BullMQ layout share; others are equal by their payloads.
fn idempotency_key(marker: &str, n: usize, repeats: bool) -> Option<String> {
    (repeats && matches!(n % 20, 8 | 16)).then(|| format!("idempotency:{marker}"))
}

/// The type and payload of the `n`th job.
fn work(id: &str, n: usize) -> (JobType, Value) {
    match n % 10 {
        3 => {
            let audio = BASE64_STANDARD.encode(include_bytes!("../../samples/good_morning.ogg"));
            let payload = json!({"referenceText": format!("Good morning {id}"), "audioBase64": audio});
            (JobType::AssessPronunciation, payload)
        }
        7 => {
            // Decoders ignore bytes after the end of a picture, so the id makes each payload unique.
            let picture = [include_bytes!("../../samples/text.png"), id.as_bytes()].concat();
            let payload = json!({"imageBase64": BASE64_STANDARD.encode(picture)});
            (JobType::ProcessImage, payload)
        }
        _ => {
            // Half of the jobs are one student's.
            let student = if n.is_multiple_of(2) { 0 } else { n % 7 };
            let user = format!("u{student}");
            let payload =
                json!({"content": format!("cells, {id}"), "subject": "s", "topic": "t", "userId": user});
            (JobType::GenerateFlashcards, payload)
        }
    }
}

/// Enqueues so many jobs in each layout, evenly over the time.
pub(crate) async fn produce(field: &Field, count: usize, over: Duration) {
    tokio::join!(from_node(field, count, over), from_rust(field, count, over));
}

/// How many of `count` are due by now.
async fn due(started: Instant, count: usize, over: Duration) -> usize {
    sleep(EVERY).await;
    let share = started.elapsed().as_secs_f64() / over.as_secs_f64();
    ((count as f64 * share) as usize).min(count)
}

async fn from_node(field: &Field, count: usize, over: Duration) {
    let (started, mut next) = (Instant::now(), 0);
    while next < count {
        let end = due(started, count, over).await.min(next + 500);
        let bulk: Vec<Value> = (next..end)
            .map(|n| {
                let id = id(Layout::Bullmq, n);
                let marker = asked_by(Layout::Bullmq, n, field.settings.repeats);
                let (kind, data) = work(&marker, n);
                let mut opts = json!({"jobId": id, "attempts": ATTEMPTS,
                    "backoff": {"type": "exponential", "delay": 200, "jitter": 0.5}});
                if n % 7 == 0 {
                    opts["delay"] = json!(700);
                }
                if n % 11 == 0 {
                    opts["priority"] = json!(1 + n % 5);
                }
                if let Some(key) = idempotency_key(&marker, n, field.settings.repeats) {
                    opts["idempotencyKey"] = json!(key);
                }
                json!({"name": kind.as_str(), "data": data, "opts": opts})
            })
            .collect();
        // A known id is not added again, so what has failed in part may be sent once more.
        if bulk.is_empty() || field.node.try_to("addBulk", json!({"jobs": bulk})).await.is_ok() {
            next = end;
        }
    }
}

async fn from_rust(field: &Field, count: usize, over: Duration) {
    let broker = field.broker(Layout::Apalis);
    let (started, mut next) = (Instant::now(), 0);
    while next < count {
        let end = due(started, count, over).await;
        while next < end {
            let id = id(Layout::Apalis, next);
            let marker = asked_by(Layout::Apalis, next, field.settings.repeats);
            let (kind, data) = work(&marker, next);
            let payload = serde_json::value::to_raw_value(&data).unwrap();
            let job = NewJob {
                id: &id,
                kind,
                payload: &payload,
                max_attempts: ATTEMPTS,
                delay: Duration::from_millis(if next % 7 == 0 { 700 } else { 0 }),
            };
            let added = if next % BY_CLI == 50 {
                by_cli(field, &job).await
            } else {
                broker.enqueue(&job).await.is_ok()
            };
            if added {
                next += 1;
            } else {
                sleep(EVERY).await;
            }
        }
    }
}

async fn by_cli(field: &Field, job: &NewJob<'_>) -> bool {
    let file: PathBuf = field.folder.join(format!("{}.json", job.id));
    std::fs::write(&file, job.payload.get()).unwrap();
    let (data, attempts) = (format!("@{}", file.display()), job.max_attempts.to_string());
    let arguments = [
        "enqueue",
        job.kind.as_str(),
        "--data",
        &data,
        "--queue",
        QUEUE,
        "--id",
        job.id,
        "--attempts",
        &attempts,
    ];
    let output = field.launcher.command(&arguments).output().await.unwrap();
    output.status.success()
}
