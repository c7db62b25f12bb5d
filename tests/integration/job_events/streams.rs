//! The streams themselves: how many, for whom, how long.

use super::*;

both_layouts! { [Scene]
    a_client_that_goes_away_leaves_nothing_behind
    streams_outlive_broken_connections_to_redis
    streams_end_with_the_server
}

async fn a_client_that_goes_away_leaves_nothing_behind(scene: Scene) {
    enqueue(&*scene.broker, "1").await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = scene.open("1").await;
        stream.until("connected").await;
        streams.push(stream);
    }
    assert_eq!(scene.broker.watchers().count(), 20);
    if scene.broker.layout() == Layout::Bullmq {
        eventually("one connection reads for all", async || {
            (scene.readers().await == 1).then_some(())
        })
        .await;
    }
    let mut last = streams.pop().unwrap();
    drop(streams);
    eventually("the others have gone", async || {
        (scene.broker.watchers().count() == 1).then_some(())
    })
    .await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    last.until("active").await;
    drop(last);
    scene.until_unwatched().await;
    scene.complete(&delivery).await;
}

async fn streams_outlive_broken_connections_to_redis(scene: Scene) {
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    let (delivery, _) = scene.claim(ClaimNumber::FIRST).await;
    stream.until("active").await;
    for _ in 0..3 {
        let _: usize = scene
            .redis
            .ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
    }
    eventually("the job is completed", async || {
        scene.broker.complete(&delivery.lease, "1").await.ok()
    })
    .await;
    assert_eq!(stream.until("completed").await["result"], 1);
}

async fn streams_end_with_the_server(scene: Scene) {
    enqueue(&*scene.broker, "1").await;
    let mut stream = scene.open("1").await;
    stream.until("connected").await;
    scene.stop.cancel();
    assert!(stream.rest().await.is_empty());
    scene.until_unwatched().await;
    scene.server.await.unwrap().unwrap();
}
