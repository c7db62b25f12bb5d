//! Malformed jobs, put into real queues with raw commands: hashes, metas, payloads and logs derived from the fuzz
//! targets' seeds, the same ones each time.

mod bad;
mod operations;
mod replica;
