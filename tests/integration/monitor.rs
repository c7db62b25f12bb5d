//! What the monitor reads from Redis, and writes there.

use std::collections::HashMap;

use backend_worker::queue::Layout;

use crate::{support::TestRedis, telemetry::now};

#[tokio::test]
async fn a_report_that_is_sent_again_counts_once() {
    let redis = TestRedis::start().await;
    let script = redis::Script::new(include_str!("../../src/monitor/add_outcomes.lua"));
    let add = async |replica: &str, number: u32, counts: [u32; 2]| -> u8 {
        let mut call = script.prepare_invoke();
        call.key("m").arg(replica).arg(number).arg(120).arg(&counts);
        call.invoke_async(&mut redis.raw.clone()).await.unwrap()
    };
    // Counts and a replica of two hours ago, and one written by a foreign program.
    let old = now(&redis).await / 60_000 - 120;
    let (field, last) = (format!("{old}:0"), format!("1 {old}"));
    redis
        .ask::<()>(&[
            "HSET",
            "m",
            &field,
            "7",
            "last:gone",
            &last,
            "last:odd",
            "nonsense",
        ])
        .await;
    assert_eq!(add("a", 1, [2, 0]).await, 1);
    assert_eq!(
        add("a", 1, [2, 0]).await,
        0,
        "the answer was lost, and the report sent again"
    );
    assert_eq!(add("b", 1, [3, 1]).await, 1);
    assert_eq!(add("a", 2, [1, 0]).await, 1);
    let all: HashMap<String, String> = redis.ask(&["HGETALL", "m"]).await;
    let sum = |place: &str| -> u32 {
        let of = all.iter().filter(|(field, _)| field.ends_with(place));
        of.map(|(_, count)| count.parse::<u32>().unwrap()).sum()
    };
    assert_eq!((sum(":0"), sum(":1")), (6, 1), "{all:?}");
    assert!(
        !all.contains_key("last:gone") && all["last:a"].starts_with("2 "),
        "{all:?}"
    );
    assert!(redis.ask::<i64>(&["TTL", "m"]).await > 7000);
}

#[tokio::test]
async fn the_age_of_the_next_job_is_known_in_both_layouts() {
    let redis = TestRedis::start().await;
    let ages = async |layout| {
        redis
            .broker(layout, "q", "w")
            .oldest_waiting()
            .await
            .unwrap()
            .as_secs()
    };
    for layout in Layout::ALL {
        assert_eq!(ages(layout).await, 0, "{layout}");
    }
    let added = now(&redis).await - 600_000;
    let id = ulid::Ulid::from_parts(added, 1).to_string();
    redis.ask::<()>(&["RPUSH", "q:active", &id]).await;
    assert!((600..700).contains(&ages(Layout::Apalis).await));
    redis.ask::<()>(&["DEL", "q:active"]).await;
    let due = (added / 1000).to_string();
    redis.ask::<()>(&["ZADD", "q:scheduled", &due, "x"]).await;
    assert!(
        (600..700).contains(&ages(Layout::Apalis).await),
        "due, and not promoted"
    );

    let (added, opts) = (added.to_string(), r#"{"delay":60000}"#);
    redis
        .ask::<()>(&["HSET", "bull:q:1", "timestamp", &added, "opts", opts])
        .await;
    redis.ask::<()>(&["LPUSH", "bull:q:wait", "1"]).await;
    assert!(
        (540..640).contains(&ages(Layout::Bullmq).await),
        "since it was first due"
    );
    redis
        .ask::<()>(&["HSET", "bull:q:1", "timestamp", "soon", "opts", "{"])
        .await;
    assert_eq!(ages(Layout::Bullmq).await, 0, "nonsense has no age");
}
