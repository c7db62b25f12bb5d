//! The parsers of foreign data in this crate, for `fuzz/` and the tests. Each property is defined beside its
//! parser, in a module `fuzz`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

pub use crate::{
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

#[cfg(test)]
mod tests {
    macro_rules! fixed_runs {
        ($($test:ident: $target:ident,)*) => {$(
            #[test]
            fn $test() {
                super::$target.run();
            }
        )*};
    }

    fixed_runs! {
        environments: ENVIRONMENT,
        ledger_entries: LEDGER_ENTRY,
        http_requests: HTTP_REQUEST,
        apalis_metas: APALIS_META,
        bullmq_events: BULLMQ_EVENT,
        bullmq_jobs: BULLMQ_JOB,
        job_lists: JOB_LIST,
        traceparents: TRACEPARENT,
        deliveries: DELIVERY,
    }
}
