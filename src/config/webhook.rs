//! Where usage events are forwarded.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::SecretSlice;

use super::{reader::Reader, traces, vars};
use crate::spending::webhook::{WebhookSettings, template::Template};

/// Headers that the worker writes itself, or that belong to the connection.
const RESERVED: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

pub(super) fn read(env: &mut Reader<'_>) -> Option<WebhookSettings> {
    let headers = env.optional(&vars::USAGE_WEBHOOK_HEADERS, parse_headers);
    let secret = env.optional(&vars::USAGE_WEBHOOK_SECRET, parse_secret);
    let template = env.optional(&vars::USAGE_WEBHOOK_BODY, Template::parse);
    let timeout = env.duration(
        &vars::USAGE_WEBHOOK_TIMEOUT,
        Duration::from_millis(100),
        Duration::from_secs(60),
    );
    Some(WebhookSettings {
        url: env.optional_url_with_query(&vars::USAGE_WEBHOOK_URL)?,
        headers: headers.unwrap_or_default(),
        secret,
        template,
        timeout,
    })
}

fn parse_headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let headers = traces::parse_headers(text)?;
    match headers
        .iter()
        .find(|(name, _)| RESERVED.contains(&name.as_str()))
    {
        Some((name, _)) => Err(format!("no header {name}, which the worker writes itself")),
        None => Ok(headers),
    }
}

/// `whsec_` and the base64 of the key, as Standard Webhooks write it.
fn parse_secret(text: &str) -> Result<SecretSlice<u8>, String> {
    let key = text
        .strip_prefix("whsec_")
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .filter(|key| (24..=64).contains(&key.len()));
    let expected = "whsec_ and the base64 of 24 to 64 bytes (echo whsec_$(openssl rand -base64 32) makes one)";
    key.map(SecretSlice::from).ok_or_else(|| expected.to_owned())
}
