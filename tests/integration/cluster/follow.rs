//! Jobs go on while their slot gets another owner.

use super::*;

/// Jobs in each layout.
fn jobs() -> usize {
    let named = std::env::var("CLUSTER_JOBS").ok();
    named.and_then(|count| count.parse().ok()).unwrap_or(60)
}

/// Each primary is killed in turn, and last the one that has taken over the fleet's slot. While another node's slots have no
/// owner, the whole cluster refuses commands.
#[tokio::test]
async fn a_killed_primary_is_followed_to_its_replica() {
    let mut set = ClusterScene::set(Duration::from_millis(100)).await;
    let brokers = Layout::ALL.map(|layout| set.broker(layout));
    for broker in &brokers {
        add_jobs(&**broker, "j", jobs()).await;
    }
    let workers = [set.worker(&[]).await, set.worker(&[]).await];
    for round in 0..4 {
        set.until_requests(jobs() * 2 * (round + 1) / 6).await;
        let owner = set.cluster.owner().await;
        let victim = if round < 3 { round } else { owner };
        set.cluster.kill(victim);
        set.cluster.until_taken_over(victim).await;
        if victim == owner {
            assert_ne!(set.cluster.owner().await, owner);
        }
        set.cluster.revive(victim).await;
        set.cluster.until_whole().await;
    }
    for broker in &brokers {
        all_completed(&**broker, jobs()).await;
    }
    // Every answer arrived, so none is asked for again.
    assert_eq!(set.requests(), jobs() * 2);
    for worker in workers {
        eventually("the worker is healthy", async || {
            worker.health().await.filter(|(code, _)| *code == 200)
        })
        .await;
        stop(worker).await;
    }
}

/// No script runs while the keys of the slot lie on two nodes.
#[tokio::test]
async fn a_slot_that_moves_under_load_loses_nothing() {
    let set = ClusterScene::set(Duration::from_millis(100)).await;
    let brokers = Layout::ALL.map(|layout| set.broker(layout));
    for broker in &brokers {
        add_jobs(&**broker, "j", jobs()).await;
    }
    let workers = [set.worker(&[]).await, set.worker(&[]).await];
    for round in 1..=3 {
        set.until_requests(jobs() * 2 * round / 5).await;
        let owner = set.cluster.owner().await;
        // Few keys at a time, so that jobs meet the moving slot.
        let keys = 1 + jobs() / 100;
        set.cluster.migrate(owner, (owner + 1) % 3, keys).await;
        assert_eq!(set.cluster.owner().await, (owner + 1) % 3);
    }
    for broker in &brokers {
        all_completed(&**broker, jobs()).await;
    }
    assert_eq!(set.requests(), jobs() * 2);
    for worker in workers {
        stop(worker).await;
    }
    // No key was left or made on the nodes that do not own the slot.
    let owner = set.cluster.owner().await;
    let slot = TestCluster::namespace().slot().unwrap().to_string();
    for at in (0..3).filter(|at| *at != owner) {
        let left: usize = set.cluster.ask(at, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).await;
        assert_eq!(left, 0, "node {at}");
    }
    let all: Vec<String> = set.cluster.ask(owner, &["KEYS", "*"]).await;
    let foreign: Vec<&String> = all.iter().filter(|key| !key.contains("{app}")).collect();
    assert_eq!(foreign, [""; 0]);
}
