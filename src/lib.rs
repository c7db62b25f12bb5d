//! backend-worker: runs flashcard, speech and vision jobs from Redis queues, and loses none.
//!
//! This crate runs the jobs; the crate `jobs` defines them. ARCHITECTURE.md gives an overview.
//!
//! # Layout
//! - [`cli`]: the commands; `main` only dispatches to it.
//! - [`config`]: the only reader of the environment.
//! - [`replica`]: one replica, wired from the configuration: brokers, workers, HTTP.
//! - [`queue`]: the traits of a queue and the layouts behind them.
//! - [`worker`]: the apalis backend, its loops, the ack layer, outcomes, drain.
//! - [`media_helper`]: the processes in which untrusted recordings and images are decoded.
//! - [`deduplication`]: jobs that ask for the same are paid for once.
//! - [`guard`] and [`retry`]: admission, retries and records of every provider call.
//! - [`spend_ledger`]: the answers that were paid for; [`spending`]: prices, costs and budgets.
//! - [`suspects`]: runs jobs that may have killed a replica apart from the others.
//! - [`dialects`]: the request parameters that a deployment takes, shared by the fleet.
//! - [`gate`]: breakers and limits that all replicas share. [`ratelimit`]: how often one user may ask.
//! - [`check`]: finds the problems of a deployment.
//! - [`operator`]: what an operator can ask and do; [`http_api`] offers it over HTTP, [`cli`] in a shell.
//! - [`migrate`]: what was changed in the keyspace since the first version.
//! - [`model_shutdown`]: the day on which a provider shuts down the flashcards' model, or the service that reads images.
//! - [`telemetry`]: logs and counters, written by all; [`monitor`]: metrics and alerts, read from them.
//! - [`unserved_queues`]: jobs that wait where no worker looks.
//! - [`watchdog`]: ends the process when a loop is wedged.
//! - [`connection`], `deadline`, [`script`], [`redis_error`] and [`keys`]: Redis, how long its answers may take, how
//!   scripts run there, what its errors mean, and the name of every key.
//! - [`demo`]: a show of it all, with the providers' protocols of the crate [`simulator`].

pub mod check;
pub mod cli;
pub mod config;
pub mod connection;
mod container_memory;
mod deadline;
pub mod deduplication;
pub mod demo;
pub mod dialects;
#[cfg(test)]
mod docs;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/worker.rs"]
pub mod fuzzing;
pub mod gate;
mod group_commit;
pub mod guard;
pub mod http_api;
pub mod keys;
mod locks;
pub mod media_helper;
pub mod migrate;
pub mod model_shutdown;
pub mod monitor;
pub mod operator;
pub mod queue;
pub mod ratelimit;
pub mod redis_error;
pub mod replica;
pub mod retry;
pub mod script;
pub mod spend_ledger;
pub mod spending;
pub mod suspects;
pub mod telemetry;
mod time_format;
pub mod unserved_queues;
pub mod watchdog;
pub mod worker;

/// The crate `simulator`, for the tests, the benchmarks and the examples.
pub use ::simulator;
