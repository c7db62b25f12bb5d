//! A slot that is on its way: no script runs on half of its keys, and no key is made on the wrong node.

use backend_worker::script::Script;
use redis::RedisError;

use super::*;

/// Every key of the script exists, so without the guard Redis would run it.
#[tokio::test]
async fn no_script_runs_while_its_slot_moves() {
    let cluster = TestCluster::start(2, 0).await;
    let connection = cluster.connection();
    let scripts = [
        Script::new("return redis.call('INCR', KEYS[1])\n"),
        Script::stored("probe", "", "return redis.call('INCR', KEYS[1])\n"),
    ];
    let key = connection.named("count");
    for (script, count) in scripts.iter().zip(1..) {
        let told: u64 = connection
            .invoke(script.prepare_invoke().key(&key))
            .await
            .unwrap();
        assert_eq!(told, count);
    }
    let (from, slot) = (
        cluster.owner().await,
        TestCluster::namespace().slot().unwrap().to_string(),
    );
    let to = 1 - from;
    let (source, target): (String, String) = (
        cluster.ask(from, &["CLUSTER", "MYID"]).await,
        cluster.ask(to, &["CLUSTER", "MYID"]).await,
    );
    cluster
        .ask::<()>(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source])
        .await;
    cluster
        .ask::<()>(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target])
        .await;
    for script in &scripts {
        let refused: RedisError = connection
            .invoke::<u64>(script.prepare_invoke().key(&key))
            .await
            .unwrap_err();
        assert!(matches!(refused.code(), Some("ASK" | "TRYAGAIN")), "{refused}");
    }
    let mut write = redis::pipe();
    write.set(connection.named("new"), 1).ignore();
    let refused = connection.query::<()>(&write).await.unwrap_err();
    let refused = refused.into_server_errors().unwrap();
    assert_eq!(refused[0].1.code(), "ASK");

    cluster.migrate(from, to, 10).await;
    for (script, count) in scripts.iter().zip(3..) {
        let told = eventually("the connection follows the slot", async || {
            connection
                .invoke::<u64>(script.prepare_invoke().key(&key))
                .await
                .ok()
        });
        assert_eq!(told.await, count);
    }
    let left: usize = cluster.ask(from, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).await;
    assert_eq!(left, 0);
}
