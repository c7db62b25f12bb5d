//! A wrong configuration is refused at the start, with the cure.

use super::*;
use crate::check::{check, of};

#[tokio::test]
async fn a_cluster_without_a_tag_is_refused() {
    let (cluster, scene) = tokio::join!(TestCluster::start(2, 0), Scene::set(Duration::ZERO));
    let output = scene
        .command(&["run"])
        .env("REDIS_URL", cluster.url([0]))
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let told =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("set REDIS_CLUSTER_TAG"), "{told}");
}

/// `check` names the owner of the slot, and health repeats Redis's words while the cluster serves nothing.
#[tokio::test]
async fn check_and_health_tell_the_state_of_the_cluster() {
    let set = ClusterScene::set(Duration::ZERO).await;
    let (url, owner) = (set.cluster.url([1]), set.cluster.owner().await);
    let variables = [("REDIS_URL", &*url), ("REDIS_CLUSTER_TAG", TAG)];
    let (_, answer) = check(&set.scene, &variables).await;
    let (level, found, _) = of(&answer, "redis cluster");
    assert_eq!(level, "ok", "{answer}");
    let port = set.cluster.port(owner).to_string();
    for part in ["ok: 3 primaries", "{app} is slot", &*port, "with 1 replicas"] {
        assert!(found.contains(part), "{part} in {found}");
    }
    assert_eq!(of(&answer, "redis rights").0, "ok", "{answer}");
    assert_eq!(of(&answer, "unserved queues").0, "ok", "{answer}");

    let worker = set.worker(&[]).await;
    assert_eq!(worker.health().await.unwrap().0, 200);
    // Another node's slots lose their owner and its replica.
    let other = (owner + 1) % 3;
    set.cluster.kill(other + 3);
    set.cluster.kill(other);
    eventually("health tells that the cluster is down", async || {
        let (code, body) = worker.health().await?;
        let told = body.to_string().to_lowercase();
        (code == 503 && told.contains("cluster is down")).then_some(())
    })
    .await;
    let (code, answer) = check(&set.scene, &variables).await;
    assert_eq!(code, Some(1), "{answer}");
}

/// A name without the tag would be refused by the node, in silence where the worker can do without the answer.
#[tokio::test]
async fn no_call_names_a_key_of_another_slot() {
    let set = ClusterScene::set(Duration::ZERO).await;
    let owner = set.cluster.owner().await;
    let worker = set.worker(&[("USER_RATE_LIMIT", "10")]).await;
    for layout in Layout::ALL {
        let broker = set.broker(layout);
        add_jobs(&*broker, "j", 20).await;
        all_completed(&*broker, 20).await;
    }
    for path in ["health", "metrics", "spend", "breakers", "queues"] {
        let url = format!("http://localhost:{}/api/{path}", worker.port);
        reqwest::get(url).await.unwrap();
    }
    stop(worker).await;
    let errors: String = set.cluster.ask(owner, &["INFO", "errorstats"]).await;
    for code in ["CROSSSLOT", "MOVED"] {
        assert!(!errors.contains(code), "{errors}");
    }
}
