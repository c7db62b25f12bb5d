//! Enqueues a job from Rust with the stock `apalis-redis`, and waits for its result:
//! `cargo run --example enqueue_from_rust -- redis://127.0.0.1:6379`.
//!
//! A worker that serves `apalis:ai-jobs` has to run. The task is `{"type": …, "data": …}`; the JSON Schemas of all types lie in
//! `jobs/schemas`.
