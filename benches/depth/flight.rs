//! Ten thousand calls in flight, over replicas as processes: what a job in flight takes of a worker and of Redis, and
//! what the script of a replica that stops costs.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use backend_worker::{
    demo::point_to,
    queue::Layout,
    simulator::{Simulator, SimulatorOptions},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    Result,
    cases::{Queue, REPLICAS, SLOTS},
    report::Report,
    stage::Stage,
};

/// Longer than the case takes.
const HELD: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(120);

/// A replica, and its memory before it had any job, KB.
struct Replica {
    process: Child,
    idle: u64,
}

impl Replica {
    async fn start(env: &[(&'static str, String)]) -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_backend-worker"))
            .arg("run")
            .env_clear()
            .envs(env.iter().cloned())
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("no stdout")?).lines();
        loop {
            let line = lines
                .next_line()
                .await?
                .ok_or("the replica ended before it was ready")?;
            if line.contains("\"ready") {
                break;
            }
        }
        // Its log has to be read for as long as it writes one.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut replica = Self { process, idle: 0 };
        replica.idle = replica.memory()?;
        Ok(replica)
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.process.id().ok_or("the replica is gone")?)
    }

    /// Resident memory, KB.
    fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line
            .ok_or("no VmRSS")?
            .trim()
            .trim_end_matches(" kB")
            .trim()
            .parse()?)
    }
}

/// Waits until all jobs are in flight, and memory does not grow any more.
async fn settled(queue: &Queue, replicas: &[Replica], count: u64) -> Result {
    let started = Instant::now();
    let mut before = 0;
    while started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let memory = replicas.iter().map(Replica::memory).sum::<Result<u64>>()?;
        if queue.broker.counts().await?.active == count && memory <= before + before / 200 {
            return Ok(());
        }
        before = memory;
    }
    Err("the jobs are not all in flight".into())
}

pub(crate) async fn run(stage: &mut Stage, layout: Layout, report: &mut Report) -> Result {
    let queue = Queue::new(stage, layout).await?;
    let options = SimulatorOptions {
        latency: HELD,
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), options.clone()).await?;
    let mut env = point_to(&simulator, &options);
    for (name, value) in [
        ("REDIS_URL", stage.redis.url()),
        ("PORT", "0".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
        ("QUEUES", format!("{layout}:depth={SLOTS}")),
        ("OPENAI_RATE_LIMIT_RPM", "0".to_owned()),
        ("OPENAI_MAX_CONCURRENT", "0".to_owned()),
        ("OPENAI_TIMEOUT", "600s".to_owned()),
        ("OPENAI_IDLE_TIMEOUT", "600s".to_owned()),
        ("JOB_DEADLINE", "10m".to_owned()),
        ("DRAIN_TIMEOUT", "1s".to_owned()),
    ] {
        env.push((name, value));
    }
    let simulator = simulator.spawn();
    let count = REPLICAS * SLOTS;
    queue.fill(count, None).await?;
    let queued = stage.memory().await?;
    let (mut replicas, at) = (Vec::new(), format!("{count} calls in flight"));
    let (_, cost) = stage
        .watch(&at, async {
            for _ in 0..REPLICAS {
                replicas.push(Replica::start(&env).await?);
            }
            settled(&queue, &replicas, count as u64).await
        })
        .await?;
    report.flow(
        layout,
        &format!("{REPLICAS} replicas start, and take {count} jobs in flight"),
        &cost,
    );
    let used: u64 = replicas
        .iter()
        .map(|replica| Ok(replica.memory()?.saturating_sub(replica.idle)))
        .sum::<Result<u64>>()?;
    report.memory(
        layout,
        &format!("worker, RSS of a job in flight (of {count})"),
        used * 1024 / count as u64,
    );
    let more = stage.memory().await?.saturating_sub(queued) / count as u64;
    report.memory(
        layout,
        "Redis, the same job: what it takes more than queued, its call's entry and slot included",
        more,
    );
    let busy = stage.redis_cpu().await?;
    let seconds = 12;
    let (_, cost) = stage
        .watch(&at, async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        })
        .await?;
    let busy = (stage.redis_cpu().await? - busy) / seconds as f64 * 100.0;
    report.flow(
        layout,
        &format!("{seconds} s of {count} in flight: renewals and sweeps; {busy:.1} % of a core of Redis"),
        &cost,
    );
    let (_, cost) = stage
        .watch("replicas stop", async {
            for replica in &replicas {
                kill(Pid::from_raw(replica.pid()?.try_into()?), Signal::SIGTERM)?;
            }
            for replica in &mut replicas {
                tokio::time::timeout(PATIENCE, replica.process.wait()).await??;
            }
            Ok(())
        })
        .await?;
    let back = queue.broker.counts().await?.waiting;
    report.flow(
        layout,
        &format!("all of them stop: {back} of {count} jobs given back after DRAIN_TIMEOUT=1s"),
        &cost,
    );
    simulator.stop().await;
    Ok(())
}
