//! The cases, over one queue of one layout.

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{
    Broker, ClaimNumber, Delivery, JobState, Layout, Lease, ListQuery, NewJob, RetryOrder,
};
use jobs::JobType;
use serde_json::value::RawValue;
use ulid::Ulid;

use crate::{
    Result,
    report::Report,
    stage::{Cost, Stage, Trips},
};

/// Enqueueing side by side.
const PRODUCERS: usize = 64;
const ROUNDS: usize = 500;
/// Slots of the replicas in flight.
pub(crate) const SLOTS: usize = 2_500;
pub(crate) const REPLICAS: usize = 4;
/// Longer than a case takes: who is dead is said by hand.
const LEASE: Duration = Duration::from_secs(120);
const MEGABYTE: usize = 1024 * 1024;

/// A queue, and a replica that works on it.
pub(crate) struct Queue {
    pub(crate) layout: Layout,
    pub(crate) broker: Arc<dyn Broker>,
    number: ClaimNumber,
}

pub(crate) fn payload(bytes: usize) -> Result<Box<RawValue>> {
    let content = "A cell is the unit of life. ".repeat(bytes / 28 + 1);
    Ok(serde_json::value::to_raw_value(&serde_json::json!({
        "content": content[..bytes], "subject": "Biology", "topic": "Cells", "userId": "u1",
    }))?)
}

async fn add(broker: &dyn Broker, id: &str, payload: &RawValue, delay: Duration) -> Result {
    let job = NewJob {
        id,
        kind: JobType::GenerateFlashcards,
        payload,
        max_attempts: 3,
        delay,
    };
    if broker.enqueue(&job).await? {
        Ok(())
    } else {
        Err("a known id".into())
    }
}

impl Queue {
    pub(crate) async fn new(stage: &Stage, layout: Layout) -> Result<Self> {
        let queue = Self {
            layout,
            broker: stage.broker(layout, "bench", Duration::from_secs(3600))?,
            number: ClaimNumber::FIRST,
        };
        queue.broker.renew(&[]).await?;
        Ok(queue)
    }

    /// Enqueues jobs as the CLI does, many side by side; `due` is when they may run, at the same time all of them.
    pub(crate) async fn fill(&self, count: usize, due: Option<tokio::time::Instant>) -> Result {
        let payload: Arc<RawValue> = payload(300)?.into();
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let (broker, payload) = (self.broker.clone(), payload.clone());
                let share = count / PRODUCERS + usize::from(producer < count % PRODUCERS);
                tokio::spawn(async move {
                    for _ in 0..share {
                        let delay = due.map_or(Duration::ZERO, |due| {
                            due.duration_since(tokio::time::Instant::now())
                        });
                        let added = add(&*broker, &Ulid::generate().to_string(), &payload, delay).await;
                        added.map_err(|error| error.to_string())?;
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        for producer in producers {
            producer.await??;
        }
        Ok(())
    }

    async fn claim(&mut self, count: usize) -> Result<Vec<Delivery>> {
        let claimed = self.broker.claim(self.number, count).await?;
        self.number = self.number.next();
        Ok(claimed)
    }

    async fn claim_one(&mut self) -> Result<Lease> {
        Ok(self.claim(1).await?.pop().ok_or("nothing to claim")?.lease)
    }

    async fn waiting(&self) -> Result<usize> {
        Ok(usize::try_from(self.broker.counts().await?.waiting)?)
    }
}

/// What a job costs at this depth.
pub(crate) async fn course(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let depth = queue.waiting().await?;
    let at = format!("{depth} queued");
    let (mut claims, mut completions, mut adds, mut reports) =
        (Trips::new(), Trips::new(), Trips::new(), Trips::new());
    let mut costs = Vec::new();
    let (small, broker) = (payload(300)?, queue.broker.clone());
    let ((), cost) = stage
        .watch(&at, async {
            for _ in 0..ROUNDS {
                adds.time(add(
                    &*broker,
                    &Ulid::generate().to_string(),
                    &small,
                    Duration::ZERO,
                ))
                .await?;
            }
            Ok(())
        })
        .await?;
    costs.push(("enqueue", cost, adds));
    let (leases, cost) = stage
        .watch(&at, async {
            let mut leases = Vec::new();
            for _ in 0..ROUNDS {
                leases.push(claims.time(queue.claim_one()).await?);
            }
            Ok(leases)
        })
        .await?;
    costs.push(("claim", cost, claims));
    let ((), cost) = stage
        .watch(&at, async {
            for lease in &leases {
                reports.time(broker.progress(lease, 50, None)).await?;
            }
            Ok(())
        })
        .await?;
    costs.push(("progress", cost, reports));
    let ((), cost) = stage
        .watch(&at, async {
            for lease in &leases {
                completions.time(broker.complete(lease, "{\"cards\":[]}")).await?;
            }
            Ok(())
        })
        .await?;
    costs.push(("complete", cost, completions));
    for (name, cost, trips) in costs {
        let (p50, p99) = trips.percentiles();
        report.course(queue.layout, depth, name, &cost, p50, p99);
    }
    Ok(())
}

/// What onlookers ask.
const READS: [&str; 7] = [
    "queue stats",
    "age of the oldest",
    "job show",
    "job list --state waiting",
    "job list --state waiting, of a type that none has",
    "job list --state delayed",
    "job list --state completed",
];

/// What onlookers cost at this depth.
pub(crate) async fn reads(stage: &mut Stage, queue: &Queue, report: &mut Report) -> Result {
    const TIMES: usize = 20;
    let depth = queue.waiting().await?;
    let broker = &queue.broker;
    let known = {
        let page = list(&**broker, JobState::Waiting, None).await?;
        page.jobs.last().map_or_else(String::new, |job| job.id.clone())
    };
    let none = Some("none");
    for name in READS {
        let mut trips = Trips::new();
        let ((), cost) = stage
            .watch(&format!("{name}, {depth} queued"), async {
                for _ in 0..TIMES {
                    trips
                        .time(async {
                            match name {
                                "queue stats" => broker.counts().await.map(drop)?,
                                "age of the oldest" => broker.oldest_waiting().await.map(drop)?,
                                "job show" => broker.find(&known).await.map(drop)?,
                                "job list --state waiting" => {
                                    drop(list(&**broker, JobState::Waiting, None).await?)
                                }
                                "job list --state delayed" => {
                                    drop(list(&**broker, JobState::Delayed, None).await?)
                                }
                                "job list --state completed" => {
                                    drop(list(&**broker, JobState::Completed, None).await?)
                                }
                                _ => drop(list(&**broker, JobState::Waiting, none).await?),
                            }
                            Ok::<_, crate::Error>(())
                        })
                        .await?;
                }
                Ok(())
            })
            .await?;
        let (p50, p99) = trips.percentiles();
        report.read(queue.layout, depth, name, &cost, p50, p99);
    }
    Ok(())
}

async fn list(
    broker: &dyn Broker,
    state: JobState,
    kind: Option<&str>,
) -> Result<backend_worker::queue::JobPage> {
    let query = ListQuery {
        state,
        kind,
        since: None,
        after: None,
        limit: 50,
    };
    Ok(broker.list(&query).await?)
}

/// A replica with many free slots claims, and gives everything back.
pub(crate) async fn batches(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let depth = queue.waiting().await?;
    let at = format!("{SLOTS} free slots, {depth} queued");
    let mut claimed = 0;
    let (leases, cost) = stage
        .watch(&at, async {
            let mut leases = Vec::new();
            while leases.len() < SLOTS {
                let some = queue.claim(SLOTS - leases.len()).await?;
                claimed += some.len();
                leases.extend(some.into_iter().map(|delivery| delivery.lease));
            }
            Ok(leases)
        })
        .await?;
    report.flow(
        queue.layout,
        &format!("{claimed} claimed into as many free slots, {depth} queued"),
        &cost,
    );
    let broker = queue.broker.clone();
    let (_, cost) = stage
        .watch(&at, async { Ok(broker.release(&leases).await?) })
        .await?;
    report.flow(
        queue.layout,
        &format!("{claimed} given back, {depth} queued"),
        &cost,
    );
    Ok(())
}

/// Delayed jobs that are due all at once.
pub(crate) async fn due_at_once(
    stage: &mut Stage,
    queue: &mut Queue,
    report: &mut Report,
    count: usize,
) -> Result {
    let due = tokio::time::Instant::now() + Duration::from_secs(3 + count as u64 / 6_000);
    let before = stage.memory().await?;
    queue.fill(count, Some(due)).await?;
    let each = (stage.memory().await? - before) / count as u64;
    report.memory(queue.layout, &format!("a delayed job ({count})"), each);
    if queue.broker.counts().await?.delayed < count as u64 {
        return Err("some were due before all were there".into());
    }
    tokio::time::sleep_until(due + Duration::from_millis(50)).await;
    let at = format!("{count} due at once");
    let mut claims = Trips::new();
    let broker = queue.broker.clone();
    let (rounds, cost) = stage
        .watch(&at, async {
            let mut rounds = 0u64;
            while broker.counts().await?.delayed > 0 {
                claims.time(queue.claim(0)).await?;
                rounds += 1;
            }
            Ok(rounds)
        })
        .await?;
    let (p50, p99) = claims.percentiles();
    report.flow(
        queue.layout,
        &format!("{count} delayed jobs, due at once, made claimable by {rounds} claims (p50 {p50} µs, p99 {p99} µs)"),
        &cost,
    );
    Ok(())
}

/// Many jobs in flight, over several replicas: what keeps them, ends them, and takes them back.
pub(crate) async fn in_flight(stage: &mut Stage, queue: &Queue, report: &mut Report) -> Result {
    let all = REPLICAS * SLOTS;
    let at = format!("{all} in flight");
    let layout = queue.layout;
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let broker = stage.broker(layout, name, LEASE)?;
        broker.renew(&[]).await?;
        replicas.push((broker, ClaimNumber::FIRST, Vec::<Lease>::new()));
    }
    let before = stage.memory().await?;
    let ((), cost) = stage
        .watch(&at, async {
            // In turns, so that each replica's jobs lie among those of the others.
            while replicas.iter().any(|(_, _, held)| held.len() < SLOTS) {
                for (broker, number, held) in &mut replicas {
                    let some = broker.claim(*number, (SLOTS - held.len()).min(20)).await?;
                    *number = number.next();
                    held.extend(some.into_iter().map(|delivery| delivery.lease));
                }
            }
            Ok(())
        })
        .await?;
    report.flow(
        layout,
        &format!("{all} claimed by {REPLICAS} replicas in turns, 20 at a time"),
        &cost,
    );
    let each = stage.memory().await?.saturating_sub(before) / all as u64;
    report.memory(
        layout,
        &format!("a job in flight, beyond what it takes while queued ({all})"),
        each,
    );

    let (_, cost) = stage
        .watch(&at, async { Ok(replicas[0].0.renew(&replicas[0].2).await?) })
        .await?;
    report.flow(layout, &format!("one replica renews {SLOTS} of {all}"), &cost);
    // It knows of half of them only; what was claimed a moment ago is left alone, and so looked at and not moved.
    let half = &replicas[0].2[..SLOTS / 2];
    let (_, cost) = stage
        .watch(&at, async { Ok(replicas[0].0.renew(half).await?) })
        .await?;
    report.flow(
        layout,
        &format!("the same, when it knows of {} only", SLOTS / 2),
        &cost,
    );
    let (_, cost) = sweep(stage, layout).await?;
    report.flow(
        layout,
        &format!("a sweep over {all} in flight finds nothing"),
        &cost,
    );

    let (_, _, held) = &mut replicas[3];
    let picks = [("the oldest", 0), ("the newest", held.len() - 200)];
    let mut taken: Vec<(&str, Vec<Lease>)> = Vec::new();
    for (name, from) in picks.into_iter().rev() {
        taken.push((name, held.drain(from..from + 200).collect()));
    }
    let middle = held.len() / 2;
    taken.push(("from the middle", held.drain(middle..middle + 200).collect()));
    for (name, leases) in taken {
        let mut trips = Trips::new();
        let broker = replicas[3].0.clone();
        let ((), cost) = stage
            .watch(&at, async {
                for lease in &leases {
                    trips.time(broker.complete(lease, "{\"cards\":[]}")).await?;
                }
                Ok(())
            })
            .await?;
        let (p50, p99) = trips.percentiles();
        report.flow(
            layout,
            &format!("200 completed, {name} (p50 {p50} µs, p99 {p99} µs)"),
            &cost,
        );
    }

    let (broker, _, held) = &replicas[2];
    let (_, cost) = stage
        .watch(&at, async { Ok(broker.release(&held[..500]).await?) })
        .await?;
    report.flow(layout, "500 given back", &cost);
    let ((), cost) = stage
        .watch(&at, async { Ok(broker.remove_replica().await?) })
        .await?;
    report.flow(layout, &format!("a replica leaves {} behind", SLOTS - 500), &cost);
    dead_replica(stage, queue, report, &replicas[1].2).await?;
    for (broker, ..) in [&replicas[0], &replicas[3]] {
        broker.remove_replica().await?;
    }
    Ok(())
}

/// A replica's lease, or its locks, run out.
async fn dead_replica(stage: &mut Stage, queue: &Queue, report: &mut Report, held: &[Lease]) -> Result {
    match queue.layout {
        Layout::Apalis => stage.ask::<()>(&["ZADD", "depth:leases", "1", "b"]).await?,
        Layout::Bullmq => {
            for some in held.chunks(500) {
                let keys: Vec<String> = some.iter().map(|l| format!("bull:depth:{}:lock", l.id)).collect();
                let mut command = vec!["DEL"];
                command.extend(keys.iter().map(String::as_str));
                stage.ask::<()>(&command).await?;
            }
        }
    }
    let (found, cost) = sweep(stage, queue.layout).await?;
    report.flow(
        queue.layout,
        &format!("{found} jobs of a dead replica put back by a sweep"),
        &cost,
    );
    Ok(())
}

/// A whole sweep, by a replica whose lease is unbroken for long enough to judge others. Says how many jobs it has put
/// back.
async fn sweep(stage: &mut Stage, layout: Layout) -> Result<(u64, Cost)> {
    let ttl = Duration::from_millis(600);
    let sweeper = stage.broker(layout, "sweeper", ttl)?;
    for _ in 0..8 {
        sweeper.renew(&[]).await?;
        tokio::time::sleep(ttl / 6).await;
    }
    let swept = stage
        .watch("a sweep", async {
            let (mut found, mut renewed) = (0, tokio::time::Instant::now());
            loop {
                if renewed.elapsed() > ttl / 3 {
                    sweeper.renew(&[]).await?;
                    renewed = tokio::time::Instant::now();
                }
                let step = sweeper.recover().await?;
                found += step.requeued + step.poisoned;
                if !step.more {
                    return Ok(found);
                }
            }
        })
        .await?;
    sweeper.remove_replica().await?;
    Ok(swept)
}

/// Megabytes in payloads and results.
pub(crate) async fn megabytes(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let broker = queue.broker.clone();
    // The others are in front: a pause of theirs would be as good.
    if queue.waiting().await? > 0 {
        return Err("the queue is not empty".into());
    }
    for (name, bytes) in [("64 KB", 64 * 1024), ("1 MB", MEGABYTE), ("5 MB", 5 * MEGABYTE)] {
        let (large, at) = (payload(bytes)?, format!("{name} payload"));
        let result = large.get().to_owned();
        let mut leases = Vec::new();
        let ((), cost) = stage
            .watch(&at, async {
                for n in 0..8 {
                    add(&*broker, &format!("{bytes}x{n}"), &large, Duration::ZERO).await?;
                }
                Ok(())
            })
            .await?;
        report.large(queue.layout, name, "enqueue", &cost);
        let (sizes, cost) = stage
            .watch(&at, async {
                let mut sizes = Vec::new();
                while leases.len() < 8 {
                    let some = queue.claim(32).await?;
                    if some.is_empty() {
                        return Err("nothing to claim".into());
                    }
                    sizes.push(some.len().to_string());
                    leases.extend(some.into_iter().map(|delivery| delivery.lease));
                }
                Ok(sizes)
            })
            .await?;
        report.large(
            queue.layout,
            name,
            &format!("claim of 32 slots, 8 queued: {} jobs", sizes.join(" + ")),
            &cost,
        );
        let ((), cost) = stage
            .watch(&at, async {
                for lease in &leases {
                    broker.progress(lease, 50, None).await?;
                }
                Ok(())
            })
            .await?;
        report.large(queue.layout, name, "progress", &cost);
        let (_, cost) = stage
            .watch(&at, async { list(&*broker, JobState::Active, None).await })
            .await?;
        report.large(queue.layout, name, "job list --state active", &cost);
        let ((), cost) = stage
            .watch(&format!("{name} result"), async {
                for lease in &leases {
                    broker.complete(lease, &result).await?;
                }
                Ok(())
            })
            .await?;
        report.large(queue.layout, name, "complete, with a result as large", &cost);
        let (_, cost) = stage
            .watch(&format!("{name} result"), async {
                Ok(broker.find(&leases[0].id).await?)
            })
            .await?;
        report.large(queue.layout, name, "job show", &cost);
    }
    Ok(())
}

/// What an operator does to a queue this long.
pub(crate) async fn operator(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let depth = queue.waiting().await?;
    let (broker, layout) = (queue.broker.clone(), queue.layout);
    let (_, cost) = stage
        .watch(&format!("pause, {depth} queued"), async {
            broker.set_paused(true).await?;
            Ok(broker.set_paused(false).await?)
        })
        .await?;
    report.flow(layout, &format!("paused and resumed, {depth} queued"), &cost);
    for (name, share) in [("the oldest", 0.0), ("from the middle", 0.5), ("the newest", 1.0)] {
        let key = match layout {
            Layout::Apalis => "depth:active",
            Layout::Bullmq => "bull:depth:wait",
        };
        let share = if layout == Layout::Bullmq {
            1.0 - share
        } else {
            share
        };
        let index = ((queue.waiting().await? - 1) as f64 * share) as usize;
        let id: String = stage.ask(&["LINDEX", key, &index.to_string()]).await?;
        let (_, cost) = stage
            .watch(&format!("remove {name}, {depth} queued"), async {
                Ok(broker.remove(&id).await?)
            })
            .await?;
        report.flow(
            layout,
            &format!("a waiting job removed, {name}, {depth} queued"),
            &cost,
        );
    }
    Ok(())
}

/// Dead letters in numbers: listed, and retried.
pub(crate) async fn letters(
    stage: &mut Stage,
    queue: &mut Queue,
    report: &mut Report,
    count: usize,
) -> Result {
    let (broker, layout) = (queue.broker.clone(), queue.layout);
    let at = format!("{count} dead letters");
    let ((), cost) = stage
        .watch(&at, async {
            let mut left = count;
            while left > 0 {
                let claimed = queue.claim(left.min(200)).await?;
                left -= claimed.len();
                for one in &claimed {
                    broker.fail(&one.lease, "refused", None).await?;
                }
            }
            Ok(())
        })
        .await?;
    report.flow(layout, &format!("{count} jobs claimed and failed"), &cost);
    let (page, cost) = stage
        .watch(&at, async { list(&*broker, JobState::Failed, None).await })
        .await?;
    report.flow(layout, "a page of 50 dead letters", &cost);
    let ids: Vec<&str> = page.jobs.iter().map(|job| job.id.as_str()).collect();
    let order = RetryOrder {
        id: "order",
        by: "bench",
        reset_attempts: false,
    };
    let (_, cost) = stage
        .watch(&at, async { Ok(broker.retry(&ids, &order).await?) })
        .await?;
    report.flow(layout, "a page of 50 dead letters retried", &cost);
    Ok(())
}

/// A completion under a retention that leaves a chunk of old jobs to forget.
pub(crate) async fn retention(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let kept = queue.broker.counts().await?.completed;
    // By Redis's clock they ended two days ago: a day more than jobs are kept.
    let key = match queue.layout {
        Layout::Apalis => "depth:ended:done",
        Layout::Bullmq => "bull:depth:completed",
    };
    let ids: Vec<String> = stage.ask(&["ZRANGE", key, "0", "-1"]).await?;
    for some in ids.chunks(500) {
        let mut command = vec!["ZADD", key];
        for id in some {
            command.extend(["1000", id.as_str()]);
        }
        stage.ask::<()>(&command).await?;
    }
    let broker = queue.broker.clone();
    let (_, cost): (_, Cost) = stage
        .watch("retention", async {
            for _ in 0..5 {
                let lease = queue.claim_one().await?;
                broker.complete(&lease, "{}").await?;
            }
            Ok(())
        })
        .await?;
    let left = queue.broker.counts().await?.completed;
    report.flow(
        queue.layout,
        &format!(
            "5 claimed and completed, {kept} older ones past their time, {} forgotten",
            kept + 5 - left
        ),
        &cost,
    );
    Ok(())
}

/// Makes the queue longer. The first jobs are enqueued one by one, and tell what that takes; the rest is written as
/// `enqueue` writes it, a thousand at a time.
pub(crate) async fn filled(stage: &mut Stage, queue: &Queue, report: &mut Report, count: usize) -> Result {
    let alone = count.min(100_000);
    let before = stage.memory().await?;
    let ((), cost) = stage
        .watch(&format!("{alone} enqueued"), async {
            queue.fill(alone, None).await
        })
        .await?;
    let each = (stage.memory().await? - before) / alone as u64;
    report.memory(queue.layout, &format!("a queued job ({alone})"), each);
    report.flow(
        queue.layout,
        &format!("{alone} enqueued by {PRODUCERS} producers side by side"),
        &cost,
    );
    let script = redis::Script::new(match queue.layout {
        Layout::Bullmq => {
            "local p = 'bull:depth:' for i = 1, 1000 do local id = ARGV[3 + i] \
             redis.call('HSET', p .. id, 'name', ARGV[1], 'opts', ARGV[3], 'timestamp', redis.call('TIME')[1] .. '000', \
             'delay', 0, 'priority', 0, 'data', ARGV[2]) redis.call('LPUSH', p .. 'wait', id) end"
        }
        Layout::Apalis => {
            "for i = 1, 1000 do local id = ARGV[3 + i] redis.call('HSET', 'depth:data', id, ARGV[2]) \
             redis.call('HSET', 'depth:meta:' .. id, 'attempts', 0, 'max_attempts', 3, 'status', 'Pending', \
             'idempotency_key', '') redis.call('RPUSH', 'depth:active', id) end"
        }
    });
    let small = payload(300)?;
    let data = match queue.layout {
        Layout::Bullmq => small.get().to_owned(),
        Layout::Apalis => format!(r#"{{"type":"generate-flashcards","data":{}}}"#, small.get()),
    };
    let opts = r#"{"attempts":3,"backoff":{"type":"exponential","delay":2000,"jitter":0.25},"delay":0}"#;
    for _ in 0..(count - alone) / 1000 {
        let mut call = script.prepare_invoke();
        call.arg("generate-flashcards").arg(&data).arg(opts);
        for _ in 0..1000 {
            call.arg(Ulid::generate().to_string());
        }
        stage.run(&call).await?;
    }
    Ok(())
}
