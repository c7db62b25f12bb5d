//! The binary as an operator runs it: processes, signals, exit codes, HTTP.

mod ends;
mod service;
mod shell;
