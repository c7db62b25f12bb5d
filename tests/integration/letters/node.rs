//! A dead letter that is retried, and a job that is removed: all of the queue's keys are as BullMQ's own `job.retry()`
//! and `job.remove()` leave them.

use std::collections::BTreeMap;

use backend_worker::queue::{ClaimNumber, RemovalResult, RetryOrder, RetryResult};
use serde_json::{Value, json};

use crate::support::NodeScene;

/// Runs all that there is to run; what is called bad fails.
async fn run(scene: &NodeScene) {
    let mut number = ClaimNumber::FIRST;
    let mut idle = 0;
    while idle < 2 {
        number = number.next();
        let claimed = scene.broker.claim(number, 9).await.unwrap();
        idle = if claimed.is_empty() { idle + 1 } else { 0 };
        for delivery in claimed {
            let settled = match delivery.lease.id.starts_with("bad") {
                true => scene.broker.fail(&delivery.lease, "no", None).await,
                false => scene.broker.complete(&delivery.lease, "1").await,
            };
            settled.unwrap();
        }
    }
}

/// All keys with their contents, without times and without our own keys.
async fn picture(scene: &NodeScene) -> BTreeMap<String, String> {
    let mut picture = BTreeMap::new();
    let keys: Vec<String> = scene.redis.ask(&["KEYS", "bull:q:*"]).await;
    for key in keys
        .iter()
        .filter(|key| !key.contains("bw:") && !key.ends_with(":logs"))
    {
        let kind: String = scene.redis.ask(&["TYPE", key]).await;
        let content = match kind.as_str() {
            "hash" => {
                let mut fields: BTreeMap<String, String> = scene.redis.ask(&["HGETALL", key]).await;
                fields.retain(|name, _| {
                    !name.starts_with("bw:")
                        && !["timestamp", "processedOn", "finishedOn"].contains(&name.as_str())
                });
                format!("{fields:?}")
            }
            "list" => format!(
                "{:?}",
                scene.redis.ask::<Vec<String>>(&["LRANGE", key, "0", "-1"]).await
            ),
            // Jobs that share a millisecond in one queue may not in the other: scores order nothing here.
            "zset" | "set" => format!(
                "{:?}",
                scene.redis.ask::<Vec<String>>(&["SORT", key, "ALPHA"]).await
            ),
            "stream" => {
                let entries: Vec<(String, Vec<String>)> = scene.redis.ask(&["XRANGE", key, "-", "+"]).await;
                format!(
                    "{:?}",
                    entries.into_iter().map(|(_, fields)| fields).collect::<Vec<_>>()
                )
            }
            _ => scene.redis.ask::<String>(&["GET", key]).await,
        };
        picture.insert(key.clone(), content);
    }
    picture
}

/// The same in two queues: there Node acts, here this worker. Both look the same afterwards.
async fn alike(
    what: &str,
    prepare: impl AsyncFn(&NodeScene),
    node: (&str, Value),
    ours: impl AsyncFn(&NodeScene),
) -> (NodeScene, NodeScene) {
    let (theirs, own) = (NodeScene::set().await, NodeScene::set().await);
    for scene in [&theirs, &own] {
        prepare(scene).await;
    }
    let before = picture(&own).await;
    assert_eq!(picture(&theirs).await, before, "{what}: prepared alike");
    theirs.node.ask(node.0, node.1).await;
    ours(&own).await;
    let after = picture(&own).await;
    assert_ne!(after, before, "{what}: something was done");
    assert_eq!(after, picture(&theirs).await, "{what}");
    (theirs, own)
}

async fn retry(scene: &NodeScene, id: &str, reset_attempts: bool) {
    let order = RetryOrder {
        id: "o",
        by: "op",
        reset_attempts,
    };
    assert_eq!(
        scene.broker.retry(&[id], &order).await.unwrap(),
        [RetryResult::Done]
    );
}

#[tokio::test]
async fn a_retried_job_is_as_node_leaves_it() {
    for (what, opts, reset) in [
        ("plain", json!({"attempts": 3}), false),
        ("all attempts anew", json!({"attempts": 3}), true),
        ("lifo", json!({"lifo": true}), false),
        ("prioritized", json!({"priority": 5}), false),
        ("with logs", json!({"keepLogs": 2}), false),
    ] {
        let prepare = async |scene: &NodeScene| {
            scene.node.add("bad", opts.clone()).await;
            run(scene).await;
            scene.node.add("other", json!({})).await;
        };
        let node_opts = json!({"resetAttemptsMade": reset});
        let node = ("retry", json!({"id": "bad", "opts": node_opts}));
        let (theirs, own) = alike(what, prepare, node, async |scene| {
            retry(scene, "bad", reset).await
        })
        .await;
        let (mut theirs, mut ours) = (theirs.node.look("bad").await, own.node.look("bad").await);
        for job in [&mut theirs, &mut ours] {
            job["logs"].take();
        }
        assert_eq!(ours, theirs, "{what}");
        assert_eq!(ours["state"], "waiting", "{what}");
        let event = own.node.event("waiting").await;
        assert_eq!(
            (&event["jobId"], &event["prev"]),
            (&json!("bad"), &json!("failed")),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_job_is_retried_into_a_paused_or_a_full_queue_as_node_does_it() {
    for (what, op, args) in [
        ("paused", "pause", json!({})),
        ("full", "concurrency", json!({"count": 1})),
    ] {
        let prepare = async |scene: &NodeScene| {
            scene.node.add("bad", json!({})).await;
            run(scene).await;
            scene.node.add("held", json!({})).await;
            // A number beyond those of the run.
            let number = (0..9).fold(ClaimNumber::FIRST, |n, _| n.next());
            let held = scene.broker.claim(number, 1).await.unwrap();
            assert_eq!(held.len(), 1);
            scene.redis.ask::<()>(&["SET", "bull:q:held:lock", "w"]).await;
            scene.node.ask(op, args.clone()).await;
        };
        let node = ("retry", json!({"id": "bad"}));
        alike(what, prepare, node, async |scene| {
            retry(scene, "bad", false).await
        })
        .await;
    }
}

async fn family(scene: &NodeScene, flags: &Value) {
    let child = |id: &str, flags: &Value| {
        let mut opts = flags.clone();
        opts["jobId"] = json!(id);
        json!({"name": "process-image", "queueName": "q", "data": {}, "opts": opts})
    };
    let tree = json!({
        "name": "process-image", "queueName": "q", "data": {}, "opts": {"jobId": "parent"},
        "children": [child("bad", flags), child("good", &json!({}))],
    });
    scene.node.ask("flow", tree).await;
}

#[tokio::test]
async fn a_parent_waits_for_a_retried_child_again_as_under_node() {
    for flags in [
        json!({}),
        json!({"failParentOnFailure": true}),
        json!({"continueParentOnFailure": true}),
        json!({"ignoreDependencyOnFailure": true}),
        json!({"removeDependencyOnFailure": true}),
    ] {
        let what = flags.to_string();
        let prepare = async |scene: &NodeScene| {
            family(scene, &flags).await;
            run(scene).await;
        };
        let node = ("retry", json!({"id": "bad"}));
        alike(&what, prepare, node, async |scene| {
            retry(scene, "bad", false).await
        })
        .await;
    }
}

#[tokio::test]
async fn a_removed_job_is_as_node_leaves_it() {
    let remove = async |scene: &NodeScene, id: &str| {
        assert_eq!(scene.broker.remove(id).await.unwrap(), RemovalResult::Done);
    };
    for (what, id, opts, runs) in [
        ("failed", "bad", json!({}), true),
        ("completed", "good", json!({}), true),
        ("waiting", "good", json!({}), false),
        ("delayed", "good", json!({"delay": 60_000_000}), false),
        ("prioritized", "good", json!({"priority": 5}), false),
        (
            "deduplicated",
            "bad",
            json!({"deduplication": {"id": "d", "ttl": 60_000_000}}),
            true,
        ),
        (
            "deduplicated, waiting",
            "good",
            json!({"deduplication": {"id": "d"}}),
            false,
        ),
    ] {
        let prepare = async |scene: &NodeScene| {
            scene.node.add("other", json!({})).await;
            scene.node.add(id, opts.clone()).await;
            // When it is due is told by the clock of the moment.
            scene
                .redis
                .ask::<i64>(&["XTRIM", "bull:q:events", "MAXLEN", "0"])
                .await;
            scene.redis.ask::<i64>(&["DEL", "bull:q:marker"]).await;
            if runs {
                run(scene).await;
            }
        };
        let (_, own) = alike(what, prepare, ("remove", json!({"id": id})), async |scene| {
            remove(scene, id).await
        })
        .await;
        let left: Vec<String> = own.redis.ask(&["KEYS", &format!("bull:q:{id}*")]).await;
        assert!(left.is_empty(), "{what}: {left:?}");
        assert_eq!(own.node.event("removed").await["jobId"], id, "{what}");
    }
}

#[tokio::test]
async fn a_parent_is_released_by_the_removal_of_its_last_child() {
    let prepare = async |scene: &NodeScene| {
        family(scene, &json!({})).await;
        run(scene).await;
    };
    let (_, own) = alike(
        "a failed child",
        prepare,
        ("remove", json!({"id": "bad"})),
        async |scene| {
            assert_eq!(scene.broker.remove("bad").await.unwrap(), RemovalResult::Done);
        },
    )
    .await;
    assert_eq!(own.node.look("parent").await["state"], "waiting");
}

#[tokio::test]
async fn what_would_take_others_along_is_refused() {
    let scene = NodeScene::set().await;
    family(&scene, &json!({})).await;
    scene
        .node
        .ask("schedule", json!({"id": "nightly", "every": 60_000_000}))
        .await;
    let before = picture(&scene).await;
    assert_eq!(
        scene.broker.remove("parent").await.unwrap(),
        RemovalResult::Parent
    );
    let next: Vec<String> = scene.redis.ask(&["KEYS", "bull:q:repeat:nightly:*"]).await;
    let next = next[0].strip_prefix("bull:q:").unwrap();
    assert_eq!(scene.broker.remove(next).await.unwrap(), RemovalResult::Scheduled);
    assert_eq!(
        scene.broker.remove("repeat:nightly").await.unwrap(),
        RemovalResult::Unknown
    );
    assert_eq!(picture(&scene).await, before);
}
