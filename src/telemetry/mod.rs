//! Logs, traces and counters that the worker writes while it works. [`crate::monitor`] serves them to readers.
//!
//! # Layout
//! - [`logs`]: one line an event on stdout.
//! - [`panics`]: panics in the log, without the data that their messages quote.
//! - [`trace`]: spans for OpenTelemetry, where a collector is configured.
//! - [`metrics`]: counters that the work leaves behind, and the table of every metric.

pub mod logs;
pub mod metrics;
pub mod panics;
pub mod trace;

pub use logs::{LogFormat, init};
