//! The destination of traces.

use axum::http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::{reader::Reader, vars};
use crate::telemetry::trace::TraceSettings;

pub(super) fn read(env: &mut Reader<'_>) -> Option<TraceSettings> {
    let service = env.parse(&vars::OTEL_SERVICE_NAME, |text| Ok(text.to_owned()));
    let headers = env.secret(&vars::OTEL_EXPORTER_OTLP_HEADERS);
    let headers = headers
        .map(|text| parse_headers(&text))
        .unwrap_or(Some(Vec::new()));
    let Some(headers) = headers else {
        return env.complain(
            &vars::OTEL_EXPORTER_OTLP_HEADERS,
            "must read name=value,name=value",
        );
    };
    let endpoint = env.optional_url(&vars::OTEL_EXPORTER_OTLP_ENDPOINT)?;
    Some(TraceSettings {
        endpoint,
        headers,
        service,
    })
}

/// `name=value`, separated by commas; `None` when it is anything else.
fn parse_headers(text: &SecretString) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let pairs = text.expose_secret().split(',').map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
    });
    pairs.collect()
}
