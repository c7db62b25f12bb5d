//! BullMQ's own classes read and change the line while owners take turns.

use std::collections::HashSet;

use backend_worker::queue::Layout;
use serde_json::json;

use super::{Claims, add, fair_keys};
use crate::support::{NodeScene, eventually};

/// Each job is in one state, the same in `getState`, in the lists and in the counts.
async fn states(scene: &NodeScene) -> (HashSet<String>, HashSet<String>) {
    let census = scene.node.ask("census", json!({})).await;
    let jobs = census["jobs"].as_object().unwrap();
    let of = |state: &str| -> HashSet<String> {
        let matching = jobs.iter().filter(|(_, job)| job["state"] == state);
        matching.map(|(id, _)| id.clone()).collect()
    };
    let (waiting, active) = (of("wait"), of("active"));
    assert_eq!(
        census["counts"]["wait"]
            .as_u64()
            .or(census["counts"]["waiting"].as_u64()),
        Some(waiting.len() as u64)
    );
    assert_eq!(census["counts"]["active"], active.len());
    for id in waiting.iter().take(5) {
        assert_eq!(scene.node.look(id).await["state"], "waiting", "{id}");
    }
    (waiting, active)
}

#[tokio::test]
async fn bullmqs_own_classes_see_every_job_where_it_is() {
    let scene = NodeScene::set().await;
    let broker = &*scene.broker;
    assert_eq!(broker.layout(), Layout::Bullmq);
    add(broker, "heavy", 120).await;
    for student in ["ann", "bob"] {
        add(broker, student, 10).await;
    }
    let mut claims = Claims::of(broker).await;
    let taken = claims.ids(9).await;
    let (waiting, active) = states(&scene).await;
    assert_eq!((waiting.len(), active.len()), (131, 9));
    assert_eq!(active, taken.iter().cloned().collect());
    // They remove jobs from the middle and from both ends, and pause and resume.
    for id in ["heavy-60", "heavy-119", "ann-5", "bob-9"] {
        scene.node.ask("remove", json!({ "id": id })).await;
    }
    scene.node.ask("pause", json!({})).await;
    assert_eq!(claims.ids(5).await, Vec::<String>::new());
    scene.node.ask("resume", json!({})).await;
    let (waiting, _) = states(&scene).await;
    assert_eq!(waiting.len(), 127);
    let mut rest = claims.ids(6).await;
    let of = |student: &str| rest.iter().filter(|id| id.starts_with(student)).count();
    assert_eq!((of("heavy"), of("ann"), of("bob")), (2, 2, 2), "{rest:?}");
    rest.extend(claims.rest().await);
    assert_eq!(rest.len(), 127);
    assert_eq!(rest.iter().collect::<HashSet<_>>().len(), 127);
    assert_eq!(fair_keys(&scene.redis).await, Vec::<String>::new());
}

/// A worker of BullMQ's own takes from the same list, and puts back what it could not do.
#[tokio::test]
async fn a_worker_of_bullmqs_own_takes_from_the_same_line() {
    let scene = NodeScene::set().await;
    let broker = &*scene.broker;
    add(broker, "heavy", 100).await;
    for student in ["ann", "bob"] {
        add(broker, student, 20).await;
    }
    let mut claims = Claims::of(broker).await;
    let mut ours = claims.ids(6).await;
    scene.node.ask("work", json!({ "concurrency": 3 })).await;
    for _ in 0..10 {
        ours.extend(claims.ids(4).await);
    }
    eventually("nothing waits any more", async || {
        (broker.counts().await.unwrap().waiting == 0).then_some(())
    })
    .await;
    ours.extend(claims.rest().await);
    let theirs = scene.node.ask("started", json!({})).await;
    let theirs: Vec<String> = serde_json::from_value(theirs).unwrap();
    let all: HashSet<&String> = ours.iter().chain(&theirs).collect();
    assert_eq!(
        (all.len(), ours.len() + theirs.len()),
        (140, 140),
        "each was taken once"
    );
    assert_eq!(claims.ids(1).await, Vec::<String>::new());
    assert_eq!(fair_keys(&scene.redis).await, Vec::<String>::new());
    scene.node.ask("stop", json!({})).await;
}
