//! A replica as a process, which is fed bad jobs between good ones.

use std::time::Duration;

use backend_worker::queue::{Broker, JobState, Layout};
use nix::sys::signal::Signal;

use super::bad::{BAD, Raw, bad_jobs, ended, put};
use crate::support::{PATIENCE, Scene, eventually};

/// A flashcard job as its producer should write it.
fn good_job(layout: Layout, nth: usize) -> Raw {
    let data = r#"{"content":"Cells.","subject":"Biology","topic":"Cells","userId":"u"}"#;
    let name = b"generate-flashcards".to_vec();
    let fields = match layout {
        Layout::Bullmq => vec![(b"name".to_vec(), name), (b"data".to_vec(), data.into())],
        Layout::Apalis => vec![(b"attempts".to_vec(), b"0".to_vec())],
    };
    Raw {
        id: format!("good-{nth}"),
        fields: fields.into_iter().collect(),
        payload: format!(r#"{{"type":"generate-flashcards","data":{data}}}"#).into_bytes(),
        history: Vec::new(),
    }
}

/// A replica as a process is fed bad jobs of both layouts between good ones: the good ones are completed, each bad one
/// ends or can be seen, and the process lives.
#[tokio::test]
async fn good_jobs_between_bad_ones_are_completed() {
    let scene = Scene::set(Duration::ZERO).await;
    let (mut bad, mut wanted) = (Vec::new(), 0);
    for layout in Layout::ALL {
        for (nth, job) in bad_jobs(layout).into_iter().enumerate() {
            put(&scene.redis, layout, &job).await;
            bad.push((layout, job));
            if nth % 10 == 0 {
                put(&scene.redis, layout, &good_job(layout, nth)).await;
                wanted += 1;
            }
        }
    }
    let worker = scene.worker(&[("QUEUES", "bullmq:q,apalis:q")]).await;
    let brokers = Layout::ALL.map(|layout| (layout, scene.redis.broker(layout, "q", "onlooker")));
    let broker = |layout: Layout| -> &dyn Broker { &*brokers.iter().find(|(l, _)| *l == layout).unwrap().1 };

    eventually("nothing waits any more", async || {
        for (_, broker) in &brokers {
            let counts = broker.counts().await.unwrap();
            if counts.waiting + counts.active > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    let mut completed = 0;
    for (layout, broker) in &brokers {
        for nth in (0..BAD).step_by(10) {
            let job = broker.find(&format!("good-{nth}")).await.unwrap();
            let job = job.unwrap_or_else(|| panic!("{layout}: good-{nth} is gone"));
            assert_eq!(
                job.state,
                JobState::Completed,
                "{layout}: good-{nth}: {:?}",
                job.error
            );
            completed += 1;
        }
    }
    assert_eq!(completed, wanted);

    let events = ended(scene.redis.ask(&["XRANGE", "bull:q:events", "-", "+"]).await);
    let log = worker.log().join("\n");
    for (layout, job) in &bad {
        match broker(*layout).find(&job.id).await.unwrap() {
            Some(view) => {
                let told = matches!(view.state, JobState::Completed)
                    || view.error.is_some_and(|why| !why.is_empty());
                assert!(told, "{layout}: {job} is {} without a reason", view.state);
            }
            // Its producer wants nothing kept of it, or there was no job.
            None => assert!(
                events.iter().any(|(id, _)| *id == job.id) || log.contains(&format!("\"{}\"", job.id)),
                "{layout}: {job} is gone without a word"
            ),
        }
    }
    assert!(!log.contains("panic at "), "{log}");
    assert_eq!(worker.health().await.unwrap().0, 200);
    worker.signal(Signal::SIGTERM);
    let (code, _) = tokio::time::timeout(PATIENCE, worker.ended()).await.unwrap();
    assert_eq!(code, Some(0));
}
