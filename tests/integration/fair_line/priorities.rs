//! BullMQ's priorities come first; within one, owners take turns.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::{Claims, add, fair_keys};
use crate::support::{NodeScene, eventually};

/// Adds jobs of a student with BullMQ's own class.
async fn add_with(scene: &NodeScene, student: &str, from: usize, count: usize, priority: u32) {
    let jobs: Vec<_> = (from..from + count)
        .map(|n| {
            json!({ "name": "generate-flashcards", "data": { "content": "x", "userId": student },
                "opts": { "jobId": format!("{student}-{n}"), "priority": priority } })
        })
        .collect();
    scene.node.ask("addBulk", json!({ "jobs": jobs })).await;
}

fn of(ids: &[String], student: &str) -> usize {
    ids.iter().filter(|id| id.starts_with(student)).count()
}

#[tokio::test]
async fn within_a_priority_owners_take_turns() {
    let scene = NodeScene::set().await;
    let broker = &*scene.broker;
    add_with(&scene, "heavy", 0, 200, 5).await;
    add_with(&scene, "ann", 0, 3, 5).await;
    add_with(&scene, "bob", 0, 3, 5).await;
    add_with(&scene, "late", 0, 50, 9).await;
    add_with(&scene, "urgent", 0, 2, 1).await;
    let mut claims = Claims::of(broker).await;
    assert_eq!(claims.ids(8).await, ["urgent-0", "urgent-1"]);
    let first = claims.ids(6).await;
    assert_eq!(first, ["heavy-0", "ann-0", "bob-0", "heavy-1", "ann-1", "bob-1"]);
    // The view of BullMQ's classes stays right.
    let counts = scene.node.ask("counts", json!({})).await;
    assert_eq!(
        (&counts["prioritized"], &counts["active"]),
        (&json!(250), &json!(8))
    );
    let listed: Vec<String> = serde_json::from_value(scene.node.ask("prioritized", json!({})).await).unwrap();
    assert_eq!(listed.len(), 250);
    assert_eq!(scene.node.look("heavy-7").await["state"], "prioritized");
    // A job without a priority comes before all of them, and one that becomes more urgent before its equals.
    add(broker, "plain", 1).await;
    scene
        .node
        .ask("reprioritize", json!({ "id": "late-40", "priority": 2 }))
        .await;
    scene
        .node
        .ask("reprioritize", json!({ "id": "heavy-3", "priority": 9 }))
        .await;
    scene.node.ask("remove", json!({ "id": "heavy-2" })).await;
    let next = claims.ids(6).await;
    assert_eq!(
        next,
        ["plain-0", "late-40", "ann-2", "bob-2", "heavy-4", "heavy-5"]
    );
    let rest = claims.rest().await;
    assert_eq!(rest.len(), 244, "{rest:?}");
    // Whatever came later in the most urgent priority, every job of it came before the others.
    let last_of_five = rest
        .iter()
        .rposition(|id| id.starts_with("heavy") && id != "heavy-3")
        .unwrap();
    let first_of_nine = rest
        .iter()
        .position(|id| id.starts_with("late") || id == "heavy-3")
        .unwrap();
    assert!(last_of_five < first_of_nine, "{rest:?}");
    assert!(
        of(&rest[first_of_nine..first_of_nine + 4], "heavy") == 1,
        "{rest:?}"
    );
    // A claim without work clears what others have left.
    claims.ids(1).await;
    assert_eq!(fair_keys(&scene.redis).await, Vec::<String>::new());
}

/// A worker of BullMQ's own takes from the same set.
#[tokio::test]
async fn a_worker_of_bullmqs_own_takes_by_priority_too() {
    let scene = NodeScene::set().await;
    let broker = &*scene.broker;
    add_with(&scene, "heavy", 0, 120, 3).await;
    add_with(&scene, "ann", 0, 20, 3).await;
    let mut claims = Claims::of(broker).await;
    let mut ours = claims.ids(6).await;
    assert_eq!(of(&ours, "ann"), 3, "{ours:?}");
    scene.node.ask("work", json!({ "concurrency": 3 })).await;
    for _ in 0..10 {
        ours.extend(claims.ids(4).await);
    }
    eventually("nothing waits any more", async || {
        (broker.counts().await.unwrap().waiting == 0).then_some(())
    })
    .await;
    let theirs: Vec<String> = serde_json::from_value(scene.node.ask("started", json!({})).await).unwrap();
    let all: HashSet<&String> = ours.iter().chain(&theirs).collect();
    assert_eq!(
        (all.len(), ours.len() + theirs.len()),
        (140, 140),
        "each was taken once"
    );
    scene.node.ask("stop", json!({})).await;
    // BullMQ's counter restarts with an empty set. Jobs that are added then are taken fairly as well.
    add_with(&scene, "heavy", 1000, 60, 3).await;
    add_with(&scene, "bob", 0, 5, 3).await;
    let mut next = claims.ids(6).await;
    let rest = claims.rest().await;
    next.extend(rest);
    assert_eq!(next.iter().collect::<HashSet<_>>().len(), 65, "{next:?}");
    // A claim without work clears what others have left.
    claims.ids(1).await;
    assert_eq!(fair_keys(&scene.redis).await, Vec::<String>::new());
}

/// Jobs that come, are taken, and go back, in an order that a seed tells.
#[tokio::test]
async fn no_owner_of_a_priority_is_passed_over_for_more_than_a_round() {
    for seed in 1..=4u64 {
        let scene = NodeScene::set().await;
        let broker = &*scene.broker;
        let mut claims = Claims::of(broker).await;
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut waiting: HashMap<String, u64> = HashMap::new();
        let (mut added, mut taken) = (0usize, Vec::<String>::new());
        let mut priority_of: HashMap<String, u64> = HashMap::new();
        // A job that went back has used its turn, and is next.
        let mut went_back: HashSet<String> = HashSet::new();
        // Of each owner that waits, how often each other one was taken since: within a priority.
        let mut passed: HashMap<(String, String), usize> = HashMap::new();
        for _ in 0..60 {
            if random(2) == 0 {
                let (owner, priority) = (format!("s{}", random(5)), random(2) + 1);
                let count = usize::try_from(random(25)).unwrap() + 1;
                add_with(&scene, &owner, added, count, u32::try_from(priority).unwrap()).await;
                for n in added..added + count {
                    waiting.insert(format!("{owner}-{n}"), priority);
                    priority_of.insert(format!("{owner}-{n}"), priority);
                }
                added += count;
                continue;
            }
            let claimed = claims.take(usize::try_from(random(6)).unwrap() + 1).await;
            let gives_back = random(4) == 0;
            for delivery in &claimed {
                let id = delivery.lease.id.to_string();
                let priority = waiting
                    .remove(&id)
                    .unwrap_or_else(|| panic!("{id} was taken twice"));
                assert!(
                    waiting.values().all(|other| *other >= priority),
                    "seed {seed}: {id} came before more urgent ones"
                );
                let owner = id.split('-').next().unwrap().to_owned();
                let owner = format!("{owner}:{priority}");
                passed.retain(|(waits, _), _| *waits != owner);
                let waits: HashSet<String> = waiting
                    .iter()
                    .filter(|(_, other)| **other == priority)
                    .map(|(id, _)| format!("{}:{priority}", id.split('-').next().unwrap()))
                    .collect();
                passed.retain(|(one, _), _| !one.ends_with(&format!(":{priority}")) || waits.contains(one));
                if !gives_back && !went_back.contains(&id) {
                    for one in waits.into_iter().filter(|one| *one != owner) {
                        let times = passed.entry((one.clone(), owner.clone())).or_default();
                        *times += 1;
                        // One more than a round: the owner may have come in the middle of one.
                        assert!(*times <= 3, "seed {seed}: {owner} passed {one} {times} times");
                    }
                }
                if !gives_back {
                    taken.push(id);
                }
            }
            if gives_back {
                let leases: Vec<_> = claimed.iter().map(|delivery| delivery.lease.clone()).collect();
                assert_eq!(broker.release(&leases).await.unwrap(), leases.len());
                for id in leases.iter().map(|lease| lease.id.to_string()) {
                    waiting.insert(id.clone(), priority_of[&id]);
                    went_back.insert(id);
                }
            }
        }
        taken.extend(claims.rest().await);
        assert_eq!(taken.len(), added, "seed {seed}");
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), added, "seed {seed}");
    }
}

/// The position that is told is that at which the job is claimed, before and after the priority has turns of its own.
#[tokio::test]
async fn a_job_with_a_priority_stands_where_it_is_taken() {
    let scene = NodeScene::set().await;
    let broker = &*scene.broker;
    add_with(&scene, "heavy", 0, 60, 5).await;
    add_with(&scene, "ann", 0, 3, 5).await;
    add_with(&scene, "urgent", 0, 4, 1).await;
    // Nothing has been claimed: the order is that of BullMQ.
    assert_eq!(broker.line_position("urgent-1").await.unwrap().ahead, Some(1));
    assert_eq!(broker.line_position("heavy-3").await.unwrap().ahead, Some(7));
    let mut claims = Claims::of(broker).await;
    claims.ids(4).await;
    claims.ids(4).await;
    add(broker, "plain", 2).await;
    add_with(&scene, "bob", 0, 2, 5).await;
    let mut told = Vec::new();
    for id in ["plain-1", "ann-2", "heavy-2", "heavy-9", "heavy-40"] {
        let standing = broker.line_position(id).await.unwrap();
        let waiting = if id == "plain-1" { 2 } else { 63 };
        assert_eq!(standing.waiting, waiting, "{id}");
        told.push((id, usize::try_from(standing.ahead.unwrap()).unwrap()));
    }
    assert!(broker.line_position("bob-1").await.unwrap().ahead.is_some());
    let mut order = claims.rest().await;
    order.retain(|id| !id.starts_with("bob"));
    for (id, ahead) in told {
        assert_eq!(order[ahead], id, "{order:?}");
    }
}
