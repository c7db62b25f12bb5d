//! Large payloads: many jobs that hold megabytes each stay within the budget, and within patience.

use std::time::Duration;

use backend_worker::queue::{Layout, NewJob, State};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use serde_json::json;

use crate::support::{Scene, both_layouts, eventually};

both_layouts! {
    many_large_payloads_stay_within_the_budget
}

const MIB: u64 = 1024 * 1024;
const JOBS: usize = 10;

/// The most memory that the process has had so far, bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// All of them at once would take a gigabyte.
async fn many_large_payloads_stay_within_the_budget(layout: Layout) {
    let scene = Scene::set(Duration::from_millis(500)).await;
    let broker = scene.redis.broker(layout, "vision-jobs", "onlooker");
    // A picture that is large: its header, and then nothing.
    let mut image = include_bytes!("../../samples/text.png").to_vec();
    image.resize(20 * MIB as usize, 0);
    let payload = json!({"imageBase64": BASE64_STANDARD.encode(image)});
    let payload = serde_json::value::to_raw_value(&payload).unwrap();
    for n in 0..JOBS {
        let id = format!("large-{n}");
        let job = NewJob {
            id: &id,
            kind: JobType::ProcessImage,
            payload: &payload,
            max_attempts: 1,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
    }
    let budget = 128 * MIB;
    let queues = format!("{layout}:vision-jobs=10");
    let worker = scene
        .worker(&[
            ("QUEUES", queues.as_str()),
            ("MEDIA_MEMORY", &budget.to_string()),
            ("AZURE_VISION_MAX_CONCURRENT", "0"),
        ])
        .await;
    for n in 0..JOBS {
        let id = format!("large-{n}");
        let job = eventually(&format!("{id} has ended"), async || {
            // The simulator shares this test's thread, and digests each picture: Redis may be late.
            let job = broker.find(&id).await.ok()??;
            matches!(job.state, State::Completed | State::Failed).then_some(job)
        })
        .await;
        assert_eq!(job.state, State::Completed, "{id}: {:?}", job.error);
    }
    let peak = peak(worker.pid());
    assert!(peak < budget + 150 * MIB, "{} MB at most", peak / MIB);
    let log = worker.log().concat();
    assert!(!log.contains("Redis is away"), "{log}");
}
