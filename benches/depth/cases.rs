//! The cases, over one queue of one layout.

mod in_flight;
mod orders;
mod sizes;

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{Broker, ClaimNumber, Delivery, JobState, Layout, Lease, ListQuery, NewJob};
use jobs::JobType;
use serde_json::value::RawValue;
use ulid::Ulid;

use crate::{
    Result,
    report::Report,
    stage::{Stage, Trips},
};

pub(crate) use self::{
    in_flight::in_flight,
    orders::{letters, operator, retention},
    sizes::{filled, megabytes},
};

/// Enqueueing side by side.
const PRODUCERS: usize = 64;
const ROUNDS: usize = 500;
/// Slots of the replicas in flight.
pub(crate) const SLOTS: usize = 2_500;
pub(crate) const REPLICAS: usize = 4;
/// Longer than a case takes: who is dead is said by hand.
const LEASE: Duration = Duration::from_secs(120);

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

/// The cost of a job at this depth.
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

/// The questions of readers.
const READS: [&str; 7] = [
    "queue stats",
    "age of the oldest",
    "job show",
    "job list --state waiting",
    "job list --state waiting, of a type that none has",
    "job list --state delayed",
    "job list --state completed",
];

/// The cost of readers at this depth.
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
