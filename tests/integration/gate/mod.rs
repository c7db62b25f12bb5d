//! The gate at work: replicas as processes, driven and watched over HTTP, as the manual tests of the customer's
//! document describe it.

mod account;
mod blame;
mod breaker;
mod intake;
mod limits;
mod shell;

use crate::support::{ADMIN_TOKEN, cards};

const GATED: &[(&str, &str)] = &[
    ("ADMIN_TOKEN", ADMIN_TOKEN),
    ("QUEUES", "ai-jobs=4,audio-jobs=2,vision-jobs=2"),
    ("OPENAI_BREAKER_OPEN_FOR", "3s"),
];
