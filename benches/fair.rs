//! The cost of the fair line to Redis: `cargo bench --bench fair`. Two queues with the same jobs in a private
//! redis-server, one shared between the owners of its jobs and one first come, first served, worked off in turns, so
//! that the load of the machine is the same for both.
//!
//! `FAIR_JOBS` is the length of the line (20,000), `FAIR_BYTES` the size of a payload (300), `FAIR_BATCH` how many
//! jobs one call ends and claims (16). `FAIR_DEPTH=1000000` measures a call at 10,000, 100,000 … queued jobs instead,
//! of 50 owners.

use std::{str::FromStr, sync::Arc, time::Duration};

use backend_worker::{
    connection::Connection,
    demo::PrivateRedis,
    queue::{
        Broker, BrokerOptions, ClaimNumber, Completion, CompletionResults, Delivery, Layout, NewJob,
        apalis::ApalisBroker, bullmq::BullmqBroker,
    },
};
use jobs::JobType;
use redis::aio::MultiplexedConnection;
use serde_json::value::RawValue;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T = ()> = std::result::Result<T, Error>;

/// Jobs of a queue that are worked off before it is the other's turn.
const TURN: usize = 480;
/// Enqueueing side by side.
const PRODUCERS: usize = 32;

/// One of the two queues, and what Redis has spent on it.
struct Side {
    broker: Arc<dyn Broker>,
    number: ClaimNumber,
    held: Vec<Completion>,
    next_id: usize,
    /// Jobs that one call ends, and claims.
    batch: usize,
    /// CPU seconds of Redis for claims and completions.
    work: f64,
    enqueues: f64,
    done: usize,
}

impl Side {
    async fn new(redis: &PrivateRedis, layout: Layout, name: &str, is_fair: bool) -> Result<Self> {
        let connection = Connection::open(&redis.url().into())?;
        let mut options = BrokerOptions {
            lease_ttl: Duration::from_secs(3600),
            ..BrokerOptions::default()
        };
        if !is_fair {
            options.fairness = None;
        }
        let broker: Arc<dyn Broker> = match layout {
            Layout::Bullmq => Arc::new(BullmqBroker::new(connection, name, "bench", options)),
            Layout::Apalis => Arc::new(ApalisBroker::new(connection, name, "bench", options)),
        };
        broker.renew(&[]).await?;
        Ok(Self {
            broker,
            number: ClaimNumber::FIRST,
            held: Vec::new(),
            next_id: 0,
            batch: number("FAIR_BATCH", 16)?,
            work: 0.0,
            enqueues: 0.0,
            done: 0,
        })
    }

    /// Adds jobs, of the owners in turn.
    async fn add(&mut self, count: usize, owners: usize, bytes: usize) -> Result {
        let first = self.next_id;
        self.next_id += count;
        let producers: Vec<_> = (0..PRODUCERS.min(count))
            .map(|nth| {
                let broker = self.broker.clone();
                tokio::spawn(async move {
                    for n in (first..first + count).skip(nth).step_by(PRODUCERS) {
                        let payload = payload(n % owners, bytes).map_err(|error| error.to_string())?;
                        let job = NewJob {
                            id: &format!("01JD{n:022}"),
                            kind: JobType::GenerateFlashcards,
                            payload: &payload,
                            max_attempts: 3,
                            delay: Duration::ZERO,
                        };
                        broker.enqueue(&job).await.map_err(|error| error.to_string())?;
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

    fn hold(&mut self, deliveries: Vec<Delivery>) {
        self.held
            .extend(deliveries.into_iter().map(|delivery| Completion {
                lease: delivery.lease,
                result: r#"{"cards":[]}"#.to_owned(),
                equal: None,
            }));
    }

    /// Ends what is held, and claims as many others.
    async fn step(&mut self) -> Result<usize> {
        let ended = std::mem::take(&mut self.held);
        let mut claimed = None;
        if !ended.is_empty() {
            let answer: CompletionResults = self.broker.complete_all(&ended, Some(self.number)).await;
            for settled in answer.settled {
                settled?;
            }
            claimed = answer.claimed.transpose()?;
        }
        let claimed = match claimed {
            Some(claimed) => claimed,
            None => self.broker.claim(self.number, self.batch).await?,
        };
        self.number = self.number.next();
        self.hold(claimed);
        self.done += self.held.len();
        Ok(self.held.len())
    }
}

fn payload(owner: usize, bytes: usize) -> Result<Box<RawValue>> {
    let content = "A cell is the unit of life. ".repeat(bytes / 28 + 1);
    Ok(serde_json::value::to_raw_value(&serde_json::json!({
        "content": content[..bytes], "subject": "Biology", "topic": "Cells", "userId": format!("user_2x{owner:07}"),
    }))?)
}

/// A case: how many jobs wait, of how many owners.
struct Case {
    jobs: usize,
    owners: usize,
    /// As many jobs are added before each call as it claims: the line stays as long as it is.
    flows: bool,
}

/// CPU time of Redis, seconds.
async fn cpu(raw: &mut MultiplexedConnection) -> Result<f64> {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(raw).await?;
    let of = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| f64::from_str(text.trim()).ok())
    };
    let (user, system) = (of("used_cpu_user:"), of("used_cpu_sys:"));
    Ok(user.ok_or("no CPU time in INFO")? + system.ok_or("no CPU time in INFO")?)
}

async fn run(layout: Layout, case: &Case, bytes: usize) -> Result<String> {
    let redis = PrivateRedis::start_with(&["--save", ""]).await?;
    let mut raw = redis::Client::open(redis.url())?
        .get_multiplexed_async_connection()
        .await?;
    let mut sides = [
        Side::new(&redis, layout, "off", false).await?,
        Side::new(&redis, layout, "on", true).await?,
    ];
    for side in &mut sides {
        let before = cpu(&mut raw).await?;
        side.add(case.jobs, case.owners, bytes).await?;
        side.enqueues += cpu(&mut raw).await? - before;
    }
    let rounds = if case.flows { 40 } else { usize::MAX };
    for _ in 0..rounds {
        let mut some = 0;
        for side in &mut sides {
            let mut before = cpu(&mut raw).await?;
            for _ in 0..TURN / side.batch {
                if case.flows {
                    side.work += cpu(&mut raw).await? - before;
                    before = cpu(&mut raw).await?;
                    side.add(side.batch, case.owners, bytes).await?;
                    side.enqueues += cpu(&mut raw).await? - before;
                    before = cpu(&mut raw).await?;
                }
                some += side.step().await?;
            }
            side.work += cpu(&mut raw).await? - before;
        }
        if some == 0 {
            break;
        }
    }
    let [off, on] = &sides;
    let each = |seconds: f64, jobs: usize| seconds * 1e6 / jobs.max(1) as f64;
    let enqueue = each(off.enqueues + on.enqueues, off.next_id + on.next_id);
    let (off, on) = (each(off.work, off.done), each(on.work, on.done));
    let flow = if case.flows {
        format!("{}, as many come as go", case.jobs)
    } else {
        case.jobs.to_string()
    };
    Ok(format!(
        "| {layout} | {flow} | {} | {enqueue:.1} | {off:.1} | {on:.1} | {:+.1} % | {:+.1} % |",
        case.owners,
        (on / off - 1.0) * 100.0,
        ((enqueue + on) / (enqueue + off) - 1.0) * 100.0
    ))
}

/// Adds jobs without a payload but for the owner, as producers do, 2,000 a call.
const FILL: &str = "
for i = 1, 2000 do
  local id, owner = ARGV[2] .. '-' .. i, '{\"userId\":\"user_2x00000' .. i % 50 .. '\"}'
  if ARGV[1] == 'bullmq' then
    redis.call('HSET', 'bull:on:' .. id, 'name', 'generate-flashcards', 'opts', '{}', 'timestamp', 1, 'data', owner)
    redis.call('LPUSH', 'bull:on:wait', id)
  else
    redis.call('HSET', 'on:meta:' .. id, 'status', 'Pending', 'attempts', 0)
    redis.call('HSET', 'on:data', id, '{\"type\":\"generate-flashcards\",\"data\":' .. owner .. '}')
    redis.call('RPUSH', 'on:active', id)
  end
end";

/// The cost of a call while more and more jobs wait.
async fn deepen(layout: Layout, most: usize) -> Result {
    let redis = PrivateRedis::start_with(&["--save", ""]).await?;
    let mut raw = redis::Client::open(redis.url())?
        .get_multiplexed_async_connection()
        .await?;
    let mut side = Side::new(&redis, layout, "on", true).await?;
    let (mut filled, mut depth) = (0, 10_000);
    while depth <= most {
        while filled < depth {
            let mut fill = redis::cmd("EVAL");
            fill.arg(FILL).arg(0).arg(layout.to_string()).arg(filled);
            fill.query_async::<()>(&mut raw).await?;
            filled += 2_000;
        }
        let before = cpu(&mut raw).await?;
        for _ in 0..20 {
            side.step().await?;
        }
        let placed = cpu(&mut raw).await?;
        let first = side.done;
        for _ in 0..100 {
            side.step().await?;
        }
        let each = (cpu(&mut raw).await? - placed) * 1e6 / (side.done - first).max(1) as f64;
        println!("| {layout} | {depth} | {each:.1} | {:.2} s |", placed - before);
        depth *= 10;
    }
    Ok(())
}

fn number(name: &str, default: usize) -> Result<usize> {
    Ok(std::env::var(name).map_or(Ok(default), |text| text.parse())?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let (jobs, bytes) = (number("FAIR_JOBS", 20_000)?, number("FAIR_BYTES", 300)?);
    let (batch, depth) = (number("FAIR_BATCH", 16)?, number("FAIR_DEPTH", 0)?);
    if depth > 0 {
        println!(
            "| layout | jobs in line | µs of Redis's CPU a job: claim and complete | first calls, with all places |"
        );
        println!("|---|---|---|---|");
        for layout in Layout::ALL {
            deepen(layout, depth).await?;
        }
        return Ok(());
    }
    println!("µs of Redis's CPU a job, {batch} jobs a call, payloads of {bytes} bytes:\n");
    println!(
        "| layout | jobs in line | owners | enqueue | off: claim and complete | on: the same | more | more, enqueue included |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let cases = [
        Case {
            jobs,
            owners: 1,
            flows: false,
        },
        Case {
            jobs,
            owners: 50,
            flows: false,
        },
        Case {
            jobs,
            owners: jobs / 10,
            flows: false,
        },
        Case {
            jobs: 8,
            owners: 50,
            flows: true,
        },
        Case {
            jobs: 100,
            owners: 50,
            flows: true,
        },
    ];
    for layout in Layout::ALL {
        for case in &cases {
            println!("{}", run(layout, case, bytes).await?);
        }
    }
    Ok(())
}
