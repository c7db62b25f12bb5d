//! The answer of `GET /metrics`.

use std::sync::{Arc, atomic::Ordering};

use jobs::{AccountFault, CalledService, JobType};
use strum::VariantArray;

use super::{FleetReading, process};
use crate::{
    gate::{
        Reason, State,
        counters::{BreakerScope, COUNTERS},
    },
    operator::Operator,
    spend_ledger::{LedgerTotals, SpendLedger},
    spending::Usd,
    telemetry::metrics::{
        PROCESS,
        exposition::Exposition,
        families,
        labels::{Answer, JobClass, JobLabel, JobOutcome, RedisFault, WebhookResult},
    },
    worker::QueueWorker,
};

/// Writes everything; without a reading, what this replica knows by itself.
pub(super) fn write(
    workers: &[Arc<QueueWorker>],
    operator: &Operator,
    ledger: Option<&SpendLedger>,
    reading: Option<&FleetReading>,
) -> String {
    let mut text = Exposition::default();
    text.sample(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    jobs(&mut text, workers);
    let services = operator.services();
    calls(&mut text, &services);
    webhook(&mut text);
    if let Some(ledger) = ledger {
        spending(&mut text, ledger.spending());
    }
    gates(&mut text, operator, &services);
    redis(&mut text, &services);
    text.sample(&families::REDIS_UP, &[], f64::from(u8::from(reading.is_some())));
    if let Some(reading) = reading {
        fleet(&mut text, reading);
    }
    process::write(&mut text);
    text.finish()
}

fn jobs(text: &mut Exposition, workers: &[Arc<QueueWorker>]) {
    // Family by family: the samples of one stand together.
    let each = |write: &mut dyn FnMut(&QueueWorker, &str, &str)| {
        for worker in workers {
            write(worker, worker.broker().queue(), worker.broker().layout().as_str());
        }
    };
    each(&mut |worker, queue, layout| {
        for (label, of_type) in JobLabel::all().zip(&worker.health().cells().jobs) {
            for (outcome, of_outcome) in JobOutcome::VARIANTS.iter().zip(of_type) {
                for (class, counter) in JobClass::all().zip(of_outcome) {
                    let values = [queue, layout, label.as_str(), outcome.into_str(), class.as_str()];
                    text.counter_if_any(&families::JOBS, &values, counter);
                }
            }
        }
    });
    each(&mut |worker, queue, layout| {
        for (label, counter) in JobLabel::all().zip(&worker.health().cells().retried) {
            text.counter(&families::RETRIED, &[queue, layout, label.as_str()], counter);
        }
    });
    each(&mut |worker, queue, layout| {
        for (label, histogram) in JobLabel::all().zip(&worker.health().cells().seconds) {
            if !histogram.is_empty() {
                text.histogram(
                    &families::JOB_SECONDS,
                    &[queue, layout, label.as_str()],
                    histogram,
                );
            }
        }
    });
    each(&mut |worker, queue, layout| {
        for (fate, counter) in ["requeued", "poisoned"]
            .iter()
            .zip(&worker.health().cells().recovered)
        {
            text.counter(&families::RECOVERED, &[queue, layout, fate], counter);
        }
    });
    each(&mut |worker, queue, layout| {
        text.sample(
            &families::IN_FLIGHT,
            &[queue, layout],
            worker.slots().len() as f64,
        );
    });
    each(&mut |worker, queue, layout| {
        text.sample(
            &families::SLOTS,
            &[queue, layout],
            worker.slots().capacity() as f64,
        );
    });
}

fn calls(text: &mut Exposition, services: &[CalledService]) {
    for (service, of_provider) in counted(services, &PROCESS.calls) {
        for (class, of_class) in JobClass::all().zip(of_provider) {
            for (answer, counter) in Answer::VARIANTS.iter().zip(of_class) {
                let values = [service.name(), class.as_str(), answer.into_str()];
                text.counter_if_any(&families::CALLS, &values, counter);
            }
        }
    }
    for (service, histogram) in counted(services, &PROCESS.call_seconds) {
        text.histogram(&families::CALL_SECONDS, &[service.name()], histogram);
    }
    for (service, of_provider) in counted(services, &PROCESS.retries) {
        for (class, counter) in JobClass::all().zip(of_provider) {
            text.counter_if_any(&families::RETRIES, &[service.name(), class.as_str()], counter);
        }
    }
    for (service, histogram) in counted(services, &PROCESS.retry_delay) {
        text.histogram(&families::RETRY_DELAY, &[service.name()], histogram);
    }
    for (service, of_provider) in counted(services, &PROCESS.spent) {
        for (certainty, counter) in ["certain", "possible"].iter().zip(of_provider) {
            let usd = Usd::from_nanos(counter.get()).dollars();
            text.sample(&families::SPENT, &[service.name(), certainty], usd);
        }
    }
    for (kind, of_type) in JobType::ALL.iter().zip(&PROCESS.deduplicated) {
        for (how, counter) in families::DEDUPLICATED_AS.iter().zip(of_type) {
            text.counter(&families::DEDUPLICATED, &[kind.as_str(), how], counter);
        }
    }
    for (kind, counter) in JobType::ALL.iter().zip(&PROCESS.saved) {
        let usd = Usd::from_nanos(counter.get()).dollars();
        text.sample(&families::SAVED, &[kind.as_str()], usd);
    }
    for (family, counters) in [
        (&families::PAID_CALLS, &PROCESS.paid_calls),
        (&families::UNPRICED_CALLS, &PROCESS.unpriced_calls),
        (&families::USELESS_ANSWERS, &PROCESS.useless_answers),
        (&families::TOKENS, &PROCESS.tokens),
    ] {
        for (service, counter) in counted(services, counters) {
            text.counter(family, &[service.name()], counter);
        }
    }
}

/// The services, each with its count.
fn counted<'a, T>(
    services: &'a [CalledService],
    counts: &'a [T; CalledService::COUNT],
) -> impl Iterator<Item = (&'a CalledService, &'a T)> {
    services
        .iter()
        .map(|service| (service, &counts[service.number()]))
}

fn webhook(text: &mut Exposition) {
    for (result, counter) in WebhookResult::VARIANTS.iter().zip(&PROCESS.usage_webhook) {
        text.counter(&families::USAGE_WEBHOOK, &[result.into_str()], counter);
    }
}

fn spending(text: &mut Exposition, spending: LedgerTotals) {
    let LedgerTotals {
        sent,
        reused,
        unknown,
        resent,
        unrecorded,
    } = spending;
    for (event, count) in [
        ("sent", sent),
        ("reused", reused),
        ("unknown", unknown),
        ("resent", resent),
        ("unrecorded", unrecorded),
    ] {
        text.sample(&families::LEDGER, &[event], count as f64);
    }
}

fn gates(text: &mut Exposition, operator: &Operator, services: &[CalledService]) {
    for service in services {
        for scope in BreakerScope::ALL {
            let values = [service.name(), scope.as_str()];
            text.counter(
                &families::ADMISSIONS,
                &values,
                COUNTERS.admissions(service, scope),
            );
        }
    }
    for service in services {
        for reason in Reason::VARIANTS {
            let values = [service.name(), reason.into_str()];
            text.counter(
                &families::REJECTIONS,
                &values,
                COUNTERS.rejections(service, *reason),
            );
        }
    }
    for (breaker, services) in operator.breaker_names() {
        for to in State::VARIANTS {
            for scope in BreakerScope::ALL {
                let of = |service: &&CalledService| COUNTERS.transitions(service, *to, scope).get();
                let moves: u64 = services.iter().map(of).sum();
                let values = [breaker, to.into_str(), scope.as_str()];
                text.sample(&families::TRANSITIONS, &values, moves as f64);
            }
        }
    }
}

fn redis(text: &mut Exposition, services: &[CalledService]) {
    text.histogram(&families::REDIS_SECONDS, &[], &PROCESS.redis_seconds);
    for (fault, counter) in RedisFault::VARIANTS.iter().zip(&PROCESS.redis_errors) {
        text.counter(&families::REDIS_ERRORS, &[fault.into_str()], counter);
    }
    text.counter(&families::REDIS_RECONNECTS, &[], &PROCESS.redis_reconnects);
    text.counter(&families::HTTP_DENIED, &[], &PROCESS.http_denied);
    for (service, day) in counted(services, &PROCESS.model_shutdown) {
        let day = day.load(Ordering::Relaxed);
        if day > 0 {
            text.sample(&families::MODEL_SHUTDOWN, &[service.name()], day as f64);
        }
    }
    for (fate, counter) in ["exported", "dropped"].iter().zip(&PROCESS.trace_spans) {
        text.counter(&families::TRACE_SPANS, &[fate], counter);
    }
}

/// The fleet's figures, which every replica reports alike.
fn fleet(text: &mut Exposition, reading: &FleetReading) {
    queues(text, reading);
    money(text, reading);
    breakers(text, reading);
    limits(text, reading);
}

fn queues(text: &mut Exposition, reading: &FleetReading) {
    for queue in &reading.queues {
        let counts = &queue.counts;
        for (state, count) in [
            ("waiting", counts.waiting),
            ("active", counts.active),
            ("completed", counts.completed),
            ("failed", counts.failed),
            ("delayed", counts.delayed),
        ] {
            let values = [&queue.queue, queue.layout.as_str(), state];
            text.sample(&families::QUEUE_JOBS, &values, count as f64);
        }
    }
    for queue in &reading.queues {
        let values = [queue.queue.as_str(), queue.layout.as_str()];
        text.sample(&families::QUEUE_OLDEST, &values, queue.oldest.as_secs_f64());
    }
}

fn money(text: &mut Exposition, reading: &FleetReading) {
    if let Some(money) = &reading.money {
        for (period, used) in [("day", &money.day), ("month", &money.month)] {
            if let Some(percent) = used.percent {
                text.sample(&families::BUDGET_USED, &[period], percent as f64 / 100.0);
            }
        }
        let is_on = f64::from(u8::from(money.kill_switch));
        text.sample(&families::KILL_SWITCH, &[], is_on);
    }
    if let Some(webhook) = &reading.webhook {
        for (family, value) in [
            (&families::WEBHOOK_WAITING, webhook.waiting as f64),
            (&families::WEBHOOK_OLDEST, webhook.oldest_ms as f64 / 1000.0),
            (&families::WEBHOOK_REFUSED, webhook.refused as f64),
        ] {
            text.sample(family, &[], value);
        }
    }
}

fn breakers(text: &mut Exposition, reading: &FleetReading) {
    let breakers = reading.breakers();
    for breaker in &breakers {
        for state in State::VARIANTS {
            let is = f64::from(u8::from(breaker.state == *state));
            text.sample(&families::BREAKER_STATE, &[&breaker.name, state.into_str()], is);
        }
    }
    for breaker in &breakers {
        let since = breaker
            .not_closed_since
            .map_or(0, |since| reading.now.saturating_sub(since));
        text.sample(&families::BREAKER_DOWN, &[&breaker.name], since as f64 / 1000.0);
    }
    for breaker in &breakers {
        for fault in AccountFault::ALL {
            let is = f64::from(u8::from(breaker.account_fault == Some(fault)));
            text.sample(&families::ACCOUNT_FAULT, &[&breaker.name, fault.as_str()], is);
        }
    }
}

fn limits(text: &mut Exposition, reading: &FleetReading) {
    let limits = reading.gates.iter().flat_map(|gate| {
        let provider = gate.name();
        let limits = &gate.limits;
        [
            (
                provider,
                "concurrent",
                limits.max_concurrent.map(|n| n.get() as f64),
                gate.in_flight,
            ),
            (
                provider,
                "requests_per_minute",
                limits.requests_per_minute.map(|n| n.get() as f64),
                gate.requests,
            ),
            (
                provider,
                "tokens_per_minute",
                limits.tokens_per_minute.map(|n| n.get() as f64),
                gate.tokens,
            ),
        ]
    });
    for (provider, limit, most, _) in limits.clone() {
        if let Some(most) = most {
            text.sample(&families::LIMIT, &[provider, limit], most);
        }
    }
    for (provider, limit, _, used) in limits {
        text.sample(&families::LIMIT_USED, &[provider, limit], used as f64);
    }
}
