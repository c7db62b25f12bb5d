//! The fuzz targets of `backend-worker`. Each file beside this one is a module of the parser that it feeds, so that it
//! sees the parser's private parts.

use hostile::Target;

use crate::{
    config::fuzz::ENVIRONMENT,
    http_api::fuzz::HTTP_REQUEST,
    queue::{
        apalis::fuzz::APALIS_META,
        bullmq::fuzz::{BULLMQ_EVENT, BULLMQ_JOB},
        fuzz::JOB_LIST,
    },
    spend_ledger::fuzz::LEDGER_ENTRY,
    telemetry::trace::fuzz::TRACEPARENT,
    worker::fuzz::DELIVERY,
};

/// Every target of this crate. The binary of `fuzz/` finds a target here by its name, and its seeds in
/// `fuzz/seeds/<name>`.
pub static TARGETS: &[&Target] = &[
    &APALIS_META,
    &BULLMQ_EVENT,
    &BULLMQ_JOB,
    &DELIVERY,
    &ENVIRONMENT,
    &HTTP_REQUEST,
    &JOB_LIST,
    &LEDGER_ENTRY,
    &TRACEPARENT,
];
