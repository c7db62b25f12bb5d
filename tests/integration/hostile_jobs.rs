//! Jobs as nobody should write them, put into real queues with raw commands: hashes, metas, payloads and logs made out
//! of the fuzz targets' seeds, the same ones each time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use backend_worker::queue::{Broker, ClaimNumber, Later, Layout, Note, Query, RetryOrder, Settled, State};
use nix::sys::signal::Signal;

use crate::support::{PATIENCE, Scene, TestRedis, both_layouts, eventually};

/// Bad jobs of a test, in each layout.
const BAD: usize = 300;

/// A job as it stands in Redis: its fields, its payload (apart from them in the apalis layout), its history.
struct Raw {
    id: String,
    fields: HashMap<Vec<u8>, Vec<u8>>,
    payload: Vec<u8>,
    history: Vec<Vec<u8>>,
}

/// Parts of a seed that would make the worker wait for the internet.
fn seeds(target: &str, prefix: &str) -> Vec<Vec<u8>> {
    let seeds = hostile::seeds(target)
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix));
    let seeds: Vec<_> = seeds
        .map(|(_, seed)| match String::from_utf8(seed) {
            Ok(text) => text.replace("example.com", "127.0.0.1").into_bytes(),
            Err(error) => error.into_bytes(),
        })
        .collect();
    assert!(!seeds.is_empty());
    seeds
}

fn bad_jobs(layout: Layout) -> Vec<Raw> {
    let (hashes, payloads) = match layout {
        Layout::Bullmq => (seeds("bullmq_job", ""), seeds("delivery", "named_")),
        Layout::Apalis => (seeds("apalis_meta", ""), seeds("delivery", "task_")),
    };
    // Each seed as it is for each way to end a job, then what is made out of them.
    let as_they_are = hashes
        .iter()
        .flat_map(|hash| std::iter::repeat_n(hash.clone(), 4));
    let hashes = as_they_are.chain(hostile::inputs(hashes.clone(), BAD));
    let jobs = hashes.zip(hostile::inputs(payloads, BAD)).enumerate();
    let jobs = jobs.map(|(nth, (hash, payload))| {
        let mut lines = hash.split(|byte| *byte == b'\n');
        let fields = lines.by_ref().take_while(|line| !line.is_empty()).map(|line| {
            let at = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
            (
                line[..at].to_vec(),
                line.get(at + 1..).unwrap_or_default().to_vec(),
            )
        });
        let mut fields: HashMap<_, _> = fields.collect();
        let mut payload = payload;
        if layout == Layout::Bullmq
            && nth % 2 == 0
            && let Some(rest) = payload.strip_prefix(b"type:")
            && let Some(at) = rest.iter().position(|byte| *byte == b'\n')
        {
            fields.insert(b"name".to_vec(), rest[..at].to_vec());
            payload = rest[at + 1..].to_vec();
            fields.insert(b"data".to_vec(), payload.clone());
        }
        // What says whose the job is would be another test's.
        for own in ["id", "due"] {
            fields.remove(own.as_bytes());
        }
        let history = lines.map(<[u8]>::to_vec).collect();
        Raw {
            id: format!("bad-{nth}"),
            fields,
            payload,
            history,
        }
    });
    jobs.collect()
}

async fn put(redis: &TestRedis, layout: Layout, job: &Raw) {
    let (hash, log, line) = match layout {
        Layout::Bullmq => (
            format!("bull:q:{}", job.id),
            format!("bull:q:{}:logs", job.id),
            "bull:q:wait",
        ),
        Layout::Apalis => (
            format!("q:meta:{}", job.id),
            format!("q:history:{}", job.id),
            "q:active",
        ),
    };
    let mut pipeline = redis::pipe();
    for (field, value) in &job.fields {
        pipeline.hset(&hash, field, value).ignore();
    }
    for row in &job.history {
        pipeline.rpush(&log, row).ignore();
    }
    match layout {
        Layout::Bullmq => pipeline.lpush(line, &job.id).ignore(),
        Layout::Apalis => pipeline
            .hset("q:data", &job.id, &job.payload)
            .rpush(line, &job.id)
            .ignore(),
    };
    pipeline.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
}

/// Entries of the queue's events.
type Events = Vec<(String, HashMap<Vec<u8>, Vec<u8>>)>;

/// Which jobs have ended, and how.
fn ended(events: Events) -> HashSet<(String, String)> {
    let text = |fields: &HashMap<Vec<u8>, Vec<u8>>, name: &str| {
        String::from_utf8_lossy(fields.get(name.as_bytes()).map_or(b"", Vec::as_slice)).into_owned()
    };
    let all = events
        .iter()
        .map(|(_, fields)| (text(fields, "jobId"), text(fields, "event")));
    all.filter(|(_, event)| matches!(event.as_str(), "completed" | "failed"))
        .collect()
}

both_layouts!(every_operation_takes_any_job numbers_that_are_none_stop_no_queue);

/// No script trips over a job, whatever stands in it: it can be claimed, put off, ended, shown, retried and removed.
async fn every_operation_takes_any_job(layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    broker.renew(&[]).await.unwrap();
    let note = Note {
        attempt: 1,
        r#try: 1,
        class: "transient".to_owned(),
        cause: "stumbled".to_owned(),
        delay_ms: None,
        replica: "w".to_owned(),
    };
    let (mut number, mut claimed) = (ClaimNumber::FIRST, 0);
    for (nth, job) in bad_jobs(layout).iter().enumerate() {
        let id = &job.id;
        let context = || format!("{id}: {:?}", job.fields);
        put(&redis, layout, job).await;
        let jobs = broker
            .claim(number, 2)
            .await
            .unwrap_or_else(|e| panic!("claim: {e}: {}", context()));
        number = number.next();
        broker
            .find(id)
            .await
            .unwrap_or_else(|e| panic!("find: {e}: {}", context()));
        let Some(delivery) = jobs.into_iter().next() else {
            // Nobody could run it: it was dropped, or refused.
            continue;
        };
        claimed += 1;
        let lease = delivery.lease;
        assert_eq!(&*lease.id, id);
        assert!(
            delivery.attempt >= 1 && delivery.max_attempts >= 1,
            "{}",
            context()
        );
        assert!(
            broker
                .renew(std::slice::from_ref(&lease))
                .await
                .unwrap()
                .is_empty(),
            "{}",
            context()
        );
        let told = broker.progress(&lease, 15, Some(&note)).await;
        assert_eq!(
            told.unwrap_or_else(|e| panic!("progress: {e}: {}", context())),
            Settled::Applied
        );
        let later = Later {
            delay: Duration::ZERO,
            counts: nth % 2 == 0,
            reason: "later",
            gate: (nth % 3 == 0).then_some("openai"),
            note: Some(&note),
        };
        let settled = match nth % 4 {
            0 => broker.complete(&lease, "{}").await,
            1 => broker.retry_at(&lease, later).await,
            _ => broker.fail(&lease, "it failed", Some(&note)).await,
        };
        assert_eq!(
            settled.unwrap_or_else(|e| panic!("end: {e}: {}", context())),
            Settled::Applied
        );
        // The events are what Node waits for.
        if layout == Layout::Bullmq && nth % 4 != 1 {
            let last: Events = redis
                .ask(&["XREVRANGE", "bull:q:events", "+", "-", "COUNT", "4"])
                .await;
            let event = if nth % 4 == 0 { "completed" } else { "failed" };
            assert!(
                ended(last).contains(&(id.clone(), event.to_owned())),
                "no event: {}",
                context()
            );
        }
        broker
            .find(id)
            .await
            .unwrap_or_else(|e| panic!("find: {e}: {}", context()));
        let order = RetryOrder {
            id: "o",
            by: "me",
            reset_attempts: nth % 2 == 0,
        };
        broker
            .retry(&[id.as_str()], &order)
            .await
            .unwrap_or_else(|e| panic!("retry: {e}: {}", context()));
        for state in State::ALL {
            let query = Query {
                state,
                kind: None,
                since: None,
                after: None,
                limit: 10,
            };
            broker
                .list(&query)
                .await
                .unwrap_or_else(|e| panic!("list: {e}: {}", context()));
        }
        broker.counts().await.unwrap();
        broker
            .oldest_waiting()
            .await
            .unwrap_or_else(|e| panic!("oldest: {e}: {}", context()));
        broker
            .remove(id)
            .await
            .unwrap_or_else(|e| panic!("remove: {e}: {}", context()));
    }
    assert!(claimed > BAD / 2, "{claimed} of {BAD} were run");
}

/// Numbers of the queue itself that somebody has overwritten with text count as none.
async fn numbers_that_are_none_stop_no_queue(layout: Layout) {
    let redis = TestRedis::start().await;
    let broker = redis.broker(layout, "q", "w");
    broker.renew(&[]).await.unwrap();
    if layout == Layout::Apalis {
        // There a job's own numbers are all that counts: one that is none must not keep the others from coming back.
        for id in ["1", "2"] {
            crate::support::enqueue(&*broker, id).await;
        }
        assert_eq!(broker.claim(ClaimNumber::FIRST, 2).await.unwrap().len(), 2);
        for (id, locked_at) in [("1", "text"), ("2", "1e999")] {
            redis
                .ask::<()>(&["HSET", &format!("q:meta:{id}"), "locked_at", locked_at])
                .await;
        }
        broker.renew(&[]).await.unwrap();
        return assert_eq!(broker.counts().await.unwrap().waiting, 2);
    }
    redis
        .ask::<()>(&["HSET", "bull:q:meta", "max", "5", "duration", "60000"])
        .await;
    for (nth, text) in ["text", "", "1e3", "9223372036854775807"].iter().enumerate() {
        redis.ask::<()>(&["SET", "bull:q:limiter", text]).await;
        redis.ask::<()>(&["SET", "bull:q:pc", text]).await;
        let id = nth.to_string();
        redis
            .ask::<()>(&[
                "HSET",
                &format!("bull:q:{id}"),
                "name",
                "x",
                "data",
                "1",
                "priority",
                "3",
            ])
            .await;
        redis.ask::<()>(&["ZADD", "bull:q:delayed", "1", &id]).await;
        let number = (0..nth).fold(ClaimNumber::FIRST, |number, _| number.next());
        let lease = broker.claim(number, 1).await.unwrap().remove(0).lease;
        let limiter: String = redis.ask(&["GET", "bull:q:limiter"]).await;
        assert_eq!(limiter, "1", "{text:?}: counted anew");
        assert_eq!(broker.complete(&lease, "1").await.unwrap(), Settled::Applied);
    }
    assert_eq!(broker.counts().await.unwrap().completed, 4);
}

/// A job of which an onlooker can read something, although bytes in it are no text.
#[tokio::test]
async fn a_meta_that_is_not_text_is_shown_all_the_same() {
    let redis = TestRedis::start().await;
    let broker = redis.apalis("q", "w");
    let mut pipeline = redis::pipe();
    pipeline.hset("q:data", "1", "{}").ignore();
    for (field, value) in [
        ("status", "Failed".as_bytes()),
        ("error", b"bad \xff byte"),
        ("attempts", b"2"),
    ] {
        pipeline.hset("q:meta:1", field, value).ignore();
    }
    pipeline.hset("q:meta:1", b"\xfe", b"\xff").ignore();
    let note = r#"{"attempt":2,"try":1,"class":"permanent","cause":"x","replica":"w"}"#;
    pipeline
        .rpush(
            "q:history:1",
            [b"\xff".as_slice(), format!("7 {note}").as_bytes()].as_slice(),
        )
        .ignore();
    pipeline.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    let job = broker.find("1").await.unwrap().unwrap();
    assert_eq!((job.state, job.attempts_made), (State::Failed, 2));
    assert_eq!(job.error.as_deref(), Some("bad \u{fffd} byte"));
    assert_eq!(job.history.len(), 1);
}

/// A replica as a process is fed bad jobs of both layouts between good ones: the good ones are completed, each bad one
/// ends or can be seen, and the process lives.
#[tokio::test]
async fn good_jobs_between_bad_ones_are_completed() {
    let scene = Scene::set(Duration::ZERO).await;
    let good = r#"{"content":"Cells.","subject":"Biology","topic":"Cells","userId":"u"}"#;
    let mut bad = Vec::new();
    let mut wanted = 0;
    for layout in Layout::ALL {
        for (nth, job) in bad_jobs(layout).into_iter().enumerate() {
            put(&scene.redis, layout, &job).await;
            bad.push((layout, job));
            if nth % 10 == 0 {
                let name = b"generate-flashcards".to_vec();
                let fields = match layout {
                    Layout::Bullmq => vec![(b"name".to_vec(), name), (b"data".to_vec(), good.into())],
                    Layout::Apalis => vec![(b"attempts".to_vec(), b"0".to_vec())],
                };
                let payload = format!(r#"{{"type":"generate-flashcards","data":{good}}}"#).into_bytes();
                let (id, fields) = (format!("good-{nth}"), fields.into_iter().collect());
                put(
                    &scene.redis,
                    layout,
                    &Raw {
                        id,
                        fields,
                        payload,
                        history: Vec::new(),
                    },
                )
                .await;
                wanted += 1;
            }
        }
    }
    let worker = scene.worker(&[("QUEUES", "bullmq:q,apalis:q")]).await;
    let brokers = Layout::ALL.map(|layout| (layout, scene.redis.broker(layout, "q", "onlooker")));
    let broker = |layout: Layout| -> &dyn Broker { &*brokers.iter().find(|(l, _)| *l == layout).unwrap().1 };

    eventually("nothing waits any more", async || {
        for (_, broker) in &brokers {
            let counts = broker.counts().await.unwrap();
            if counts.waiting + counts.active > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    let mut completed = 0;
    for (layout, broker) in &brokers {
        for nth in (0..BAD).step_by(10) {
            let job = broker.find(&format!("good-{nth}")).await.unwrap();
            let job = job.unwrap_or_else(|| panic!("{layout}: good-{nth} is gone"));
            assert_eq!(
                job.state,
                State::Completed,
                "{layout}: good-{nth}: {:?}",
                job.error
            );
            completed += 1;
        }
    }
    assert_eq!(completed, wanted);

    let events = ended(scene.redis.ask(&["XRANGE", "bull:q:events", "-", "+"]).await);
    let log = worker.log().join("\n");
    for (layout, job) in &bad {
        match broker(*layout).find(&job.id).await.unwrap() {
            Some(view) => {
                let told =
                    matches!(view.state, State::Completed) || view.error.is_some_and(|why| !why.is_empty());
                assert!(
                    told,
                    "{layout}: {} is {} without a reason: {:?}",
                    job.id, view.state, job.fields
                );
            }
            // Its producer wants nothing kept of it, or there was no job.
            None => assert!(
                events.iter().any(|(id, _)| *id == job.id) || log.contains(&format!("\"{}\"", job.id)),
                "{layout}: {} is gone without a word: {:?}",
                job.id,
                job.fields
            ),
        }
    }
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(worker.health().await.unwrap().0, 200);
    worker.signal(Signal::SIGTERM);
    let (code, _) = tokio::time::timeout(PATIENCE, worker.ended()).await.unwrap();
    assert_eq!(code, Some(0));
}
