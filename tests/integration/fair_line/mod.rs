//! The fair line: the order in which waiting jobs are handed out to their owners, and the state that readers see.

mod cap;
mod everything;
mod priorities;
mod scenario;
mod told;
mod view;

use std::{collections::HashSet, time::Duration};

use backend_worker::queue::{Broker, ClaimNumber, Delivery, JobState, Layout, NewJob};
use jobs::JobType;
use rstest::rstest;

use crate::support::{TestRedis, raw, view};

/// Adds a job with this payload.
async fn add_raw(broker: &dyn Broker, id: &str, payload: &str) {
    let payload = raw(payload);
    let job = NewJob {
        id,
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap(), "{id} was there before");
}

/// Adds jobs of a student, named after him.
async fn add(broker: &dyn Broker, student: &str, count: usize) {
    for n in 0..count {
        let payload =
            format!(r#"{{"content":"photosynthesis","topic":"{{\"userId\":\"x\"}}","userId":"{student}"}}"#);
        add_raw(broker, &format!("{student}-{n}"), &payload).await;
    }
}

/// Claims as one replica does, with a number of its own each time.
struct Claims<'a>(&'a dyn Broker, ClaimNumber);

impl<'a> Claims<'a> {
    async fn of(broker: &'a dyn Broker) -> Self {
        broker.renew(&[]).await.unwrap();
        Self(broker, ClaimNumber::FIRST)
    }

    async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let claimed = self.0.claim(self.1, count).await.unwrap();
        self.1 = self.1.next();
        claimed
    }

    async fn ids(&mut self, count: usize) -> Vec<String> {
        let claimed = self.take(count).await;
        claimed
            .iter()
            .map(|delivery| delivery.lease.id.to_string())
            .collect()
    }

    /// Everything that waits.
    async fn rest(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let some = self.ids(32).await;
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }
}

/// Keys of the queue that hold whose turn it is.
async fn fair_keys(redis: &TestRedis) -> Vec<String> {
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    keys.into_iter().filter(|key| key.contains("fair")).collect()
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_burst_of_one_student_does_not_delay_the_others(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "heavy", 60).await;
    for student in ["ann", "bob"] {
        add(&*broker, student, 2).await;
    }
    let mut claims = Claims::of(&*broker).await;
    assert_eq!(claims.ids(4).await, ["heavy-0", "ann-0", "bob-0", "heavy-1"]);
    assert_eq!(claims.ids(3).await, ["ann-1", "bob-1", "heavy-2"]);
    // The view of the others stays right: what waits, waits.
    assert_eq!(view(&*broker, "heavy-3").await.state, JobState::Waiting);
    let counts = broker.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active), (57, 7));
    // Who comes later waits for one round.
    add(&*broker, "cyd", 1).await;
    let next = claims.ids(2).await;
    assert!(next.contains(&"cyd-0".to_owned()), "{next:?}");
    let rest = claims.rest().await;
    let expected: Vec<_> = (0..56).map(|n| format!("heavy-{}", n + 4)).collect();
    assert_eq!(rest, expected);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_job_that_could_not_start_keeps_its_place(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "heavy", 40).await;
    add(&*broker, "ann", 3).await;
    let mut claims = Claims::of(&*broker).await;
    let first = claims.take(6).await;
    let leases: Vec<_> = first.iter().map(|delivery| delivery.lease.clone()).collect();
    assert_eq!(broker.release(&leases).await.unwrap(), 6);
    let again: HashSet<_> = claims.ids(6).await.into_iter().collect();
    let before: HashSet<_> = leases.iter().map(|lease| lease.id.to_string()).collect();
    assert_eq!(again, before);
    let mut all = claims.rest().await;
    all.extend(again);
    assert_eq!(all.len(), 43);
}

/// What a producer writes is not checked: absent, a number, a list, and one of 3 MB.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn any_owner_name_is_safe(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "heavy", 40).await;
    let long = "x".repeat(3_000_000);
    let names = [
        "17".to_owned(),
        "null".to_owned(),
        r#"{"userId":"heavy"}"#.to_owned(),
        r#"["heavy"]"#.to_owned(),
        r#""""#.to_owned(),
        r#""a\"b""#.to_owned(),
        format!("\"{long}\""),
        "true".to_owned(),
    ];
    for (n, name) in names.iter().enumerate() {
        add_raw(
            &*broker,
            &format!("odd-{n}"),
            &format!(r#"{{"n":[1],"userId":{name}}}"#),
        )
        .await;
    }
    add_raw(&*broker, "none", r#"{"other":1}"#).await;
    let mut claims = Claims::of(&*broker).await;
    let first = claims.ids(12).await;
    assert!(
        first.iter().filter(|id| id.starts_with("heavy")).count() <= 6,
        "{first:?}"
    );
    for key in fair_keys(&redis).await {
        assert!(key.len() < 200, "{} bytes of a key", key.len());
    }
    let all: HashSet<_> = first.into_iter().chain(claims.rest().await).collect();
    assert_eq!(all.len(), 49);
    assert_eq!(fair_keys(&redis).await, Vec::<String>::new());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn nothing_is_left_behind_when_the_line_is_empty(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    for n in 0..700 {
        add(&*broker, &format!("s{n}"), 1).await;
    }
    let mut claims = Claims::of(&*broker).await;
    claims.ids(5).await;
    assert!(!fair_keys(&redis).await.is_empty());
    assert_eq!(claims.rest().await.len(), 695);
    assert_eq!(fair_keys(&redis).await, Vec::<String>::new());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_job_that_was_removed_is_passed_over(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "heavy", 100).await;
    add(&*broker, "ann", 10).await;
    let mut claims = Claims::of(&*broker).await;
    assert_eq!(claims.ids(2).await, ["heavy-0", "ann-0"]);
    for id in ["heavy-1", "heavy-50", "ann-1", "heavy-99"] {
        broker.remove(id).await.unwrap();
    }
    let rest = claims.rest().await;
    assert_eq!(rest.len(), 104, "{rest:?}");
    assert_eq!(rest.iter().collect::<HashSet<_>>().len(), 104);
    assert_eq!(rest[0], "heavy-2");
    assert_eq!(rest[1], "ann-2");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn removed_jobs_cost_their_owner_no_turn(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add(&*broker, "heavy", 100).await;
    add(&*broker, "ann", 60).await;
    let mut claims = Claims::of(&*broker).await;
    assert_eq!(claims.ids(2).await, ["heavy-0", "ann-0"]);
    for n in 1..41 {
        broker.remove(&format!("ann-{n}")).await.unwrap();
    }
    let mut next = claims.ids(10).await;
    next.extend(claims.ids(10).await);
    let of_ann = next.iter().filter(|id| id.starts_with("ann")).count();
    assert!((9..=11).contains(&of_ann), "{next:?}");
    next.extend(claims.rest().await);
    assert_eq!(next.iter().collect::<HashSet<_>>().len(), 118);
}

/// Adds jobs of one student, as a producer does, in tens of thousands.
async fn add_many(redis: &TestRedis, layout: Layout, tens_of_thousands: usize) {
    let script = match layout {
        Layout::Bullmq => {
            "for i = 1, ARGV[1] do local id = ARGV[2] .. i
             redis.call('HSET', 'bull:q:' .. id, 'name', 'generate-flashcards', 'opts', '{}', 'timestamp', 1, 'data',
               '{\"userId\":\"heavy\"}')
             redis.call('LPUSH', 'bull:q:wait', id) end"
        }
        Layout::Apalis => {
            "for i = 1, ARGV[1] do local id = ARGV[2] .. i
             redis.call('HSET', 'q:meta:' .. id, 'status', 'Pending', 'attempts', 0)
             redis.call('HSET', 'q:data', id, '{\"type\":\"generate-flashcards\",\"data\":{\"userId\":\"heavy\"}}')
             redis.call('RPUSH', 'q:active', id) end"
        }
    };
    for chunk in 0..tens_of_thousands {
        let prefix = format!("heavy{chunk}-");
        redis.ask::<()>(&["EVAL", script, "0", "10000", &prefix]).await;
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn one_in_a_hundred_thousand_starts_among_the_first(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add_many(&redis, layout, 10).await;
    add(&*broker, "ann", 1).await;
    let mut claims = Claims::of(&*broker).await;
    let first = claims.ids(20).await;
    assert_eq!(first.len(), 20);
    assert!(first.contains(&"ann-0".to_owned()), "{first:?}");
    let counts = broker.counts().await.unwrap();
    assert_eq!(counts.waiting, 99_981);
}

/// Half of the slots are filled before the jobs have their places, which takes seconds.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_very_long_line_starts_at_once(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    add_many(&redis, layout, 25).await;
    add(&*broker, "ann", 1).await;
    let mut claims = Claims::of(&*broker).await;
    let first = claims.ids(20).await;
    assert_eq!(first.len(), 10, "{first:?}");
    let second = claims.ids(10).await;
    assert_eq!(second.len(), 10);
    assert!(second.contains(&"ann-0".to_owned()), "{second:?}");
}

/// Calls of a command so far.
async fn calls(redis: &TestRedis, command: &str) -> u64 {
    let info: String = redis.ask(&["INFO", "commandstats"]).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

/// Jobs with payloads of 200 KB, at the back of the line and at its front: a script reads six of them, and no more.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn no_script_reads_many_large_payloads(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let (list, front) = match layout {
        Layout::Apalis => ("q:active", "LPUSH"),
        Layout::Bullmq => ("bull:q:wait", "RPUSH"),
    };
    add(&*broker, "heavy", 60).await;
    let mut claims = Claims::of(&*broker).await;
    claims.ids(2).await;
    let large = "x".repeat(200_000);
    let mut moved = vec![front.to_owned(), list.to_owned()];
    for n in 0..100 {
        let id = format!("large-{n}");
        add_raw(
            &*broker,
            &id,
            &format!(r#"{{"content":"{large}","userId":"ann"}}"#),
        )
        .await;
        redis.ask::<()>(&["LREM", list, "0", &id]).await;
        moved.push(id);
    }
    let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
    redis.ask::<()>(&moved).await;
    let before = (calls(&redis, "hget").await, redis.scripts().await);
    assert_eq!(claims.ids(1).await.len(), 1);
    let (read, scripts) = (
        calls(&redis, "hget").await - before.0,
        redis.scripts().await - before.1,
    );
    assert!(scripts >= 15, "{scripts} scripts");
    assert!(read <= 8 * scripts, "{read} reads in {scripts} scripts");
    assert_eq!(claims.rest().await.len(), 157);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn two_replicas_share_the_turns(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let (a, b) = (redis.broker(layout, "q", "a"), redis.broker(layout, "q", "b"));
    add(&*a, "heavy", 50).await;
    for student in ["ann", "bob", "cyd"] {
        add(&*a, student, 5).await;
    }
    let (mut first, mut second) = (Claims::of(&*a).await, Claims::of(&*b).await);
    let mut started = Vec::new();
    for _ in 0..5 {
        started.extend(first.ids(2).await);
        started.extend(second.ids(2).await);
    }
    for student in ["heavy", "ann", "bob", "cyd"] {
        let count = started.iter().filter(|id| id.starts_with(student)).count();
        assert_eq!(count, 5, "{student} in {started:?}");
    }
}

/// A producer that pushes an id twice puts a second copy into the list. The line starts over, and hands out every job.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn an_id_that_stands_twice_loses_no_job(#[case] layout: Layout) {
    let list = match layout {
        Layout::Apalis => "q:active",
        Layout::Bullmq => "bull:q:wait",
    };
    // The next job to be claimed is at the end of BullMQ's list, and at the beginning of apalis's.
    let (front, back) = match layout {
        Layout::Apalis => ("LPUSH", "RPUSH"),
        Layout::Bullmq => ("RPUSH", "LPUSH"),
    };
    for (id, pushes) in [
        ("heavy-0", &[front][..]),
        ("heavy-0", &[front, back]),
        ("heavy-1", &[back]),
        ("ann-1", &[front, front, back]),
    ] {
        let redis = TestRedis::start().await;
        let broker = redis.broker(layout, "q", "w");
        add(&*broker, "heavy", 30).await;
        add(&*broker, "ann", 5).await;
        let mut claims = Claims::of(&*broker).await;
        for push in pushes {
            redis.ask::<()>(&[push, list, id]).await;
        }
        let mut seen: HashSet<String> = claims.ids(3).await.into_iter().collect();
        for push in pushes {
            redis.ask::<()>(&[push, list, id]).await;
        }
        seen.extend(claims.ids(7).await);
        seen.extend(claims.rest().await);
        assert_eq!(seen.len(), 35, "{id} {pushes:?}");
    }
}

/// A claim of a few arranges the next jobs of the round. What happens to these until they are claimed changes no
/// turn, and loses no job: one is removed, others claim and release, a job comes in front, another student joins.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn claims_of_a_few_find_the_next_jobs_of_the_round_at_the_front(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    let students: Vec<String> = (b'a'..=b'j').map(|c| format!("s{}", char::from(c))).collect();
    for student in &students {
        add(&*broker, student, 4).await;
    }
    let mut claims = Claims::of(&*broker).await;
    let first = claims.ids(2).await;
    assert_eq!(first, ["sa-0", "sb-0"]);
    let before = calls(&redis, "zrange").await;
    assert_eq!(claims.ids(1).await, ["sc-0"]);
    assert_eq!(calls(&redis, "zrange").await, before, "the turns are not read");
    // One of those that are ready leaves, another is claimed and could not start, a student joins.
    assert!(broker.remove("sd-0").await.is_ok());
    let held = claims.take(1).await;
    assert_eq!(&*held[0].lease.id, "se-0");
    add(&*broker, "late", 3).await;
    assert_eq!(broker.release(&[held[0].lease.clone()]).await.unwrap(), 1);
    let told = broker.line_position("sf-0").await.unwrap().ahead;
    let next = claims.ids(7).await;
    assert_eq!(next[..6], ["se-0", "sf-0", "sg-0", "sh-0", "si-0", "sj-0"]);
    assert_eq!(told, Some(1));
    let (list, front) = match layout {
        Layout::Apalis => ("q:active", "LPUSH"),
        Layout::Bullmq => ("bull:q:wait", "RPUSH"),
    };
    // The round of the one who has joined has not come to an end.
    let mut round = vec![next[6].clone()];
    round.extend(claims.ids(2).await);
    redis.ask::<()>(&["LREM", list, "0", "sj-3"]).await;
    redis.ask::<()>(&[front, list, "sj-3"]).await;
    let mut rest = Vec::new();
    loop {
        let some = claims.ids(3).await;
        if some.is_empty() {
            break;
        }
        rest.extend(some);
    }
    round.extend(rest.iter().take(9).cloned());
    assert!(round.contains(&"late-0".to_owned()), "{round:?}");
    let mut all: HashSet<String> = first.into_iter().chain(next).chain(round).chain(rest).collect();
    all.insert("sc-0".to_owned());
    assert_eq!(all.len(), 42, "all but the one that was removed");
    assert_eq!(fair_keys(&redis).await, Vec::<String>::new());
}
