//! `demo`: shows the worker with jobs of every type, on a machine that has only a redis-server.
//!
//! The command starts a private Redis, the provider simulator, another one as a second deployment of the language model,
//! and a replica, runs a few dozen jobs, and stops all of them at the end. It runs the real code; only the providers are simulated.

mod cards;
mod outage;
mod samples;
mod show;

use std::{collections::HashMap, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use clap::Args;
use jobs::JobType;
use tokio_util::sync::CancellationToken;

pub use simulator::PrivateRedis;

use crate::{
    cli,
    config::{Config, QueueSpec},
    connection::Connection,
    queue::{Layout, NewJob},
    replica::{self, Replica},
    simulator::{Simulator, SimulatorOptions},
    telemetry::{self, LogFormat},
};

/// The options of a demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many jobs, over all types.
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    jobs: u32,
    /// Share of provider calls that fail at first.
    #[arg(long, default_value_t = 0.15)]
    faults: f64,
    /// Time that the simulated providers take.
    #[arg(long, default_value = "250ms", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Show the worker's log instead of progress bars.
    #[arg(long)]
    logs: bool,
}

/// Jobs below which OpenAI's share is too small to open its breaker.
const ENOUGH_FOR_AN_OUTAGE: u32 = 9;
/// The job whose cards are shown as they come: the first one is a deck.
const FIRST_JOB: &str = "demo-0";
/// A deck is streamed for so many times the latency: its cards are seen to come one by one.
const STREAM_FACTOR: u32 = 4;
/// Longest wait for a step of the demo.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the demo.
///
/// # Errors
/// When there is no redis-server, or it does not start.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    if args.logs {
        telemetry::init(LogFormat::Auto, "info", None);
    }
    // Before anything is started that would have to be stopped.
    let (interrupted, hasten) = cli::stop_signals()?;
    let redis = PrivateRedis::start().await?;
    let options = SimulatorOptions {
        latency: args.latency,
        stream_time: args.latency * STREAM_FACTOR,
        random_faults: args.faults,
        seed: 7,
        ..SimulatorOptions::default()
    };
    let bind = async |options| {
        let bound = Simulator::bind(([127, 0, 0, 1], 0).into(), options);
        bound.await.context("the simulator")
    };
    let simulator = bind(options.clone()).await?;
    let spare = bind(SimulatorOptions {
        random_faults: 0.0,
        ..options.clone()
    })
    .await?;
    let config = config(&redis, &simulator, &spare, &options)?;
    let (simulator, spare) = (simulator.spawn(), spare.spawn());
    let replica = Replica::new(&config).await?;
    let port = replica.port()?;
    println!(
        "private Redis on {}, simulated providers, dashboard at http://localhost:{port}/dashboard",
        redis.url()
    );

    let stop = CancellationToken::new();
    let replica = tokio::spawn(replica.run(stop.clone().cancelled_owned(), hasten));
    let stage = show::ProgressDisplay::new(args.logs);
    let operator = replica::operator(&config)?;
    let shown = async {
        if args.jobs >= ENOUGH_FOR_AN_OUTAGE {
            outage::begin(&simulator, &stage)?;
        }
        let jobs = enqueue(&config, args.jobs).await?;
        tokio::select! {
            shown = show::follow(&jobs, &stage) => shown,
            never = outage::narrate(&operator, &simulator, &stage) => match never {},
            never = cards::show(port, FIRST_JOB, &stage) => match never {},
            () = tokio::time::sleep(PATIENCE) => Err(anyhow!("the jobs have not ended within {PATIENCE:?}")),
        }
    };
    let shown = tokio::select! {
        shown = shown => Some(shown),
        () = interrupted => None,
    };
    stop.cancel();
    replica.await.context("the replica died")??;
    simulator.stop().await;
    spare.stop().await;
    redis.stop().await;
    let Some(shown) = shown else {
        return Ok(ExitCode::from(130));
    };
    let shown = shown?;
    println!("{}\n{}", shown.table(), shown.contract());
    Ok(if shown.all_done() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Configuration of the demo. Waits are short and limits high, so that the demo ends soon.
fn config(
    redis: &PrivateRedis,
    simulator: &Simulator,
    spare: &Simulator,
    options: &SimulatorOptions,
) -> anyhow::Result<Config> {
    let mut env: HashMap<&str, String> = point_to(simulator, options).into_iter().collect();
    env.insert("REDIS_URL", redis.url());
    env.insert("LLM_SPARE_BASE_URL", spare.openai_base_url());
    env.insert("LLM_SPARE_API_KEY", options.keys.openai.clone());
    for (name, value) in [
        ("PORT", "0"),
        // The dashboard of the demo has buttons.
        ("ADMIN_FROM_LOOPBACK", "on"),
        ("RETRY_BASE_DELAY", "300ms"),
        ("RETRY_MAX_DELAY", "2s"),
        ("CONCURRENCY", "6"),
        ("LLM_DEPLOYMENTS", "primary,spare"),
        ("LLM_SPARE_MAX_CONCURRENT", "2"),
        ("OPENAI_RATE_LIMIT_RPM", "0"),
        ("AZURE_VISION_RATE_LIMIT_RPM", "0"),
        ("OPENAI_BREAKER_OPEN_FOR", "2s"),
        ("AZURE_BREAKER_OPEN_FOR", "3s"),
    ] {
        env.insert(name, value.to_owned());
    }
    Ok(Config::from_lookup(|name| env.get(name).cloned())?)
}

/// The variables that point a worker to a simulator.
pub fn point_to(simulator: &Simulator, options: &SimulatorOptions) -> Vec<(&'static str, String)> {
    vec![
        ("OPENAI_BASE_URL", simulator.openai_base_url()),
        ("OPENAI_API_KEY", options.keys.openai.clone()),
        ("AZURE_SPEECH_ENDPOINT", simulator.speech_endpoint()),
        ("AZURE_SPEECH_KEY", options.keys.speech.clone()),
        ("AZURE_VISION_ENDPOINT", simulator.vision_endpoint()),
        ("AZURE_VISION_KEY", options.keys.vision.clone()),
    ]
}

/// Enqueues jobs of all types in turn, each in its own queue.
async fn enqueue(config: &Config, count: u32) -> anyhow::Result<Vec<show::FollowedJob>> {
    let connection = Connection::open(&config.redis)?;
    let brokers = JobType::ALL.map(|kind| {
        let spec = QueueSpec {
            layout: Layout::Apalis,
            name: kind.default_queue().to_owned(),
            concurrency: 1,
        };
        (kind, replica::broker(&spec, &connection, config))
    });
    let mut followed = Vec::new();
    for (n, (kind, broker)) in (0..count).zip(brokers.iter().cycle()) {
        let id = format!("demo-{n}");
        let payload = samples::payload(*kind, n)?;
        let job = NewJob {
            id: &id,
            kind: *kind,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::ZERO,
        };
        broker.enqueue(&job).await.context("a demo job is not enqueued")?;
        followed.push(show::FollowedJob::new(*kind, id, payload, broker.clone()));
    }
    Ok(followed)
}
