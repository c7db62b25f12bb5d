//! No script runs long, however long the queue is, however many jobs are in flight, however large a payload is. What is
//! counted are commands and scripts: times are `cargo bench --bench depth`'s.

use std::time::{Duration, Instant};

use backend_worker::queue::{
    Broker, ClaimNumber, Layout, Lease, NewJob, Query, Removal, RetryOrder, Settled, State,
};
use futures_util::future::join_all;
use jobs::JobType;

use crate::support::{TestRedis, both_layouts, enqueue, raw};

const FIRST: ClaimNumber = ClaimNumber::FIRST;
/// Commands that a script runs at most: 2 to 5 µs each.
const MOST: f64 = 1000.0;

both_layouts! {
    no_script_runs_many_commands
    a_large_payload_passes_no_script
    a_claim_with_large_payloads_may_be_sent_again
    a_job_is_taken_out_of_a_long_line_without_a_walk
}

/// Commands so far, those of scripts included, and scripts.
async fn commands(redis: &TestRedis) -> (f64, f64) {
    let info: String = redis.ask(&["INFO", "commandstats"]).await;
    let mut counted = (0.0, 0.0);
    for line in info.lines() {
        let Some((name, stats)) = line.split_once(":calls=") else {
            continue;
        };
        let calls: f64 = stats.split(',').next().unwrap().parse().unwrap();
        match name {
            "cmdstat_evalsha" => counted.1 += calls,
            _ => counted.0 += calls,
        }
    }
    counted
}

/// How often one command ran so far.
async fn calls(redis: &TestRedis, command: &str) -> f64 {
    let info: String = redis.ask(&["INFO", "commandstats"]).await;
    let stats = info
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    stats.map_or(0.0, |stats| stats.split(',').next().unwrap().parse().unwrap())
}

/// Does something, and holds that none of its scripts ran many commands.
async fn bounded<T>(redis: &TestRedis, what: &str, work: impl Future<Output = T>) -> T {
    let before = commands(redis).await;
    let done = work.await;
    let after = commands(redis).await;
    let (ran, scripts) = (after.0 - before.0, after.1 - before.1);
    assert!(scripts > 0.0, "{what} runs scripts");
    assert!(
        ran / scripts < MOST,
        "{what}: {ran} commands in {scripts} scripts"
    );
    done
}

/// Claims until `count` are held.
async fn claim(broker: &dyn Broker, number: &mut ClaimNumber, count: usize) -> Vec<Lease> {
    let mut held = Vec::new();
    while held.len() < count {
        let claimed = broker.claim(*number, count - held.len()).await.unwrap();
        *number = number.next();
        held.extend(claimed.into_iter().map(|delivery| delivery.lease));
    }
    held
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

fn line(layout: Layout) -> (&'static str, &'static str) {
    match layout {
        Layout::Apalis => ("RPUSH", "q:active"),
        Layout::Bullmq => ("LPUSH", "bull:q:wait"),
    }
}

async fn no_script_runs_many_commands(layout: Layout) {
    let redis = TestRedis::start().await;
    let lease = Duration::from_secs(2);
    let (a, b) = (
        redis.broker(layout, "q", "a"),
        redis.broker_with(layout, "q", "b", lease),
    );
    a.renew(&[]).await.unwrap();
    let payload = raw("{}");
    for n in 0..1500 {
        let id = n.to_string();
        let job = NewJob {
            id: &id,
            kind: JobType::GenerateFlashcards,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::from_millis(u64::from(n % 2 == 0)),
        };
        a.enqueue(&job).await.unwrap();
    }
    let mut number = FIRST;
    let held = bounded(&redis, "claim", claim(&*a, &mut number, 1500)).await;
    bounded(&redis, "renew", a.renew(&held)).await.unwrap();
    bounded(&redis, "list", async {
        let query = Query {
            state: State::Active,
            kind: Some("none"),
            since: None,
            after: None,
            limit: 50,
        };
        a.list(&query).await.unwrap();
    })
    .await;
    for lease in &held[..300] {
        a.fail(lease, "refused", None).await.unwrap();
    }
    let ids: Vec<&str> = held[..300].iter().map(|lease| &*lease.id).collect();
    let order = RetryOrder {
        id: "order",
        by: "test",
        reset_attempts: false,
    };
    bounded(&redis, "retry", a.retry(&ids, &order)).await.unwrap();
    bounded(&redis, "release", a.release(&held[300..900]))
        .await
        .unwrap();
    bounded(&redis, "leave", a.leave()).await.unwrap();

    // What it has lost sight of goes back, after a moment.
    b.renew(&[]).await.unwrap();
    let mut number = FIRST;
    claim(&*b, &mut number, 600).await;
    for _ in 0..400 {
        bounded(&redis, "strays", b.renew(&[])).await.unwrap();
        if b.counts().await.unwrap().active == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("strays do not go back");
}

async fn a_large_payload_passes_no_script(layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "a");
    broker.renew(&[]).await.unwrap();
    let text = "x".repeat(5 * 1024 * 1024);
    let payload = raw(&format!("\"{text}\""));
    let job = NewJob {
        id: "1",
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
    assert!(!broker.enqueue(&job).await.unwrap(), "its id is known");
    for (kind, found) in [
        (None, 1),
        (Some("generate-flashcards"), 1),
        (Some("process-image"), 0),
    ] {
        let query = Query {
            state: State::Waiting,
            kind,
            since: None,
            after: None,
            limit: 50,
        };
        let page = broker.list(&query).await.unwrap();
        assert_eq!(page.jobs.len(), found, "{kind:?}");
        assert!(
            page.jobs
                .iter()
                .all(|job| job.kind.as_deref() == Some("generate-flashcards"))
        );
    }
    let claimed = broker.claim(FIRST, 10).await.unwrap();
    let body = claimed[0].payload.as_ref().unwrap();
    let whole = match layout {
        Layout::Apalis => format!(r#"{{"type":"generate-flashcards","data":"{text}"}}"#),
        Layout::Bullmq => format!("\"{text}\""),
    };
    assert!(*body == whole.as_bytes(), "the payload is whole");
    // The interpreter's memory tells: a script that had the payload in its hands would have left it there.
    let info: String = redis.ask(&["INFO", "memory"]).await;
    let lua = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory_vm_eval:"));
    let lua: usize = lua.expect("Redis 7 or later").trim().parse().unwrap();
    assert!(lua < text.len(), "{lua} bytes");
    let ttl: i64 = match layout {
        Layout::Apalis => -1,
        Layout::Bullmq => redis.ask(&["PTTL", "bull:q:1"]).await,
    };
    assert_eq!(ttl, -1, "the job does not run out");
}

async fn a_claim_with_large_payloads_may_be_sent_again(layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "a");
    broker.renew(&[]).await.unwrap();
    for n in 0..8 {
        let id = n.to_string();
        let payload = raw(&format!("\"{}\"", id.repeat(1024 * 1024)));
        let job = NewJob {
            id: &id,
            kind: JobType::GenerateFlashcards,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
    }
    let claimed = broker.claim(FIRST, 32).await.unwrap();
    assert_eq!(claimed.len(), 4, "no more than some megabytes at a time");
    let mut again = broker.claim(FIRST, 32).await.unwrap();
    again.sort_by(|a, b| a.lease.id.cmp(&b.lease.id));
    for (first, second) in claimed.iter().zip(&again) {
        assert_eq!(first.lease, second.lease);
        assert!(
            first.payload.is_some() && first.payload == second.payload,
            "its payload"
        );
    }
    assert_eq!(again.len(), 4);
}

async fn a_job_is_taken_out_of_a_long_line_without_a_walk(layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "a");
    lengthen(&redis, layout, 0..50_000).await;
    enqueue(&*broker, "wanted").await;
    lengthen(&redis, layout, 50_000..100_000).await;
    let walks = calls(&redis, "lrem").await;
    assert_eq!(broker.remove("wanted").await.unwrap(), Removal::Done);
    assert_eq!(calls(&redis, "lrem").await, walks, "nothing walks along the line");
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

    // Near an end its place is not looked for, and nobody changes theirs.
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
    let scripts = async || commands(&redis).await.1;

    let (done, held) = held.split_at(30);
    let before = scripts().await;
    let settled = join_all(done.iter().map(|lease| a.complete(lease, "1"))).await;
    assert!(
        settled.iter().all(|one| matches!(one, Ok(Settled::Applied))),
        "{settled:?}"
    );
    let took = scripts().await - before;
    assert!(took >= 30.0, "{took} scripts, although they end together");

    let before = scripts().await;
    assert_eq!(a.release(&held[..30]).await.unwrap(), 30);
    let took = scripts().await - before;
    assert!(took >= 30.0, "{took} scripts, each may be anywhere among 30,000");
    let line: Vec<String> = redis.ask(&["LRANGE", "bull:q:wait", "0", "-1"]).await;
    let expected = held[..30].iter().rev().map(|lease| &*lease.id);
    assert!(
        line.iter().map(String::as_str).eq(expected),
        "next in line, in their old order"
    );

    let before = scripts().await;
    a.leave().await.unwrap();
    let took = scripts().await - before;
    assert!(took >= 15_000.0 / 32.0 + 10.0, "{took} scripts");
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

/// What a producer of BullMQ v6 has added during a pause is moved in chunks.
#[tokio::test]
async fn a_resume_moves_a_long_line_in_chunks() {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "a");
    let fill = async |list: &str, from: u32| {
        let script = redis::Script::new("for i = 0, 2499 do redis.call('LPUSH', KEYS[1], ARGV[1] + i) end");
        let mut call = script.prepare_invoke();
        call.key(format!("bull:q:{list}")).arg(from);
        call.invoke_async::<()>(&mut redis.raw.clone()).await.unwrap();
    };
    fill("wait", 0).await;
    broker.set_paused(true).await.unwrap();
    fill("wait", 2500).await;
    bounded(&redis, "resume", async {
        broker.set_paused(false).await.unwrap()
    })
    .await;
    let line: Vec<u32> = redis.ask(&["LRANGE", "bull:q:wait", "0", "-1"]).await;
    assert!(line.iter().rev().copied().eq(0..5000), "in their order");
    assert_eq!(redis.ask::<u32>(&["EXISTS", "bull:q:paused"]).await, 0);
    // A pause that finds both lists.
    broker.set_paused(true).await.unwrap();
    fill("wait", 5000).await;
    bounded(&redis, "pause", async { broker.set_paused(true).await.unwrap() }).await;
    let line: Vec<u32> = redis.ask(&["LRANGE", "bull:q:paused", "0", "-1"]).await;
    assert!(line.iter().rev().copied().eq(0..7500), "in their order");
}

/// Ids that are in the line again although their jobs are done are dropped by the hundred.
#[tokio::test]
async fn doubles_are_dropped_in_chunks() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "a");
    broker.renew(&[]).await.unwrap();
    let script = redis::Script::new(
        "for i = 1, 5000 do redis.call('HSET', 'q:meta:' .. i, 'status', 'Done') redis.call('RPUSH', 'q:active', i) end",
    );
    script
        .prepare_invoke()
        .invoke_async::<()>(&mut redis.raw.clone())
        .await
        .unwrap();
    enqueue(&*broker, "last").await;
    let mut number = FIRST;
    let claimed = bounded(&redis, "claim", claim(&*broker, &mut number, 1)).await;
    assert_eq!(&*claimed[0].id, "last");
}
