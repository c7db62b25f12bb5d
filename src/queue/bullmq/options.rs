//! Reads the options of a job from its `opts`. A producer can write anything there: an invalid value counts as missing,
//! and unknown options are ignored.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    keys::IDEMPOTENCY_PREFIX,
    queue::{QueueBackoff, ServiceTier, job::producer_key},
    telemetry::trace::TraceContext,
};

/// The options that the worker goes by. The scripts read further ones themselves: retention, log length, order.
#[derive(Debug, PartialEq)]
pub(super) struct JobOptions {
    /// How often the job may be tried, from 1.
    pub(super) max_attempts: u32,
    /// How the tries are spaced; `None` where the producer does not say.
    pub(super) backoff: Option<QueueBackoff>,
    /// The trace that the producer was in: BullMQ writes its telemetry's metadata as `tm`.
    pub(super) trace: Option<TraceContext>,
    /// The key under which equal jobs find each other.
    pub(super) key: Option<Arc<str>>,
    /// The tier of the provider, as `serviceTier`.
    pub(super) tier: Option<ServiceTier>,
    pub(super) priority: u32,
}

impl JobOptions {
    pub(super) fn read(json: &[u8]) -> Self {
        let options: Value = serde_json::from_slice(json).unwrap_or_default();
        Self {
            // A float to u32 saturates: a billion attempts are as good as any number.
            max_attempts: number(&options["attempts"]).map_or(1, |n| n.max(1.0) as u32),
            backoff: backoff(&options["backoff"]),
            trace: trace(&options),
            // No other key is this worker's to read or write.
            key: options["idempotencyKey"]
                .as_str()
                .filter(|key| key.starts_with(IDEMPOTENCY_PREFIX))
                .and_then(producer_key),
            tier: options["serviceTier"].as_str().and_then(ServiceTier::named),
            priority: number(&options["priority"]).map_or(0, |n| n as u32),
        }
    }
}

/// The metadata is a text of the producer's own making: in practice JSON of W3C headers.
fn trace(options: &Value) -> Option<TraceContext> {
    let metadata = options["tm"]
        .as_str()
        .or_else(|| options["telemetry"]["metadata"].as_str())?;
    let headers: Value = serde_json::from_str(metadata).ok()?;
    TraceContext::parse(headers["traceparent"].as_str()?)
}

/// Any type that is not `exponential` waits the same each time: a strategy of the producer's own cannot be known here.
fn backoff(value: &Value) -> Option<QueueBackoff> {
    let (exponential, jitter, delay) = match value {
        Value::Object(fields) => (
            fields.get("type").is_some_and(|kind| kind == "exponential"),
            fields.get("jitter"),
            fields.get("delay"),
        ),
        plain => (false, None, Some(plain)),
    };
    Some(QueueBackoff {
        delay_ms: delay.and_then(number)?,
        exponential,
        jitter: jitter.and_then(number).unwrap_or(0.0),
    })
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|n: &f64| n.is_finite() && *n >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> JobOptions {
        JobOptions::read(json.as_bytes())
    }

    fn backoff_of(json: &str) -> QueueBackoff {
        read(json).backoff.unwrap()
    }

    #[test]
    fn options_are_what_the_producer_wrote() {
        assert_eq!(read(r#"{"attempts":3}"#).max_attempts, 3);
        let backoff = backoff_of(
            r#"{"attempts":5,"backoff":{"type":"exponential","delay":1000.5,"jitter":0.25},"idempotencyKey":"x"}"#,
        );
        assert_eq!(
            (backoff.delay_ms, backoff.exponential, backoff.jitter),
            (1000.5, true, 0.25)
        );
        let backoff = backoff_of(r#"{"backoff":{"type":"fixed","delay":70}}"#);
        assert_eq!((backoff.delay_ms, backoff.exponential), (70.0, false));
        assert_eq!(backoff_of(r#"{"backoff":500}"#).delay_ms, 500.0);
        assert!(!backoff_of(r#"{"backoff":{"type":"my-own","delay":7}}"#).exponential);
    }

    #[test]
    fn the_producers_trace_is_found() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let metadata = serde_json::json!({ "traceparent": parent }).to_string();
        for options in [
            serde_json::json!({ "tm": metadata }),
            serde_json::json!({ "telemetry": { "metadata": metadata } }),
        ] {
            assert_eq!(read(&options.to_string()).trace.unwrap().to_string(), parent);
        }
        for nonsense in [
            r#"{"tm":7}"#,
            r#"{"tm":"x"}"#,
            r#"{"tm":"{}"}"#,
            r#"{"tm":"{\"traceparent\":\"00-1-2-3\"}"}"#,
        ] {
            assert_eq!(read(nonsense).trace, None, "{nonsense}");
        }
    }

    #[test]
    fn the_tier_and_the_priority_are_read() {
        let of = |json: &str| (read(json).tier, read(json).priority);
        assert_eq!(
            of(r#"{"serviceTier":"flex","priority":7}"#),
            (Some(ServiceTier::Flex), 7)
        );
        assert_eq!(
            of(r#"{"serviceTier":"default"}"#),
            (Some(ServiceTier::Standard), 0)
        );
        assert_eq!(of(r#"{"serviceTier":"turbo","priority":-3}"#), (None, 0));
    }

    #[test]
    fn nonsense_reads_as_nothing() {
        let nothing = JobOptions {
            max_attempts: 1,
            backoff: None,
            trace: None,
            key: None,
            tier: None,
            priority: 0,
        };
        for json in [
            "",
            "{",
            "[]",
            "7",
            "{}",
            r#"{"attempts":0}"#,
            r#"{"attempts":-4,"backoff":-1}"#,
            r#"{"attempts":null,"backoff":null}"#,
            r#"{"attempts":{},"backoff":{}}"#,
            r#"{"attempts":"many","backoff":{"delay":"long","type":3,"jitter":[]}}"#,
        ] {
            assert_eq!(read(json), nothing, "{json}");
        }
        assert_eq!(read(r#"{"attempts":2.9}"#).max_attempts, 2);
        assert_eq!(read(r#"{"attempts":1e300}"#).max_attempts, u32::MAX);
    }
}
