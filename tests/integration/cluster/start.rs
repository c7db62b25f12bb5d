//! A wrong configuration is refused at the start, with the cure.

use super::*;

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
