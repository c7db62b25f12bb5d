//! Queues in an operator's hands, from a shell.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::cards;
use crate::support::{Scene, eventually};

#[tokio::test]
async fn an_operator_sees_and_pauses_queues_from_a_shell() {
    let scene = Scene::set(Duration::ZERO).await;
    let run = async |arguments: &[&str]| {
        let output = scene.command(arguments).output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &cards(0).to_string()])
        .await;
    assert!(
        run(&["queue", "pause", "ai-jobs"])
            .await
            .1
            .contains("ai-jobs is paused")
    );
    let worker = scene.worker(&[]).await;
    let (_, stats) = run(&["queue", "stats"]).await;
    assert!(
        stats.contains("vision-jobs") && stats.contains("waiting"),
        "{stats}"
    );
    assert!(
        run(&["job", "show", &ids[0]])
            .await
            .1
            .contains("\"state\": \"waiting\"")
    );
    run(&["queue", "resume", "ai-jobs"]).await;
    let shown = eventually("done", async || {
        Some(run(&["job", "show", &ids[0]]).await.1).filter(|shown| shown.contains("\"completed\""))
    })
    .await;
    assert!(shown.contains("flashcards"));
    assert_eq!(run(&["job", "show", "nobody"]).await.0, Some(1));
    assert_eq!(run(&["queue", "pause", "nobody"]).await.0, Some(1));
    worker.signal(Signal::SIGTERM);
    worker.ended().await;
}
