//! `enqueue`: adds a job to a queue, and waits for it where asked to.

use std::{
    io::{IsTerminal, Read},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use indicatif::{ProgressBar, ProgressStyle};
use jobs::{JobType, Jobs};
use serde_json::value::RawValue;

use crate::{
    config::{self, Config, QueueSpec},
    connection::Connection,
    monitor::heartbeats::Heartbeats,
    queue::{BrokerError, JobSnapshot, JobState, Layout, NewJob, QueueInspector},
    replica,
    retry::LoopBackoff,
};

/// How often a waiting `enqueue` looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a job waits before a waiting `enqueue` asks whether a worker serves its queue: replicas report themselves
/// every five seconds.
const UNSERVED_AFTER: Duration = Duration::from_secs(12);

/// The registered job types, for the help text and the shells' completions.
fn known_types() -> impl TypedValueParser<Value = JobType> {
    PossibleValuesParser::new(JobType::ALL.map(JobType::as_str)).try_map(|name| name.parse::<JobType>())
}

#[derive(Debug, Args)]
pub(super) struct EnqueueArgs {
    /// The type of the job.
    #[arg(value_name = "TYPE", value_parser = known_types())]
    kind: JobType,
    /// The payload: JSON, `@file`, or `-` for standard input.
    #[arg(long)]
    data: String,
    /// Queue, `name` or `layout:name`; otherwise the one of QUEUES that serves the type.
    #[arg(long)]
    queue: Option<String>,
    /// Unique id; a new one where none is given. A known id is not enqueued again.
    #[arg(long)]
    id: Option<String>,
    /// Attempts before the job becomes a dead letter.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Not before this long from now, such as 30s.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Enqueue it this many times, each with an id of its own.
    #[arg(long, default_value_t = 1, conflicts_with = "id", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Wait for the end, and print the result as JSON.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(args: EnqueueArgs) -> anyhow::Result<ExitCode> {
    let config = Config::from_env()?;
    let payload = read_payload(&args.data)?;
    if let Err(failure) = Jobs::validate(args.kind, payload.get().as_bytes()) {
        bail!("{failure}");
    }
    let (spec, is_served) = choose(&config.queues, args.kind, args.queue.as_deref())?;
    if !is_served {
        eprintln!(
            "QUEUES does not name {}:{}: the job waits until a worker serves that queue",
            spec.layout, spec.name
        );
    }
    let connection = Connection::open(&config.redis).context("REDIS_URL")?;
    let broker = replica::broker(&spec, &connection, &config);

    let mut ids = Vec::new();
    for _ in 0..args.count {
        let id = args
            .id
            .clone()
            .unwrap_or_else(|| ulid::Ulid::generate().to_string());
        let job = NewJob {
            id: &id,
            kind: args.kind,
            payload: &payload,
            max_attempts: args.attempts,
            delay: args.delay,
        };
        let added = retried(async || broker.enqueue(&job).await)
            .await
            .with_context(|| format!("job {id} may not be enqueued: try again with --id {id}"))?;
        if !added {
            eprintln!("job {id} is in {} already", spec.name);
        }
        ids.push(id);
    }
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        if !args.wait {
            println!("{id}");
            continue;
        }
        let view = wait(&connection, broker.as_ref(), &id).await?;
        if view.state == JobState::Failed {
            code = ExitCode::FAILURE;
        }
        println!("{}", serde_json::to_string(&view)?);
    }
    Ok(code)
}

/// The queue to enqueue into, and whether QUEUES names it. Of two layouts the apalis one comes first.
fn choose(queues: &[QueueSpec], kind: JobType, named: Option<&str>) -> anyhow::Result<(QueueSpec, bool)> {
    let (layout, name) = match named.and_then(|named| named.split_once(':')) {
        Some((layout, name)) => (
            Some(
                layout
                    .parse::<Layout>()
                    .map_err(|why| anyhow::anyhow!("--queue: {why}"))?,
            ),
            name,
        ),
        None => (None, named.unwrap_or(kind.default_queue())),
    };
    let name = config::check_queue_name(name).map_err(|why| anyhow::anyhow!("--queue: {why}"))?;
    let find = |layout: Layout| {
        queues
            .iter()
            .find(|spec| spec.layout == layout && spec.name == name)
    };
    let served = match layout {
        Some(layout) => find(layout),
        None => find(Layout::Apalis).or_else(|| find(Layout::Bullmq)),
    };
    // A type whose own queue is not served goes to one that is, as over HTTP.
    let any = |layout: Layout| queues.iter().find(|spec| spec.layout == layout);
    let served = match named {
        None => served
            .or_else(|| any(Layout::Apalis))
            .or_else(|| any(Layout::Bullmq)),
        Some(_) => served,
    };
    Ok(match served {
        Some(spec) => (spec.clone(), true),
        None => (
            QueueSpec {
                layout: layout.unwrap_or(Layout::Apalis),
                name,
                concurrency: 1,
            },
            false,
        ),
    })
}

fn read_payload(data: &str) -> anyhow::Result<Box<RawValue>> {
    let bytes = match data.strip_prefix('@') {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}"))?,
        None if data == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("cannot read standard input")?;
            bytes
        }
        None => data.as_bytes().to_vec(),
    };
    let text = jobs::payload_text(&bytes).context("--data")?;
    match serde_json::from_str(&text) {
        Ok(payload) => Ok(payload),
        // The parser's own words could repeat what it found.
        Err(error) => bail!("--data is not JSON: {}", jobs::without_values(&error)),
    }
}

/// Asks Redis again for half a minute before it gives up. What is asked here may be asked twice.
async fn retried<T>(ask: impl AsyncFn() -> Result<T, BrokerError>) -> Result<T, BrokerError> {
    let patience = Instant::now() + Duration::from_secs(30);
    let mut backoff = LoopBackoff::new(Duration::from_millis(250), Duration::from_secs(2));
    loop {
        match ask().await {
            Err(BrokerError::Redis(error)) if Instant::now() < patience => {
                eprintln!("Redis: {error}; trying again");
                backoff.wait().await;
            }
            answer => return answer,
        }
    }
}

/// True if a worker may take the job: a replica that says so, or another program that runs one of the queue's jobs.
async fn is_served(connection: &Connection, broker: &dyn QueueInspector) -> anyhow::Result<bool> {
    let replicas = Heartbeats::new(connection.clone(), "enqueue").read().await?;
    let mut queues = replicas.iter().flat_map(|replica| &replica.work.queues);
    let is_ours = queues.any(|work| work.queue == broker.queue() && work.layout == broker.layout().as_str());
    Ok(is_ours || broker.counts().await?.active > 0)
}

/// Follows a job to its end, or until it is certain that no worker serves its queue.
async fn wait(connection: &Connection, broker: &dyn QueueInspector, id: &str) -> anyhow::Result<JobSnapshot> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(100)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(
        ProgressStyle::with_template("{prefix} [{bar:30}] {pos:>3} % {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_prefix(id.to_owned());
    let mut unserved_since = Instant::now();
    loop {
        let view = retried(async || broker.find(id).await)
            .await
            .context("the job cannot be looked up")?;
        let Some(view) = view else {
            bail!("job {id} is gone")
        };
        bar.set_position(u64::from(view.progress));
        bar.set_message(
            format!("{:?} {}", view.state, view.error.as_deref().unwrap_or_default()).to_lowercase(),
        );
        if matches!(view.state, JobState::Completed | JobState::Failed) {
            bar.finish_and_clear();
            return Ok(view);
        }
        if view.state != JobState::Waiting {
            unserved_since = Instant::now();
        } else if unserved_since.elapsed() > UNSERVED_AFTER {
            if !is_served(connection, broker).await? {
                bar.finish_and_clear();
                bail!(
                    "no worker serves {}:{}: job {id} stays in it. Start a worker whose QUEUES names that queue, or \
                     name another with --queue; `backend-worker job show {id}` shows the job",
                    broker.layout(),
                    broker.queue()
                );
            }
            unserved_since = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
