//! The cost of the worker itself: `cargo bench`. No-op jobs against a private redis-server on the same machine, so the
//! figures hold the worker, Redis and the kernel, and no provider.
//!
//! Compare figures of one run only: machines differ, and so do their moods.

mod serve;

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backend_worker::{
    connection::Connection,
    demo::PrivateRedis,
    queue::{Broker, BrokerOptions, Layout, NewJob, WorkerQueue, apalis::ApalisBroker, bullmq::BullmqBroker},
    retry::{Backoff, RetryPolicy},
    watchdog::WEDGED_AFTER,
    worker::{
        Assignment, DeliveryHandler, DeliveryOutcome, Runtime, RuntimeOptions,
        outcome::{AccountWaits, OutcomeRules},
    },
};
use jobs::JobType;
use tokio_util::sync::CancellationToken;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Completes each job at once, and notes when it started.
#[derive(Default)]
struct NoOp {
    started: Mutex<Option<Instant>>,
    done: AtomicU64,
}

#[async_trait]
impl DeliveryHandler for NoOp {
    async fn handle(&self, _: &Assignment) -> DeliveryOutcome {
        if let Ok(mut started) = self.started.lock() {
            *started = Some(Instant::now());
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        DeliveryOutcome::Completed("null".to_owned())
    }
}

struct Bench {
    redis: PrivateRedis,
    raw: redis::aio::MultiplexedConnection,
}

impl Bench {
    async fn start() -> Result<Self> {
        let redis = PrivateRedis::start().await?;
        let raw = redis::Client::open(redis.url())?
            .get_multiplexed_async_connection()
            .await?;
        Ok(Self { redis, raw })
    }

    fn broker(&self, layout: Layout, queue: &str) -> Result<Arc<dyn Broker>> {
        let connection = Connection::open(&self.redis.url().into())?;
        let options = BrokerOptions::default();
        Ok(match layout {
            Layout::Bullmq => Arc::new(BullmqBroker::new(connection, queue, "bench", options)),
            Layout::Apalis => Arc::new(ApalisBroker::new(connection, queue, "bench", options)),
        })
    }

    async fn prefill(&self, layout: Layout, queue: &str, count: u64) -> Result {
        let script = match layout {
            Layout::Bullmq => {
                "for i = ARGV[2], ARGV[3] do local q = 'bull:' .. ARGV[1] .. ':' \
                redis.call('HSET', q .. i, 'name', 'process-image', 'data', '{}', 'opts', '{\"attempts\":3}') \
                redis.call('LPUSH', q .. 'wait', i) end"
            }
            Layout::Apalis => {
                "for i = ARGV[2], ARGV[3] do redis.call('HSET', ARGV[1] .. ':data', i, '{}') \
                redis.call('HSET', ARGV[1] .. ':meta:' .. i, 'attempts', 0, 'max_attempts', 3, 'status', 'Pending') \
                redis.call('RPUSH', ARGV[1] .. ':active', i) end"
            }
        };
        for first in (0..count).step_by(1000) {
            let script = redis::Script::new(script);
            let mut call = script.prepare_invoke();
            call.arg(queue).arg(first).arg((first + 999).min(count - 1));
            call.invoke_async::<()>(&mut self.raw.clone()).await?;
        }
        Ok(())
    }

    /// Commands that clients have sent, and CPU time of Redis, seconds.
    async fn spent(&self) -> Result<(u64, f64)> {
        let info: String = redis::cmd("INFO")
            .arg("everything")
            .query_async(&mut self.raw.clone())
            .await?;
        let calls = info
            .lines()
            .filter(|line| {
                ["cmdstat_evalsha:", "cmdstat_eval:", "cmdstat_ping:"]
                    .iter()
                    .any(|c| line.starts_with(c))
            })
            .filter_map(|line| {
                line.split("calls=")
                    .nth(1)?
                    .split(',')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        let cpu = |name: &str| {
            info.lines()
                .find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        Ok((calls, cpu("used_cpu_sys:") + cpu("used_cpu_user:")))
    }

    async fn throughput(&self, layout: Layout, concurrency: usize, jobs: u64) -> Result {
        let queue = format!("c{concurrency}");
        self.prefill(layout, &queue, jobs).await?;
        let handler = Arc::new(NoOp::default());
        let runtime = Runtime::new(
            [(self.broker(layout, &queue)? as Arc<dyn WorkerQueue>, concurrency)],
            handler.clone(),
            &options()?,
        );
        let workers = runtime.workers().to_vec();
        let stop = CancellationToken::new();
        let (before, own_before) = (self.spent().await?, own_cpu()?);
        let started = Instant::now();
        let task = tokio::spawn(runtime.run(stop.clone().cancelled_owned(), std::future::pending()));
        while workers[0].health().outcome_totals().succeeded < jobs {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = started.elapsed().as_secs_f64();
        let (after, own_after) = (self.spent().await?, own_cpu()?);
        stop.cancel();
        task.await??;
        let per_job = |x: f64| x / jobs as f64;
        println!(
            "{layout}, no-op, concurrency {concurrency:>3}: {:>6.0} jobs/s, {:.2} Redis calls a job, CPU a job: worker {:.0} µs, Redis {:.0} µs",
            jobs as f64 / took,
            per_job((after.0 - before.0) as f64),
            per_job(own_after - own_before) * 1e6,
            per_job(after.1 - before.1) * 1e6,
        );
        Ok(())
    }

    /// From the push of a job to an idle queue until its handler starts.
    async fn pickup(&self, layout: Layout, samples: usize) -> Result {
        let handler = Arc::new(NoOp::default());
        let broker = self.broker(layout, "pickup")?;
        let runtime = Runtime::new(
            [(broker.clone() as Arc<dyn WorkerQueue>, 20)],
            handler.clone(),
            &options()?,
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(runtime.run(stop.clone().cancelled_owned(), std::future::pending()));
        let payload = serde_json::value::to_raw_value(&serde_json::json!({}))?;
        let mut delays = Vec::new();
        for n in 0..samples {
            tokio::time::sleep(Duration::from_millis(5)).await; // The queue gets idle again.
            let id = n.to_string();
            let job = NewJob {
                id: &id,
                kind: JobType::ProcessImage,
                payload: &payload,
                max_attempts: 3,
                delay: Duration::ZERO,
            };
            let pushed = Instant::now();
            broker.enqueue(&job).await?;
            while handler.done.load(Ordering::Relaxed) <= n as u64 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let started = handler.started.lock().ok().and_then(|s| *s).unwrap_or(pushed);
            delays.push(started.saturating_duration_since(pushed).as_secs_f64() * 1000.0);
        }
        stop.cancel();
        task.await??;
        delays.sort_by(f64::total_cmp);
        println!(
            "{layout}, pickup when idle, from before the push to the handler: p50 {:.2} ms, p99 {:.2} ms ({samples} samples)",
            delays[samples / 2],
            delays[samples * 99 / 100],
        );
        Ok(())
    }

    /// The binary: time until it is ready, memory and commands while it idles.
    async fn process(&self) -> Result {
        let started = Instant::now();
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_backend-worker"))
            .env_clear()
            .envs([
                ("REDIS_URL", self.redis.url()),
                ("PORT", "0".to_owned()),
                ("LOG_FORMAT", "json".to_owned()),
            ])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
        while lines
            .next_line()
            .await?
            .is_some_and(|line| !line.contains("\"ready"))
        {}
        let ready = started.elapsed();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let total = async || -> Result<u64> {
            let info: String = redis::cmd("INFO")
                .arg("stats")
                .query_async(&mut self.raw.clone())
                .await?;
            let line = info
                .lines()
                .find_map(|l| l.strip_prefix("total_commands_processed:"))
                .ok_or("no count")?;
            Ok(line.trim().parse()?)
        };
        let before = total().await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let spent = total().await? - before - 1;
        let rss = memory(child.id().ok_or("it is gone")?)?;
        println!(
            "process with six idle queues: ready in {:.0} ms, RSS {rss:.1} MB, {:.2} commands/s a queue (those inside of scripts included)",
            ready.as_secs_f64() * 1000.0,
            spent as f64 / 30.0 / 6.0,
        );
        child.kill().await?;
        Ok(())
    }
}

fn options() -> Result<RuntimeOptions> {
    let retry = RetryPolicy {
        tries: 3.try_into()?,
        backoff: Backoff::default(),
    };
    Ok(RuntimeOptions {
        rules: OutcomeRules {
            retry,
            max_wait: Duration::from_secs(600),
            account_waits: AccountWaits::default(),
            spreads_retries: true,
            replica: "bench".to_owned(),
        },
        spool: None,
        deadline: Duration::from_secs(300),
        drain: Duration::from_secs(25),
        renew_every: Duration::from_secs(5),
        idle_rest: Duration::ZERO,
        wedged_after: WEDGED_AFTER,
        other_loops: Vec::new(),
    })
}

/// Resident memory of a process, MB.
fn memory(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

/// CPU time of this process, seconds.
fn own_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().ok_or("no stat")?.split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return serve::serve(&arguments[1..]).await;
    }
    let bench = Bench::start().await?;
    let idle = memory(std::process::id())?;
    for layout in Layout::ALL {
        for (concurrency, jobs) in [(1, 10_000), (20, 60_000), (100, 100_000)] {
            bench.throughput(layout, concurrency, jobs).await?;
        }
    }
    println!(
        "RSS of the bench: {idle:.1} MB before, {:.1} MB after 340,000 jobs",
        memory(std::process::id())?
    );
    for layout in Layout::ALL {
        bench.pickup(layout, 500).await?;
    }
    bench.process().await
}
