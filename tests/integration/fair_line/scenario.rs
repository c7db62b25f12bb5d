//! A limit with several replicas and students, as the provider sees it. `scripts/fair-line.sh` measures the same with
//! everything at its defaults.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    queue::{Broker, Layout, NewJob},
    simulator::Provider,
};
use jobs::JobType;
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::support::{Scene, eventually, raw};

/// Adds a job of a student; the provider sees its name.
pub(super) async fn add(broker: &dyn Broker, student: &str, id: &str) {
    let payload = format!(r#"{{"content":"{id}","subject":"x","topic":"y","userId":"{student}"}}"#);
    let payload = raw(&payload);
    let job = NewJob {
        id,
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 1,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_burst_at_a_limit_fails_no_job_and_holds_up_no_other_student(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let queue = format!("{layout}:ai-jobs=20");
    let env = [
        ("QUEUES", queue.as_str()),
        ("OPENAI_RATE_LIMIT_RPM", "600"),
        ("OPENAI_MAX_CONCURRENT", "5"),
        // No wait for a limit counts towards it.
        ("CIRCUIT_MAX_WAIT", "1s"),
    ];
    let workers = [
        scene.worker(&env).await,
        scene.worker(&env).await,
        scene.worker(&env).await,
    ];
    let broker: Arc<dyn Broker> = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let journal = scene.simulator.journal();
    let completed = async |count: u64| {
        eventually(&format!("{count} jobs are done"), async || {
            let counts = broker.counts().await.unwrap();
            assert_eq!(counts.failed, 0, "limits fail no job");
            assert_eq!(counts.delayed, 0, "no job waits outside of the line");
            (counts.completed >= count).then_some(())
        })
        .await;
    };
    // The fleet has seen several students.
    for n in 0..30 {
        add(&*broker, &format!("student-{n}"), &format!("job-{n}")).await;
    }
    completed(30).await;

    for n in 1000..1140 {
        add(&*broker, "heavy", &format!("job-{n}")).await;
    }
    for nth in 0..5 {
        let seen = 95 + 10 * nth;
        journal
            .wait_until(|journal| journal.counts(Provider::OpenAi).requests >= seen)
            .await;
        let id = format!("job-{}", 2000 + nth);
        let before = journal.of(Provider::OpenAi).len();
        add(&*broker, "late", &id).await;
        let at = eventually("the provider is asked for it", async || {
            journal
                .of(Provider::OpenAi)
                .iter()
                .position(|entry| entry.marker == id)
        })
        .await;
        assert!(
            at < before + 2 * 20,
            "{id} was asked for after {} others",
            at - before
        );
    }
    completed(175).await;
    let most = journal.peak_in_window(Provider::OpenAi, Duration::from_secs(60));
    assert!(most <= 600, "{most} requests in a minute");
    for worker in workers {
        worker.signal(Signal::SIGTERM);
        worker.ended().await;
    }
}
