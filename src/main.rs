//! The binary: dispatches to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    backend_worker::cli::main()
}
