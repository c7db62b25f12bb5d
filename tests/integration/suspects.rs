//! Jobs whose replica was killed: the next one runs them together, and lets no call out while one of them can still
//! kill.
//!
//! `SUSPECTS=20 SUSPECTS_CALL_MS=3000` prints how long a takeover of so many jobs takes.

use std::time::{Duration, Instant};

use backend_worker::{
    queue::{Broker, JobState, Layout},
    simulator::Provider,
};
use jobs::JobType;
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{self, Scene, SilentServer, eventually, view};

const NEVER: Duration = Duration::from_secs(3600);

async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: &Value) {
    support::add(broker, id, kind, &payload.to_string(), 3).await;
}

async fn add_deck(broker: &dyn Broker, id: &str) {
    let payload = json!({"content": id, "subject": "s", "topic": "t", "userId": "u"});
    add(broker, id, JobType::GenerateFlashcards, &payload).await;
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Without a killer among them, all lost jobs call at the same time.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn jobs_of_a_dead_replica_run_together(#[case] layout: Layout) {
    let jobs = usize::try_from(number("SUSPECTS", 8)).unwrap();
    let call = number("SUSPECTS_CALL_MS", 0);
    let latency = if call == 0 {
        NEVER
    } else {
        Duration::from_millis(call)
    };
    let scene = Scene::set(latency).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    for n in 0..jobs {
        add_deck(&*broker, &format!("job-{n}")).await;
    }
    let queues = format!("{layout}:ai-jobs={jobs}");
    let env = [("QUEUES", queues.as_str()), ("LEASE_TTL", "5s")];
    let journal = scene.simulator.journal();
    let worker = scene.worker(&env).await;
    journal
        .wait_until(|journal| journal.of(Provider::OpenAi).len() == jobs)
        .await;
    worker.signal(Signal::SIGKILL);
    worker.ended().await;
    let _next = scene.worker(&env).await;
    let began = Instant::now();
    // None of them ends before the last is here.
    journal
        .wait_until(|journal| journal.of(Provider::OpenAi).len() == 2 * jobs)
        .await;
    if call > 0 {
        eventually("all are completed", async || {
            (broker.counts().await.unwrap().completed == jobs as u64).then_some(())
        })
        .await;
        println!(
            "{layout}: {jobs} lost jobs of {call} ms took {:.1?}",
            began.elapsed()
        );
    }
}

/// Three jobs are ready for their calls, and a fourth loads its picture, by which it could kill. The three wait for
/// it, until it takes too long and has gone back to the queue.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn no_call_goes_out_while_another_suspect_prepares(#[case] layout: Layout) {
    let (scene, silence) = (Scene::set(NEVER).await, SilentServer::open());
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    for id in ["job-1", "job-2", "job-3"] {
        add_deck(&*broker, id).await;
    }
    let payload = json!({"imageUrl": format!("http://{}/slow", silence.host)});
    add(&*broker, "slow", JobType::ProcessImage, &payload).await;
    let queues = format!("{layout}:ai-jobs=8");
    let env = [
        ("QUEUES", queues.as_str()),
        ("LEASE_TTL", "5s"),
        ("MEDIA_ALLOWED_HOSTS", silence.host.as_str()),
        ("MEDIA_TIMEOUT", "5m"),
    ];
    let journal = scene.simulator.journal();
    let calls = || journal.of(Provider::OpenAi).len();
    let first = scene.worker(&env).await;
    eventually("all four are at work", async || {
        (calls() == 3 && silence.asked_for("slow") == 1).then_some(())
    })
    .await;
    first.signal(Signal::SIGKILL);
    first.ended().await;
    let _second = scene.worker(&env).await;
    eventually("it prepares beside the others", async || {
        (silence.asked_for("slow") == 2).then_some(())
    })
    .await;
    eventually("the others call", async || (calls() > 3).then_some(())).await;
    assert_eq!(view(&*broker, "slow").await.state, JobState::Waiting);
    assert_eq!(silence.asked_for("slow"), 2);
}
