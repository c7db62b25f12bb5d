//! Outcomes that Redis does not take while a replica stops: they wait in files, and the next start writes them once.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backend_worker::{
    queue::{Broker, JobState, Layout},
    simulator::Provider,
};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::support::{Scene, Worker, eventually, view};

const DATA: &str = r#"{"content":"the secret of cells","subject":"s","topic":"t","userId":"u"}"#;

/// A replica whose only job has been paid for, whose Redis refuses to take the outcome, and which was told to stop.
struct Spooled {
    scene: Scene,
    folder: PathBuf,
    broker: Arc<dyn Broker>,
    queues: String,
    worker: Worker,
}

impl Spooled {
    async fn set(layout: Layout) -> Self {
        let scene = Scene::set(Duration::from_secs(1)).await;
        let folder = std::env::temp_dir().join(format!("spool-{}", scene.redis.server.port()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let queues = format!("{layout}:ai-jobs");
        let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
        let variables = Self::variables(&folder, &queues);
        let worker = scene.worker(&as_strs(&variables)).await;
        let queue = format!("{layout}:ai-jobs");
        let arguments = [
            "generate-flashcards",
            "--data",
            DATA,
            "--id",
            "a",
            "--queue",
            &queue,
        ];
        scene.enqueue(&arguments).await;
        scene
            .simulator
            .journal()
            .wait_until(|journal| !journal.of(Provider::OpenAi).is_empty())
            .await;
        scene
            .redis
            .ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"])
            .await;
        eventually("the outcome is refused", async || {
            let log = worker.log();
            log.iter()
                .any(|line| line.contains("not written yet"))
                .then_some(())
        })
        .await;
        worker.signal(Signal::SIGTERM);
        eventually("the outcome is in the spool", async || {
            (files(&folder, "outcome").len() == 1).then_some(())
        })
        .await;
        Self {
            scene,
            folder,
            broker,
            queues,
            worker,
        }
    }

    fn variables(folder: &Path, queues: &str) -> Vec<(&'static str, String)> {
        vec![
            ("SPOOL_DIR", folder.display().to_string()),
            ("QUEUES", queues.to_owned()),
            ("DRAIN_TIMEOUT", "1s".to_owned()),
            ("LEASE_TTL", "5s".to_owned()),
        ]
    }

    async fn mend(&self) {
        self.scene
            .redis
            .ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"])
            .await;
    }

    async fn start(&self) -> Worker {
        let variables = Self::variables(&self.folder, &self.queues);
        self.scene.worker(&as_strs(&variables)).await
    }

    fn calls(&self) -> usize {
        self.scene.simulator.journal().of(Provider::OpenAi).len()
    }

    async fn until_completed(&self) {
        eventually("the job is completed", async || {
            let view = self.broker.find("a").await.unwrap()?;
            (view.state == JobState::Completed).then_some(())
        })
        .await;
    }
}

fn as_strs<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, &**value)).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn an_outcome_waits_in_a_file_and_is_written_once(#[case] layout: Layout) {
    let Spooled {
        scene,
        folder,
        broker,
        queues,
        worker,
    } = Spooled::set(layout).await;
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0), "{log:#?}");
    let kept = files(&folder, "outcome").remove(0);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let name = kept.file_stem().unwrap().to_str().unwrap();
    assert!(
        name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'),
        "nothing of the job is in {name}"
    );
    assert!(log.iter().all(|line| !line.contains("secret of cells")));
    let copy = fs::read(&kept).unwrap();

    let spooled = Spooled {
        worker: {
            scene
                .redis
                .ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"])
                .await;
            let variables = Spooled::variables(&folder, &queues);
            scene.worker(&as_strs(&variables)).await
        },
        scene,
        folder,
        broker,
        queues,
    };
    spooled.until_completed().await;
    assert_eq!(spooled.calls(), 1, "paid once");
    let result = view(&*spooled.broker, "a").await.result.unwrap();
    assert_eq!(result["success"], true);
    assert_eq!(files(&spooled.folder, "outcome"), Vec::<PathBuf>::new());

    // As after a kill between the write and the removal of the file.
    fs::write(&kept, copy).unwrap();
    let again = spooled.start().await;
    assert_eq!(files(&spooled.folder, "outcome"), Vec::<PathBuf>::new());
    assert_eq!(view(&*spooled.broker, "a").await.result.unwrap(), result);
    assert_eq!(spooled.broker.counts().await.unwrap().completed, 1);
    drop(again);
    fs::remove_dir_all(&spooled.folder).unwrap();
}

#[tokio::test]
async fn a_kill_after_the_outcome_is_in_its_file_loses_nothing() {
    let mut spooled = Spooled::set(Layout::Bullmq).await;
    spooled.worker.signal(Signal::SIGKILL);
    spooled.mend().await;
    let next = spooled.start().await;
    let first = std::mem::replace(&mut spooled.worker, next);
    drop(first);
    spooled.until_completed().await;
    assert_eq!(spooled.calls(), 1, "paid once");
    assert_eq!(files(&spooled.folder, "outcome"), Vec::<PathBuf>::new());
    fs::remove_dir_all(&spooled.folder).unwrap();
}

#[tokio::test]
async fn redis_takes_the_outcome_while_the_replica_still_stops() {
    let spooled = Spooled::set(Layout::Bullmq).await;
    spooled.mend().await;
    spooled.until_completed().await;
    let Spooled {
        worker,
        folder,
        scene,
        ..
    } = spooled;
    assert_eq!(worker.ended().await.0, Some(0));
    assert_eq!(files(&folder, "outcome"), Vec::<PathBuf>::new());
    assert_eq!(scene.simulator.journal().of(Provider::OpenAi).len(), 1);
    fs::remove_dir_all(&folder).unwrap();
}

#[rstest]
#[case::bullmq(Layout::Bullmq)]
#[case::apalis(Layout::Apalis)]
#[tokio::test]
async fn a_job_that_another_replica_was_given_keeps_that_replicas_outcome(#[case] layout: Layout) {
    let mut spooled = Spooled::set(layout).await;
    spooled.worker.signal(Signal::SIGKILL);
    spooled.mend().await;
    let elsewhere = std::env::temp_dir().join(format!("spool-other-{}", spooled.scene.redis.server.port()));
    fs::create_dir_all(&elsewhere).unwrap();
    let variables = Spooled::variables(&elsewhere, &spooled.queues);
    spooled.worker = spooled.scene.worker(&as_strs(&variables)).await;
    // Once the lease of the first has run out.
    spooled.until_completed().await;
    let before = view(&*spooled.broker, "a").await;
    let late = spooled.start().await;
    assert_eq!(files(&spooled.folder, "outcome"), Vec::<PathBuf>::new());
    let after = view(&*spooled.broker, "a").await;
    assert_eq!(
        (after.result, after.attempts_made),
        (before.result, before.attempts_made),
        "the late outcome is dropped"
    );
    drop(late);
    fs::remove_dir_all(&spooled.folder).unwrap();
    fs::remove_dir_all(&elsewhere).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_set_aside() {
    let mut spooled = Spooled::set(Layout::Bullmq).await;
    spooled.worker.signal(Signal::SIGKILL);
    let kept = files(&spooled.folder, "outcome").remove(0);
    let mut bytes = fs::read(&kept).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&kept, bytes).unwrap();
    spooled.mend().await;
    spooled.worker = spooled.start().await;
    assert_eq!(files(&spooled.folder, "outcome"), Vec::<PathBuf>::new());
    assert_eq!(
        files(&spooled.folder, "damaged"),
        [kept.with_extension("damaged")]
    );
    spooled.until_completed().await;
    fs::remove_dir_all(&spooled.folder).unwrap();
}
