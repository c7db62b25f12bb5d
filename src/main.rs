//! The binary: dispatches to the command line.

use std::process::ExitCode;

/// A job is some hundred small allocations: a fifth of its CPU time, with the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    backend_worker::cli::main()
}
