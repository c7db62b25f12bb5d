//! What a job is blamed for when its replica dies: over processes that are killed, with the gate and the ledger in
//! between.

use std::time::Duration;

use backend_worker::{
    queue::{JobState, Layout},
    simulator::Provider,
};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::json;

use crate::support::{Scene, eventually, view};

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

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn what_ran_when_its_replica_was_killed_is_poison_in_the_end(#[case] layout: Layout) {
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
        Some(view(&*broker, "1").await).filter(|job| job.state == JobState::Failed)
    })
    .await;
    let error = job.error.unwrap();
    assert!(error.contains("poison: 3 deliveries ended without"), "{error}");
}

/// A killer and five bystanders are in flight when their replica dies, and run together once more. It kills by the
/// answer to its call, so it takes their calls along for a second time; from then on each runs alone. The killer
/// fails as poison under its own name, and no bystander fails.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_killer_by_its_answer_takes_bystanders_along_twice_at_most(#[case] layout: Layout) {
    let scene = Scene::set(Duration::from_millis(300)).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let bystanders = ["job-b1", "job-b2", "job-b3", "job-b4", "job-b5"];
    for id in bystanders.into_iter().chain(["job-killer"]) {
        add(&scene, layout, id).await;
    }
    let queues = format!("{layout}:ai-jobs=8");
    let env = [("QUEUES", queues.as_str()), ("LEASE_TTL", "5s")];
    let journal = scene.simulator.journal();
    let calls = |id: &str| {
        let all = journal.of(Provider::OpenAi);
        all.iter().filter(|call| call.marker == id).count()
    };
    let (mut kills, mut worker) = (0, scene.worker(&env).await);
    let killer = loop {
        // It kills its replica while its call is under way.
        let called = eventually("the killer is called, or has ended", async || {
            let job = view(&*broker, "job-killer").await;
            (job.state == JobState::Failed || calls("job-killer") > kills).then_some(job)
        })
        .await;
        if called.state == JobState::Failed {
            break called;
        }
        kills += 1;
        worker.signal(Signal::SIGKILL);
        worker.ended().await;
        worker = scene.worker(&env).await;
    };
    let error = killer.error.unwrap();
    assert!(error.contains("poison: 3 deliveries ended without"), "{error}");
    assert!((3..=4).contains(&kills), "{kills}");
    for id in bystanders {
        let job = eventually(&format!("{id} has ended"), async || {
            Some(view(&*broker, id).await)
                .filter(|job| matches!(job.state, JobState::Completed | JobState::Failed))
        })
        .await;
        assert_eq!(job.state, JobState::Completed, "{id}: {:?}", job.error);
        assert!(calls(id) <= 3, "{id} was paid for {} times", calls(id));
    }
}

/// A first delivery waits for a busy provider in its slot. One of a job that was lost goes back to the queue instead,
/// where no replica can take it along into death.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn what_was_lost_before_does_not_wait_in_its_slot(#[case] layout: Layout) {
    let scene = Scene::set(Duration::from_secs(3600)).await;
    for id in ["runs", "waits"] {
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
    let queues = format!("{layout}:ai-jobs=2");
    let env = [("QUEUES", queues.as_str()), ("OPENAI_MAX_CONCURRENT", "1")];
    let worker = scene.worker(&env).await;
    let journal = scene.simulator.journal();
    journal
        .wait_until(|journal| journal.of(Provider::OpenAi).len() == 1)
        .await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    eventually("both slots are taken", async || {
        (broker.counts().await.unwrap().active == 2).then_some(())
    })
    .await;
    add(&scene, layout, "lost").await;
    scene
        .redis
        .ask::<()>(&["HSET", &hash(layout, "lost").0, lost, "1"])
        .await;
    // It is alone in another replica, and meets the limit there: it goes back to the line, and does not wait in its
    // slot.
    let other = scene.worker(&env).await;
    eventually("it has begun and gone back to the line", async || {
        field("lost", "begun").await?;
        (view(&*broker, "lost").await.state == JobState::Waiting).then_some(())
    })
    .await;
    drop(other);
    assert_eq!(
        (field("waits", "waited").await, field("waits", "begun").await),
        (None, None),
        "the other has kept its slot all the time, without a word to Redis"
    );
    worker.signal(Signal::SIGKILL);
    worker.ended().await;
}
