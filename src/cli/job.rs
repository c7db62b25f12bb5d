//! `job`: lists, shows, retries and removes jobs, by what the HTTP routes call.

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{ArgAction, Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{gates_and_queues::operator, output::table};
use crate::{
    config::Config,
    operator::{JobError, JobFilter, JobList, Operator, RetryRequest, RetrySummary},
    queue::{JobState, ListCursor},
    replica,
};

/// Characters of a reason that a table shows.
const REASON: usize = 60;

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    #[command(subcommand)]
    order: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// List the jobs in one state, the newest first.
    List(ListArgs),
    /// Show a job as JSON: state, progress, result, what it waits for, every failed attempt, every paid call until it is completed.
    Show {
        /// The job's id.
        id: String,
        /// Its queue, `name` or `layout:name`, where several know the id.
        #[arg(long)]
        queue: Option<String>,
    },
    /// Put a dead letter back into its queue, or all of them.
    Retry(RetryArgs),
    /// Remove a job that is not active, with all that is kept of it.
    Remove {
        /// The job's id.
        id: String,
        /// Its queue, `name` or `layout:name`, where several know the id.
        #[arg(long)]
        queue: Option<String>,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// waiting, delayed, active, completed or failed.
    #[arg(long, default_value_t = JobState::Failed)]
    state: JobState,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    #[command(flatten)]
    which: JobFilterArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RetryArgs {
    /// The job's id.
    #[arg(required_unless_present = "all", conflicts_with_all = ["all", "kind", "since"])]
    id: Option<String>,
    /// All dead letters that the other options name.
    #[arg(long, action = ArgAction::SetTrue)]
    all: bool,
    #[command(flatten)]
    which: JobFilterArgs,
    /// Give them all of their attempts again; one more otherwise.
    #[arg(long)]
    reset_attempts: bool,
}

#[derive(Debug, Args)]
struct JobFilterArgs {
    /// Only in this queue: `name`, or `layout:name`.
    #[arg(long)]
    queue: Option<String>,
    /// Only of this type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only those that ended no longer than this ago, such as 2h.
    #[arg(long, value_parser = humantime::parse_duration)]
    since: Option<Duration>,
}

impl JobFilterArgs {
    fn wanted(&self, state: JobState) -> JobFilter<'_> {
        JobFilter {
            state,
            queue: self.queue.as_deref(),
            kind: self.kind.as_deref(),
            since: self.since,
        }
    }
}

pub(super) async fn run(args: JobArgs) -> anyhow::Result<ExitCode> {
    match args.order {
        JobCommand::List(args) => return list(&args).await,
        JobCommand::Show { id, queue } => {
            let found = operator()?.job(&id, queue.as_deref()).await?;
            let found = found.ok_or(JobError::Unknown(id))?;
            let accounts = replica::accounts(&Config::from_env()?)?;
            let page = found.broker.ledger_key(&found.job.id);
            // Another program's key in that place must not hide the job.
            let calls = accounts.calls_of(&page).await.unwrap_or_default();
            let mut job = serde_json::to_value(&found.job)?;
            job["paidCalls"] = serde_json::to_value(calls)?;
            println!("{}", serde_json::to_string_pretty(&job)?);
        }
        JobCommand::Retry(args) => return retry(&args).await,
        JobCommand::Remove { id, queue } => {
            let deed = operator()?.remove_job(&id, queue.as_deref()).await?;
            println!("{}:{} job {id} is removed", deed.layout, deed.queue);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    if args.which.since.is_some() && !matches!(args.state, JobState::Completed | JobState::Failed) {
        eprintln!("backend-worker: --since: only jobs that are completed or failed have ended");
        return Ok(ExitCode::from(super::WRONG_ARGUMENTS));
    }
    let wanted = args.which.wanted(args.state);
    let list = operator()?
        .list_jobs(&wanted, None, usize::from(args.limit))
        .await?;
    if args.json {
        let listed = json!({ "state": args.state, "jobs": list.jobs, "more": list.more });
        println!("{}", serde_json::to_string_pretty(&listed)?);
    } else {
        print_list(&list);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_list(list: &JobList) {
    let rows = list.jobs.iter().map(|listed| {
        let job = &listed.job;
        vec![
            plain(&job.id),
            format!("{}:{}", listed.layout, listed.queue),
            plain(job.kind.as_deref().unwrap_or_default()),
            job.attempts_made.to_string(),
            job.at.map(crate::time_format::iso).unwrap_or_default(),
            plain(job.class.as_deref().unwrap_or_default()),
            excerpt(&plain(job.error.as_deref().unwrap_or_default())),
        ]
    });
    let header = ["job", "queue", "type", "attempts", "at", "class", "reason"];
    println!("{}", table(&header, rows));
    if list.more {
        eprintln!("there are more: --limit, --queue, --type and --since choose");
    }
}

/// Without what a terminal would obey: a job may say anything.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

async fn retry(args: &RetryArgs) -> anyhow::Result<ExitCode> {
    let config = Config::from_env()?;
    let operator = replica::operator(&config)?;
    let order = RetryRequest::new(config.replica, args.reset_attempts);
    if let Some(id) = &args.id {
        let deed = operator
            .retry_job(id, args.which.queue.as_deref(), &order)
            .await?;
        println!("{}:{} job {id} waits again", deed.layout, deed.queue);
        return Ok(ExitCode::SUCCESS);
    }
    let mut haul = RetrySummary::default();
    let done = retry_all(&operator, &args.which.wanted(JobState::Failed), &order, &mut haul).await;
    let mut told = format!("{} retried", haul.retried);
    for (count, what) in [
        (haul.changed, "had changed their state before the retry"),
        (
            haul.broken,
            "cannot be retried: their data is gone, or their keys are not what they should be",
        ),
    ] {
        if count > 0 {
            told.push_str(&format!(", {count} {what}"));
        }
    }
    println!("{told}");
    done.context("not all were reached: say it again")?;
    Ok(ExitCode::SUCCESS)
}

async fn retry_all(
    operator: &Operator,
    wanted: &JobFilter<'_>,
    order: &RetryRequest,
    haul: &mut RetrySummary,
) -> Result<(), JobError> {
    let brokers = operator.select(wanted.queue)?;
    let mut dead = 0;
    for broker in &brokers {
        dead += broker.counts().await?.failed;
    }
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(dead),
        false => ProgressBar::hidden(),
    };
    bar.set_style(
        ProgressStyle::with_template("[{bar:30}] {pos} of {len} dead letters, {msg} retried")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    for broker in brokers {
        let mut place: Option<ListCursor> = None;
        loop {
            let (step, next) = operator
                .retry_step(&**broker, wanted, place.as_ref(), order)
                .await?;
            haul.add(step);
            bar.set_message(haul.retried.to_string());
            bar.set_position(haul.seen.min(dead));
            place = next;
            if place.is_none() {
                break;
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}
