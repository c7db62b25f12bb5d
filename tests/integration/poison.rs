//! What a job is blamed for when its replica dies: over processes that are killed, with the gate and the ledger in between.

use std::time::Duration;

use backend_worker::{
    queue::{Layout, State},
    simulator::Provider,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Scene, both_layouts, eventually, view};

both_layouts! {
    what_ran_when_its_replica_was_killed_is_poison_in_the_end
    what_was_lost_before_does_not_wait_in_its_slot
}

/// The hash of the job, and the prefix of our fields in it.
fn hash(layout: Layout, id: &str) -> (String, &'static str) {
    match layout {
        Layout::Apalis => (format!("ai-jobs:meta:{id}"), ""),
        Layout::Bullmq => (format!("bull:ai-jobs:{id}"), "bw:"),
    }
}

async fn add(scene: &Scene, layout: Layout, id: &str) {
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let payload = json!({"content": id, "subject": "s", "topic": "t", "userId": "u"});
    let payload = serde_json::value::to_raw_value(&payload).unwrap();
    let job = backend_worker::queue::NewJob {
        id,
        kind: jobs::JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
}

async fn what_ran_when_its_replica_was_killed_is_poison_in_the_end(layout: Layout) {
    let scene = Scene::set(Duration::from_secs(3600)).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    add(&scene, layout, "1").await;
    let queues = format!("{layout}:ai-jobs=2");
    let env = [("QUEUES", queues.as_str()), ("LEASE_TTL", "5s")];
    for nth in 1..=3 {
        let worker = scene.worker(&env).await;
        let journal = scene.simulator.journal();
        journal
            .wait_until(|journal| journal.of(Provider::OpenAi).len() == nth)
            .await;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
    }
    let _last = scene.worker(&env).await;
    let job = eventually("it is poison", async || {
        Some(view(&*broker, "1").await).filter(|job| job.state == State::Failed)
    })
    .await;
    let error = job.error.unwrap();
    assert!(error.contains("poison: 3 deliveries ended without"), "{error}");
}

/// A first delivery waits for a busy provider in its slot. One of a job that was lost goes back to the queue instead, where
/// no replica can take it along into death.
async fn what_was_lost_before_does_not_wait_in_its_slot(layout: Layout) {
    let scene = Scene::set(Duration::from_secs(3600)).await;
    for id in ["runs", "waits", "lost"] {
        add(&scene, layout, id).await;
    }
    let lost = match layout {
        Layout::Apalis => "lost",
        Layout::Bullmq => "stc",
    };
    let field = async |id: &str, field: &str| -> Option<String> {
        let (key, prefix) = hash(layout, id);
        scene
            .redis
            .ask(&["HGET", &key, &format!("{prefix}{field}")])
            .await
    };
    scene
        .redis
        .ask::<()>(&["HSET", &hash(layout, "lost").0, lost, "1"])
        .await;
    let queues = format!("{layout}:ai-jobs=3");
    let env = [("QUEUES", queues.as_str()), ("OPENAI_MAX_CONCURRENT", "1")];
    let worker = scene.worker(&env).await;
    eventually("it has gone back and come again", async || {
        let waited = field("lost", "waited").await?.parse::<u64>().ok()?;
        (waited > 250 && field("lost", "begun").await.is_some()).then_some(())
    })
    .await;
    assert_eq!(
        (field("waits", "waited").await, field("waits", "begun").await),
        (None, None),
        "the other has kept its slot all the time, without a word to Redis"
    );
    worker.signal(Signal::SIGKILL);
    worker.ended().await;
}
