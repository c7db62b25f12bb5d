//! Long lists: who takes a job out of the middle of one does not walk along it in a script.

use std::time::{Duration, Instant};

use backend_worker::queue::{Completion, CompletionResults, Layout, RemovalResult, WriteResult};
use rstest::rstest;

use super::{FIRST, claim};
use crate::support::{TestRedis, enqueue};

fn line(layout: Layout) -> (&'static str, &'static str) {
    match layout {
        Layout::Apalis => ("RPUSH", "q:active"),
        Layout::Bullmq => ("LPUSH", "bull:q:wait"),
    }
}

/// Adds ids with nothing behind them at the end of the line.
async fn lengthen(redis: &TestRedis, layout: Layout, ids: std::ops::Range<u32>) {
    let (push, key) = line(layout);
    for first in ids.clone().step_by(1000) {
        let script = redis::Script::new(
            "for i = ARGV[2], ARGV[3] do redis.call(ARGV[1], KEYS[1], string.format('%d', i)) end",
        );
        let mut call = script.prepare_invoke();
        call.key(key)
            .arg(push)
            .arg(first)
            .arg((first + 999).min(ids.end - 1));
        call.invoke_async::<()>(&mut redis.raw.clone()).await.unwrap();
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_job_is_taken_out_of_a_long_line_without_a_walk(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "a");
    lengthen(&redis, layout, 0..50_000).await;
    enqueue(&*broker, "wanted").await;
    lengthen(&redis, layout, 50_000..100_000).await;
    let walks = redis.calls("lrem").await;
    assert_eq!(broker.remove("wanted").await.unwrap(), RemovalResult::Done);
    assert_eq!(redis.calls("lrem").await, walks, "nothing walks along the line");
    assert!(broker.find("wanted").await.unwrap().is_none());
    let (_, key) = line(layout);
    let mut left: Vec<String> = redis.ask(&["LRANGE", key, "0", "-1"]).await;
    if layout == Layout::Bullmq {
        left.reverse();
    }
    // The newest stands where it stood; everybody else stands where they were.
    let mut expected: Vec<String> = (0..99_999).map(|n| n.to_string()).collect();
    expected.insert(50_000, "99999".to_owned());
    assert!(left == expected, "{} are left", left.len());

    // Near an end the caller need not search for the place, and no other job moves.
    for (id, place) in [("77", 77), ("99990", 99_990)] {
        broker.remove(id).await.unwrap();
        let removed = expected.remove(place);
        assert_eq!(removed, id);
    }
    let mut left: Vec<String> = redis.ask(&["LRANGE", key, "0", "-1"]).await;
    if layout == Layout::Bullmq {
        left.reverse();
    }
    assert!(left == expected, "{} are left", left.len());
}

/// The list of claimed jobs is walked along to take one out of it: many of them are not taken out by one script.
#[tokio::test]
async fn walks_along_the_claimed_jobs_are_short() {
    let redis = TestRedis::start().await;
    let (a, b) = (redis.bullmq("q", "a"), redis.bullmq("q", "b"));
    for n in 0..120 {
        enqueue(&*a, &n.to_string()).await;
    }
    a.renew(&[]).await.unwrap();
    b.renew(&[]).await.unwrap();
    let (mut of_a, mut of_b) = (FIRST, FIRST);
    let (held, dead) = (claim(&*a, &mut of_a, 90).await, claim(&*b, &mut of_b, 30).await);
    // Other replicas' jobs, older and newer ones.
    let others = redis::Script::new(
        "for i = 1, 15000 do for _, side in ipairs({ 'LPUSH', 'RPUSH' }) do redis.call(side, 'bull:q:active', side .. i) \
         redis.call('SET', 'bull:q:' .. side .. i .. ':lock', 'x') end end",
    );
    others
        .prepare_invoke()
        .invoke_async::<()>(&mut redis.raw.clone())
        .await
        .unwrap();
    let scripts = async || redis.scripts().await;

    let (done, held) = held.split_at(30);
    let before = scripts().await;
    let completions = done.iter().cloned().map(|lease| Completion {
        lease,
        result: "1".to_owned(),
        equal: None,
    });
    let CompletionResults { settled, .. } = a.complete_all(&completions.collect::<Vec<_>>(), None).await;
    assert!(
        settled.iter().all(|one| matches!(one, Ok(WriteResult::Applied))),
        "{settled:?}"
    );
    let took = scripts().await - before;
    assert!(took >= 30, "{took} scripts, although they end together");

    let before = scripts().await;
    assert_eq!(a.release(&held[..30]).await.unwrap(), 30);
    let took = scripts().await - before;
    assert!(took >= 30, "{took} scripts, each may be anywhere among 30,000");
    let line: Vec<String> = redis.ask(&["LRANGE", "bull:q:wait", "0", "-1"]).await;
    let expected = held[..30].iter().rev().map(|lease| &*lease.id);
    assert!(
        line.iter().map(String::as_str).eq(expected),
        "next in line, in their old order"
    );

    let before = scripts().await;
    a.remove_replica().await.unwrap();
    let took = scripts().await - before;
    assert!(took >= 15_000u64.div_ceil(32) + 10, "{took} scripts");
    assert_eq!(a.counts().await.unwrap().waiting, 60);

    for lease in &dead {
        redis
            .ask::<()>(&["DEL", &format!("bull:q:{}:lock", lease.id)])
            .await;
    }
    let sweeper = redis.broker_with(Layout::Bullmq, "q", "sweeper", Duration::from_secs(1));
    let (mut found, mut renewed) = (0, None::<Instant>);
    while found < 30 {
        // Not each time: a renewal looks for strays among all of the claimed jobs.
        if renewed.is_none_or(|at| at.elapsed() > Duration::from_millis(200)) {
            sweeper.renew(&[]).await.unwrap();
            renewed = Some(Instant::now());
        }
        let step = sweeper.recover().await.unwrap();
        assert!(step.requeued <= 2, "{step:?}: behind 15,000 others");
        found += step.requeued;
    }
    assert_eq!(a.counts().await.unwrap().active, 30_000);
}
