//! Counters of the worker's events. A count costs one atomic addition, without lock or allocation: every label is an
//! enum, so each combination of labels has a fixed place. The registry is a `static` of arrays and needs no library,
//! because nothing is registered at run time.
//!
//! # Layout
//! - [`cells`]: counter and histogram.
//! - [`labels`]: the labels' values, as enums.
//! - [`families`]: the name, kind, labels and meaning of every metric; `docs/metrics.md` is written from it.
//! - [`exposition`]: Prometheus's text format.
//!
//! [`QueueCells`] holds the counters of one queue, [`PROCESS`] those of the process. The ledger has counters of its own
//! ([`crate::spend_ledger::LedgerTotals`]).

pub mod cells;
pub mod exposition;
pub mod families;
pub mod labels;

use std::sync::atomic::AtomicU64;

use jobs::{CalledService, FailureClass, JobType};
use strum::EnumCount;

use self::{
    cells::{Counter, Histogram},
    labels::{Answer, CellIndex, JobClass, JobLabel, JobOutcome, RedisFault, WebhookResult},
};

const SERVICES: usize = CalledService::COUNT;
const CLASSES: usize = JobClass::COUNT;

/// The counters of the whole process.
pub static PROCESS: ProcessCounters = ProcessCounters::new();

/// See [`PROCESS`].
#[derive(Debug)]
pub struct ProcessCounters {
    /// Tries of provider calls, by what came of them and what was answered.
    pub calls: [[[Counter; Answer::COUNT]; CLASSES]; SERVICES],
    /// How long they took.
    pub call_seconds: [Histogram; SERVICES],
    /// Waits before another try, by the class of the failure.
    pub retries: [[Counter; CLASSES]; SERVICES],
    /// How long those waits are.
    pub retry_delay: [Histogram; SERVICES],
    /// Tokens that providers have charged.
    pub tokens: [Counter; SERVICES],
    /// Replies that cost money.
    pub paid_calls: [Counter; SERVICES],
    /// The costs of calls, and the possible costs of calls whose answer was lost: billionths of a dollar.
    pub spent: [[Counter; 2]; SERVICES],
    /// Replies of models without a price.
    pub unpriced_calls: [Counter; SERVICES],
    /// Usage events on their way to the webhook.
    pub usage_webhook: [Counter; WebhookResult::COUNT],
    /// Jobs that were given the result of an equal one, and waits for one, by type.
    pub deduplicated: [[Counter; 2]; JobType::ALL.len()],
    /// The costs of results that were given to equal jobs: billionths of a dollar.
    pub saved: [Counter; JobType::ALL.len()],
    /// Replies that their jobs could not use.
    pub useless_answers: [Counter; SERVICES],
    /// How long Redis takes to answer.
    pub redis_seconds: Histogram,
    /// Calls to Redis that failed.
    pub redis_errors: [Counter; RedisFault::COUNT],
    /// Times that Redis was reached again.
    pub redis_reconnects: Counter,
    /// HTTP requests whose caller may not.
    pub http_denied: Counter,
    /// When the model, or the service, of each service shuts down, seconds since 1970; 0 where no day is known.
    pub model_shutdown: [AtomicU64; SERVICES],
    /// Spans that reached the collector, and those that were dropped.
    pub trace_spans: [Counter; 2],
}

impl ProcessCounters {
    const fn new() -> Self {
        Self {
            calls: [const { [const { [const { Counter::new() }; Answer::COUNT] }; CLASSES] }; SERVICES],
            call_seconds: [const { Histogram::new(&cells::CALLS) }; SERVICES],
            retries: [const { [const { Counter::new() }; CLASSES] }; SERVICES],
            retry_delay: [const { Histogram::new(&cells::WAITS) }; SERVICES],
            tokens: [const { Counter::new() }; SERVICES],
            paid_calls: [const { Counter::new() }; SERVICES],
            spent: [const { [const { Counter::new() }; 2] }; SERVICES],
            unpriced_calls: [const { Counter::new() }; SERVICES],
            usage_webhook: [const { Counter::new() }; WebhookResult::COUNT],
            deduplicated: [const { [const { Counter::new() }; 2] }; JobType::ALL.len()],
            saved: [const { Counter::new() }; JobType::ALL.len()],
            useless_answers: [const { Counter::new() }; SERVICES],
            redis_seconds: Histogram::new(&cells::REDIS),
            redis_errors: [const { Counter::new() }; RedisFault::COUNT],
            redis_reconnects: Counter::new(),
            http_denied: Counter::new(),
            model_shutdown: [const { AtomicU64::new(0) }; SERVICES],
            trace_spans: [const { Counter::new() }; 2],
        }
    }

    /// One try of a provider call has ended.
    pub fn called(
        &self,
        service: &CalledService,
        class: JobClass,
        answer: Answer,
        took: std::time::Duration,
    ) {
        self.calls[service.number()][class.index()][answer.index()].add(1);
        self.call_seconds[service.number()].observe(took);
    }

    /// A call is going to be tried again.
    pub fn retried(&self, service: &CalledService, class: FailureClass, delay: std::time::Duration) {
        self.retries[service.number()][JobClass(Some(class)).index()].add(1);
        self.retry_delay[service.number()].observe(delay);
    }
}

/// The counters of one queue's worker.
#[derive(Debug)]
pub struct QueueCells {
    /// Deliveries that ended, by job type, outcome and class of failure.
    pub jobs: [[[Counter; CLASSES]; JobOutcome::COUNT]; JobLabel::COUNT],
    /// Deliveries that ended after a second try, or were put off with an attempt used up.
    pub retried: [Counter; JobLabel::COUNT],
    /// How long a delivery took, from its claim to its outcome in Redis.
    pub seconds: [Histogram; JobLabel::COUNT],
    /// Jobs of dead replicas: put back, and failed as poison.
    pub recovered: [Counter; 2],
}

impl Default for QueueCells {
    fn default() -> Self {
        Self {
            jobs: Default::default(),
            retried: Default::default(),
            seconds: [const { Histogram::new(&cells::CALLS) }; JobLabel::COUNT],
            recovered: Default::default(),
        }
    }
}

impl QueueCells {
    /// Deliveries that ended so, of every type.
    pub fn ended(&self, outcome: JobOutcome, counts: impl Fn(JobClass) -> bool) -> u64 {
        let mut sum = 0;
        for of_type in &self.jobs {
            for (counter, class) in of_type[outcome.index()].iter().zip(JobClass::all()) {
                if counts(class) {
                    sum += counter.get();
                }
            }
        }
        sum
    }
}
