//! What the worker tells of itself while it works. Who asks for it is served by [`crate::monitor`].
//!
//! # Layout
//! - [`logs`]: one line an event on stdout.
//! - [`metrics`]: counters that the work leaves behind, and the table of every metric.

pub mod logs;
pub mod metrics;

pub use logs::{LogFormat, init};
