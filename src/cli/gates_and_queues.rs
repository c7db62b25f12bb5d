//! `breaker`, `limits`, `queue`: an operator's questions and orders, in a shell. They call what the HTTP routes call.

use std::{num::NonZeroU32, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use serde_json::{Map, Value};

use super::output::{self, table};
use crate::{
    config::Config,
    gate::BreakerStatus,
    operator::{BreakerError, Operator, view},
    replica,
    time_format::iso,
};

#[derive(Debug, Args)]
pub(super) struct BreakerArgs {
    #[command(subcommand)]
    order: BreakerCommand,
}

#[derive(Debug, Subcommand)]
enum BreakerCommand {
    /// Show every breaker.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Close a breaker: calls pass again.
    Reset {
        /// The breaker, such as openai.
        name: String,
    },
    /// Open a breaker: no call passes for its usual time.
    Open {
        /// The breaker, such as openai.
        name: String,
    },
}

pub(super) async fn breaker(args: BreakerArgs) -> anyhow::Result<ExitCode> {
    let operator = operator()?;
    let json = matches!(args.order, BreakerCommand::Status { json: true });
    let breakers = match args.order {
        BreakerCommand::Status { .. } => operator.breakers().await.context("Redis")?,
        BreakerCommand::Reset { name } => vec![operator.reset_breaker(&name).await.map_err(explain)?],
        BreakerCommand::Open { name } => vec![operator.open_breaker(&name).await.map_err(explain)?],
    };
    let answer: Map<String, Value> = breakers
        .iter()
        .map(|b| (b.name.clone(), view::breaker(b)))
        .collect();
    output::either(json, &answer, || {
        let rows = breakers.iter().map(|b: &BreakerStatus| {
            let next = b.next_retry_at.map(iso).unwrap_or_default();
            vec![
                b.name.clone(),
                b.state.to_string(),
                format!("{} of {}", b.failures, b.failure_threshold),
                format!("{} of {}", b.successes, b.success_threshold),
                next,
            ]
        });
        table(&["breaker", "state", "failures", "successes", "next retry"], rows).to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(super) struct LimitsArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn limits(args: LimitsArgs) -> anyhow::Result<ExitCode> {
    let limits = operator()?.limits().await.context("Redis")?;
    let answer: Map<String, Value> = limits
        .iter()
        .map(|s| (s.name().to_owned(), view::limit(s)))
        .collect();
    output::either(args.json, &answer, || {
        let of = |used: u64, limit: Option<NonZeroU32>| match limit {
            Some(limit) => format!("{used} of {limit}"),
            None => used.to_string(),
        };
        let rows = limits.iter().map(|s| {
            vec![
                s.name().to_owned(),
                of(s.in_flight, s.limits.max_concurrent),
                of(s.requests, s.limits.requests_per_minute),
                of(s.tokens, s.limits.tokens_per_minute),
                s.throttled_until.map(iso).unwrap_or_default(),
            ]
        });
        let header = [
            "provider",
            "calls at a time",
            "requests/min",
            "tokens/min",
            "throttled until",
        ];
        table(&header, rows).to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn explain(error: BreakerError) -> anyhow::Error {
    match &error {
        BreakerError::Unknown { available, .. } => {
            let available = available.join(", ");
            anyhow::Error::new(error).context(format!("the breakers are: {available}"))
        }
        BreakerError::Redis(_) => error.into(),
    }
}

#[derive(Debug, Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    order: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Count the jobs of every queue.
    Stats {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop handing out a queue's jobs, on every replica.
    Pause {
        /// The queue.
        queue: String,
    },
    /// Hand them out again.
    Resume {
        /// The queue.
        queue: String,
    },
}

pub(super) async fn queue(args: QueueArgs) -> anyhow::Result<ExitCode> {
    let operator = operator()?;
    match args.order {
        QueueCommand::Stats { json } => {
            let stats = operator.queue_stats().await?;
            output::either(json, &stats, || {
                let rows = stats.iter().map(|s| {
                    let c = &s.counts;
                    let mut row = vec![s.queue.clone(), s.layout.to_owned()];
                    row.extend(
                        [c.waiting, c.active, c.delayed, c.completed, c.failed].map(|n| n.to_string()),
                    );
                    row.push(c.oldest_failed_ms.map(age).unwrap_or_default());
                    row.push(if c.paused { "paused" } else { "" }.to_owned());
                    row
                });
                let header = [
                    "queue",
                    "layout",
                    "waiting",
                    "active",
                    "delayed",
                    "completed",
                    "failed",
                    "oldest failed",
                    "",
                ];
                table(&header, rows).to_string()
            })?;
        }
        QueueCommand::Pause { queue } => set_paused(&operator, &queue, true).await?,
        QueueCommand::Resume { queue } => set_paused(&operator, &queue, false).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whole seconds, for people: `2h 3m 5s`.
fn age(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1000)).to_string()
}

async fn set_paused(operator: &Operator, name: &str, paused: bool) -> anyhow::Result<()> {
    let mut found = false;
    for broker in operator.queues().iter().filter(|broker| broker.queue() == name) {
        broker.set_paused(paused).await?;
        found = true;
        println!(
            "{}:{name} {}",
            broker.layout(),
            if paused { "is paused" } else { "runs" }
        );
    }
    if !found {
        bail!("QUEUES names no queue {name:?}");
    }
    Ok(())
}

pub(super) fn operator() -> anyhow::Result<Operator> {
    replica::operator(&Config::from_env()?)
}
