//! Untrusted media are decoded in processes of their own: the media helpers. Recordings are decoded; images are turned
//! upright and scaled down.
//!
//! A helper is this binary with the hidden subcommand `decode-media`. It inherits no environment and no file but three
//! pipes, confines itself before it reads its first byte, and decodes one recording after the other. A recording that
//! makes its decoder loop, overflow the stack or ask for too much memory costs that helper and that job, nothing else.
//!
//! # Layout
//! - `pool`: [`HelperPool`], the worker's side: hands media to helpers, ends and replaces them. `helper`: one of them.
//!   `limits`: their time and memory, and how many there are.
//! - `serve`: the helper's side.
//! - `sandbox`: what the helper gives up before it reads.
//! - `protocol`: what both sides say to each other. `verdict`: why a helper died.

mod helper;
mod limits;
mod pool;
mod protocol;
mod sandbox;
mod serve;
mod verdict;

pub use helper::{HelperError, HelperProgram};
pub use limits::HelperLimits;
pub use pool::HelperPool;
pub use sandbox::SandboxReport;
pub use serve::{HelperArgs, serve};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "decode-media";
