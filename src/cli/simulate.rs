//! `simulate`: the provider simulator alone, with the variables that point a worker to it.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;

use crate::{
    demo,
    simulator::{Simulator, SimulatorOptions},
    telemetry::{self, LogFormat},
};

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Address to serve on. Keep it on loopback: it is steered over HTTP by anyone who reaches it.
    #[arg(long, default_value = "127.0.0.1:8089")]
    listen: SocketAddr,
    /// Time that every answer takes.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Share of requests that fail at random, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    faults: f64,
    /// Seed of that chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    telemetry::init(LogFormat::Auto, "info", None);
    let options = SimulatorOptions {
        latency: args.latency,
        random_faults: args.faults,
        seed: args.seed,
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::bind(args.listen, options.clone())
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    for (name, value) in demo::point_to(&simulator, &options) {
        println!("{name}={value}");
    }
    let (stop, _) = super::stop_signals()?;
    simulator.serve(stop).await;
    Ok(ExitCode::SUCCESS)
}
