//! How spans are traced, and where they are sent: the variables of OpenTelemetry's specification.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use opentelemetry_sdk::trace::Sampler;
use url::Url;

use super::{
    reader::EnvReader,
    vars::{self, EnvVar},
};
use crate::telemetry::trace::{ExportQueue, TraceSettings};

/// Where a collector takes traces, below its base URL.
const PATH: &str = "/v1/traces";

pub(super) fn read(env: &mut EnvReader<'_>) -> Option<TraceSettings> {
    let is_disabled = env.switch(&vars::OTEL_SDK_DISABLED);
    let is_exported = env.parse(&vars::OTEL_TRACES_EXPORTER, |text| match text {
        "otlp" => Ok(true),
        "none" => Ok(false),
        _ => Err("otlp or none".to_owned()),
    });
    let endpoint = endpoint(env);
    for var in [
        &vars::OTEL_EXPORTER_OTLP_PROTOCOL,
        &vars::OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    ] {
        env.optional(var, |text| match text {
            "http/protobuf" => Ok(()),
            _ => Err("http/protobuf, the one protocol that is built in".to_owned()),
        });
    }
    let headers = signal(
        env,
        &vars::OTEL_EXPORTER_OTLP_TRACES_HEADERS,
        &vars::OTEL_EXPORTER_OTLP_HEADERS,
        parse_headers,
    );
    let timeout = signal(
        env,
        &vars::OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
        &vars::OTEL_EXPORTER_OTLP_TIMEOUT,
        parse_milliseconds,
    );
    let is_compressed = signal(
        env,
        &vars::OTEL_EXPORTER_OTLP_TRACES_COMPRESSION,
        &vars::OTEL_EXPORTER_OTLP_COMPRESSION,
        |text| match text {
            "gzip" => Ok(true),
            "none" => Ok(false),
            _ => Err("gzip or none".to_owned()),
        },
    );
    let resource = env
        .optional(&vars::OTEL_RESOURCE_ATTRIBUTES, parse_pairs)
        .unwrap_or_default();
    let (sampler, queue) = (sampler(env), queue(env));
    let settings = TraceSettings {
        endpoint: endpoint?,
        headers: headers.unwrap_or_default(),
        timeout: timeout.unwrap_or(Duration::from_secs(10)),
        is_compressed: is_compressed.unwrap_or(false),
        service: service(env, &resource),
        resource,
        sampler,
        queue,
    };
    (is_exported && !is_disabled).then_some(settings)
}

/// A value for traces, or the one for all signals.
fn signal<T>(
    env: &mut EnvReader<'_>,
    traces: &EnvVar,
    all: &EnvVar,
    parse: impl Fn(&str) -> Result<T, String> + Copy,
) -> Option<T> {
    let of_traces = env.optional(traces, parse);
    let of_all = env.optional(all, parse);
    of_traces.or(of_all)
}

/// The URL for traces is taken as it is; the one for all signals is the base of theirs.
fn endpoint(env: &mut EnvReader<'_>) -> Option<Url> {
    let of_traces = env.optional_url(&vars::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT);
    let base = env.optional_url(&vars::OTEL_EXPORTER_OTLP_ENDPOINT);
    of_traces.or_else(|| {
        let mut url = base?;
        url.set_path(&format!("{}{PATH}", url.path().trim_end_matches('/')));
        Some(url)
    })
}

fn service(env: &mut EnvReader<'_>, resource: &[(String, String)]) -> String {
    let service = env.parse(&vars::OTEL_SERVICE_NAME, |text| Ok(text.to_owned()));
    if env.is_set(&vars::OTEL_SERVICE_NAME) {
        return service;
    }
    let named = resource.iter().find(|(name, _)| name == "service.name");
    named.map_or(service, |(_, value)| value.clone())
}

fn sampler(env: &mut EnvReader<'_>) -> Sampler {
    let ratio = env.parse(&vars::OTEL_TRACES_SAMPLER_ARG, |text| {
        let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.ok_or_else(|| "a number from 0 to 1".to_owned())
    });
    env.parse(&vars::OTEL_TRACES_SAMPLER, |text| {
        let (is_parent_based, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, text),
        };
        let root = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(ratio),
            _ => {
                return Err(
                    "always_on, always_off or traceidratio, or parentbased_ and one of these".to_owned(),
                );
            }
        };
        Ok(match is_parent_based {
            true => Sampler::ParentBased(Box::new(root)),
            false => root,
        })
    })
}

fn queue(env: &mut EnvReader<'_>) -> ExportQueue {
    let max_size = env.number(&vars::OTEL_BSP_MAX_QUEUE_SIZE, 1..=1_000_000);
    let batch_size = env.number(&vars::OTEL_BSP_MAX_EXPORT_BATCH_SIZE, 1..=100_000);
    ExportQueue {
        max_size,
        batch_size: batch_size.min(max_size),
        delay: env.parse(&vars::OTEL_BSP_SCHEDULE_DELAY, parse_milliseconds),
    }
}

fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|ms| (1..=600_000).contains(ms));
    let number = number.ok_or_else(|| "milliseconds, a whole number from 1 to 600000".to_owned());
    number.map(Duration::from_millis)
}

/// As [`parse_pairs`], for headers.
pub(super) fn parse_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let header = |(name, value): (String, String)| {
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
    };
    let read = parse_pairs(text)?.into_iter().map(header);
    read.collect::<Option<Vec<_>>>().ok_or_else(expected_pairs)
}

/// `name=value`, separated by commas, each percent-encoded or not, as the specification of OpenTelemetry has it.
fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let read = pairs.map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let trimmed = |text: &str| percent_decoded(text).map(|text| text.trim().to_owned());
        Some((trimmed(name).filter(|name| !name.is_empty())?, trimmed(value)?))
    });
    read.collect::<Option<Vec<_>>>().ok_or_else(expected_pairs)
}

fn expected_pairs() -> String {
    "name=value,name=value; a comma within a value is written as %2C".to_owned()
}

/// `None` for bytes that are no text. A percent sign that begins no triple stays.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| byte == b'%');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(code.unwrap_or(byte));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8(decoded).ok()
}
