//! The destination of traces.

use axum::http::{HeaderName, HeaderValue};

use super::{reader::EnvReader, vars};
use crate::telemetry::trace::TraceSettings;

pub(super) fn read(env: &mut EnvReader<'_>) -> Option<TraceSettings> {
    let service = env.parse(&vars::OTEL_SERVICE_NAME, |text| Ok(text.to_owned()));
    let headers = env
        .optional(&vars::OTEL_EXPORTER_OTLP_HEADERS, parse_headers)
        .unwrap_or_default();
    let endpoint = env.optional_url(&vars::OTEL_EXPORTER_OTLP_ENDPOINT)?;
    Some(TraceSettings {
        endpoint,
        headers,
        service,
    })
}

/// `name=value`, separated by commas, each percent-encoded or not, as the specification of OpenTelemetry has it.
pub(super) fn parse_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let expected = || "name=value,name=value; a comma within a value is written as %2C".to_owned();
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let read = pairs.map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let mut value = HeaderValue::from_str(percent_decoded(value)?.trim()).ok()?;
        value.set_sensitive(true);
        let name = percent_decoded(name)?;
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
    });
    read.collect::<Option<Vec<_>>>().ok_or_else(expected)
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
