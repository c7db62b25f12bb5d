//! The integration tests, one binary: real redis-servers, real sockets, real processes.
//!
//! Tests run in parallel, each with a Redis of its own, and wait for conditions. What takes time is bounded by
//! [`support::PATIENCE`], never measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test reports a fault by a panic"
)]

mod access;
mod apalis_layout;
mod bridged_outages;
mod broker_contract;
mod bullmq_fleet;
mod bullmq_flows;
mod bullmq_layout;
mod bullmq_node;
mod bullmq_outcomes;
mod bullmq_versions;
mod check;
mod cluster;
mod crowd;
mod cut_over;
mod dashboard;
mod deployments;
mod depth;
mod endpoints;
mod equal_jobs;
mod examples;
mod failover;
mod fair_line;
mod floods;
mod gate;
mod handlers;
mod hostile_inputs;
mod hostile_jobs;
mod hostile_media;
mod http_api;
mod idle;
mod job_events;
mod killers;
mod large_results;
mod ledger;
mod ledger_opening;
mod letters;
mod media_files;
mod memory;
mod migrate;
mod models;
mod monitor;
mod monitoring;
mod outages;
mod paid_calls;
mod poison;
mod private_contents;
mod process;
mod redis_tls;
mod replaced_worker;
mod round_trips;
mod runtime;
mod secrets;
mod sent_inputs;
mod sentinel;
mod spending;
mod spending_rules;
mod spool;
mod streaming;
mod suspects;
mod telemetry;
mod tiers;
mod traces;
mod unserved;
mod usage_webhook;
mod web_api;
mod wedged;

use test_support as support;
