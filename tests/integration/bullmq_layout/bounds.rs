//! What bounds a claim, and what is kept of jobs that have ended.

use backend_worker::queue::{Broker, BrokerOptions, bullmq::BullmqBroker};

use super::FIRST;
use crate::support::{TestRedis, enqueue};

#[tokio::test]
async fn what_does_not_fit_a_claim_stays_in_its_place() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    let large = format!("\"{}\"", "x".repeat(3 * 1024 * 1024));
    let put = async |id: &str, priority: &str| {
        let key = format!("bull:q:{id}");
        let fields = ["name", "x", "data", &large, "opts", "{}", "priority", priority];
        redis.ask::<()>(&[&["HSET", &key], &fields[..]].concat()).await;
        match priority {
            "0" => redis.ask::<()>(&["LPUSH", "bull:q:wait", id]).await,
            _ => {
                redis
                    .ask::<()>(&["ZADD", "bull:q:prioritized", priority, id])
                    .await
            }
        }
    };
    for (id, priority) in [
        ("1", "0"),
        ("2", "0"),
        ("3", "0"),
        ("p8", "8"),
        ("p9", "9"),
        ("p7", "7"),
    ] {
        put(id, priority).await;
    }

    let mut number = FIRST;
    // Two payloads are more than an answer should hold; each claim takes what then is next.
    for pair in [["1", "2"], ["3", "p7"], ["p8", "p9"]] {
        let claimed = broker.claim(number, 9).await.unwrap();
        let ids: Vec<&str> = claimed.iter().map(|d| &*d.lease.id).collect();
        assert_eq!(ids, pair);
        assert!(
            claimed
                .iter()
                .all(|d| d.payload.as_deref() == Some(large.as_bytes()))
        );
        number = number.next();
    }
    assert!(broker.claim(number, 9).await.unwrap().is_empty());
    let counts = broker.counts().await.unwrap();
    assert_eq!((counts.active, counts.waiting), (6, 0));
}

#[tokio::test]
async fn a_set_at_its_retention_is_a_tree_of_the_newest() {
    let redis = TestRedis::start().await;
    let options = BrokerOptions {
        keep_completed_count: 2,
        ..BrokerOptions::default()
    };
    let broker: &dyn Broker = &BullmqBroker::new(redis.connection(), "q", "w", options);
    broker.renew(&[]).await.unwrap();
    for id in ["1", "2", "3", "4"] {
        enqueue(broker, id).await;
    }
    let leases = broker.claim(FIRST, 4).await.unwrap();
    for delivery in leases {
        broker.complete(&delivery.lease, "1").await.unwrap();
    }
    let kept: Vec<String> = redis.ask(&["ZRANGE", "bull:q:completed", "0", "-1"]).await;
    assert_eq!(kept, ["3", "4"]);
    // To add to a packed list costs ten times as much.
    let encoding: String = redis.ask(&["OBJECT", "ENCODING", "bull:q:completed"]).await;
    assert_eq!(encoding, "skiplist");
    let mut left: Vec<String> = redis.ask(&["KEYS", "bull:q:?*"]).await;
    left.retain(|key| key.ends_with(":1") || key.ends_with(":2") || key.contains(":lock"));
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_redis_without_memory_refuses_a_claim_whole() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    enqueue(&*broker, "1").await;
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    // What ran could not be written.
    assert!(broker.claim(FIRST, 1).await.is_err());
    let waiting: Vec<String> = redis.ask(&["LRANGE", "bull:q:wait", "0", "-1"]).await;
    assert_eq!(waiting, ["1"]);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(broker.claim(FIRST, 1).await.unwrap().len(), 1);
}
