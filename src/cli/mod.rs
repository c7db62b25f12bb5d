//! The command line. Exit codes: 0 done, 1 failed, 2 wrong arguments, 64 wrong configuration, 65 the keyspace is of a
//! later version, 70 a loop of the worker was wedged.

mod check;
mod enqueue;
mod gates_and_queues;
mod health;
mod job;
mod migrate;
mod output;
#[cfg(test)]
mod reference;
mod simulate;
mod spend;

use std::{future::Future, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};
use secrecy::ExposeSecret;
use tracing::{error, info, warn};

use crate::{
    config::{self, Config},
    demo,
    media_helper::{self, HelperArgs},
    migrate::MigrateError,
    replica::Replica,
    telemetry::{self, trace::TraceExporter},
};

/// Exit code of wrong arguments, as clap has it.
const WRONG_ARGUMENTS: u8 = 2;

/// Runs flashcard, speech and vision jobs from Redis queues.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker until SIGTERM (what happens without a command).
    Run,
    /// Show it all: a private Redis, the provider simulator, a worker, and a few dozen jobs of every type.
    Demo(demo::DemoArgs),
    /// Add a job to a queue.
    Enqueue(enqueue::EnqueueArgs),
    /// Show, close or open circuit breakers.
    Breaker(gates_and_queues::BreakerArgs),
    /// Count, pause or resume queues.
    Queue(gates_and_queues::QueueArgs),
    /// List, show, retry or remove jobs.
    Job(job::JobArgs),
    /// Show the limits of every provider, and how much of them is used.
    Limits(gates_and_queues::LimitsArgs),
    /// Show what provider calls have cost.
    Spend(spend::SpendArgs),
    /// Show and set budgets and the kill switch.
    Budget(spend::BudgetArgs),
    /// Check configuration, Redis, providers and folders, and suggest a fix for each problem. Spends nothing.
    Check(check::CheckArgs),
    /// Ask the worker of this host how it is; exits with 0 when it is well.
    Health,
    /// Print a script that completes these commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Bring the Redis keyspace to this version (`run` does so by itself).
    Migrate(migrate::MigrateArgs),
    /// Decode recordings from standard input: the worker starts this by itself.
    #[command(name = media_helper::SUBCOMMAND, hide = true)]
    DecodeMedia(HelperArgs),
    /// Serve the providers' protocols without the providers.
    Simulate(simulate::SimulateArgs),
}

/// Parses the arguments, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // A helper starts nothing that its sandbox would have to allow.
    if let Some(Command::DecodeMedia(args)) = &cli.command {
        return media_helper::serve(args);
    }
    // TLS needs a provider of cryptography; Err says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One thread, this one, for all that waits, which is nearly all there is to do: what hops between threads costs
    // half as much again (`scripts/bench-peer.sh`). Media is decoded on threads of its own, and replicas scale it
    // out.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(async {
        match cli.command.unwrap_or(Command::Run) {
            Command::Run => run().await,
            Command::Demo(args) => demo::run(args).await,
            Command::Enqueue(args) => enqueue::run(args).await,
            Command::Breaker(args) => gates_and_queues::breaker(args).await,
            Command::Queue(args) => gates_and_queues::queue(args).await,
            Command::Job(args) => job::run(args).await,
            Command::Limits(args) => gates_and_queues::limits(args).await,
            Command::Spend(args) => spend::spend(args).await,
            Command::Budget(args) => spend::budget(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Health => health::run().await,
            Command::Completions { shell } => {
                clap_complete::generate(
                    shell,
                    &mut Cli::command(),
                    "backend-worker",
                    &mut std::io::stdout(),
                );
                Ok(ExitCode::SUCCESS)
            }
            Command::Migrate(args) => migrate::run(args).await,
            Command::DecodeMedia(args) => Ok(media_helper::serve(&args)),
            Command::Simulate(args) => simulate::run(args).await,
        }
    });
    // Abandoned work on blocking threads (decoding, name look-ups) must not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match done {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // The worker writes a log line; a command that an operator runs by hand prints plain text.
    if tracing::dispatcher::has_been_set() {
        error!("{error:#}");
    } else {
        eprintln!("backend-worker: {error:#}");
    }
    if error.is::<config::ConfigError>() {
        return ExitCode::from(config::EXIT_CODE);
    }
    match error.downcast_ref() {
        Some(MigrateError::Newer { .. }) => ExitCode::from(crate::migrate::EXIT_NEWER),
        _ => ExitCode::FAILURE,
    }
}

async fn run() -> anyhow::Result<ExitCode> {
    let config = Config::from_env()?;
    let secrets = config.secrets();
    jobs::redaction::hide(secrets.iter().map(ExposeSecret::expose_secret));
    let exporter = config
        .traces
        .as_ref()
        .map(|traces| TraceExporter::start(traces, &config.replica));
    let exporter = exporter.transpose()?;
    telemetry::init(config.log_format, &config.log_filter, exporter.as_ref());
    if let Err(error) = forbid_core_dumps() {
        warn!(%error, "core dumps cannot be forbidden: one would hold the keys of this process");
    }
    let (stop, hasten) = stop_signals()?;
    let ran = Replica::new(&config).await?.run(stop, hasten).await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    ran?;
    Ok(ExitCode::SUCCESS)
}

/// Keys and payloads stand in this process's memory, which a core dump would write to a disk, or to a collector: the
/// kernel asks the latter for a process that may be dumped, whatever its limit.
fn forbid_core_dumps() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// The first SIGTERM or SIGINT, and the second.
pub(crate) fn stop_signals() -> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (first, first_seen) = tokio::sync::oneshot::channel();
    let (second, second_seen) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        for heard in [first, second] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!("{name} received");
            let _ = heard.send(()); // An error means that the receiver has ended before the signal.
        }
    });
    Ok((heard(first_seen), heard(second_seen)))
}

/// Waits for a signal; one that can never come is never heard.
async fn heard(signal: tokio::sync::oneshot::Receiver<()>) {
    if signal.await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
