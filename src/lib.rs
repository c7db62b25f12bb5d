//! backend-worker: runs flashcard, speech and vision jobs from Redis queues, and loses none.
//!
//! This crate is how the work is run; what the work is stands in the crate `jobs`. ARCHITECTURE.md is the map.
//!
//! # Layout
//! - [`cli`]: the commands; `main` only dispatches to it.
//! - [`config`]: the only reader of the environment.
//! - [`replica`]: one replica, wired from the configuration: brokers, workers, HTTP.
//! - [`queue`]: the trait `Broker` and the layouts behind it.
//! - [`worker`]: the apalis backend, its loops, the ack layer, outcomes, drain.
//! - [`media_helper`]: the processes in which untrusted recordings are decoded.
//! - [`guard`] and [`retry`]: what stands around every provider call.
//! - [`gate`]: breakers and limits that all replicas share. [`ratelimit`]: how often one user may ask.
//! - [`check`]: what stands in the way of a deployment.
//! - [`operator`]: what an operator can ask and do; [`ops`] offers it over HTTP, [`cli`] in a shell.
//! - [`migrate`]: what was changed in the keyspace since the first version.
//! - [`telemetry`]: logs and counters, written by all; [`monitor`]: metrics and alerts, read from them.
//! - [`watchdog`]: ends the process when a loop is wedged.
//! - [`connection`] and [`keys`]: Redis, and the name of every key.
//! - [`simulator`] and [`demo`]: the providers' protocols without the providers, and a show of it all.

mod batch;
pub mod check;
pub mod cli;
pub mod config;
pub mod connection;
pub mod demo;
pub mod dialects;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gate;
pub mod guard;
pub mod keys;
pub mod ledger;
pub mod media_helper;
pub mod migrate;
pub mod monitor;
pub mod operator;
pub mod ops;
pub mod queue;
pub mod ratelimit;
pub mod replica;
pub mod retry;
pub mod simulator;
pub mod spending;
pub mod telemetry;
pub mod watchdog;
pub mod worker;
