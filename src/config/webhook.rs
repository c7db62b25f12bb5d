//! Where usage events are forwarded.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::SecretSlice;

use super::{reader::EnvReader, traces, vars};
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

pub(super) fn read(env: &mut EnvReader<'_>) -> Option<WebhookSettings> {
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
    match headers.iter().find(|(name, _)| RESERVED.contains(&name.as_str())) {
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
    let expected =
        "whsec_ and the base64 of 24 to 64 bytes (echo whsec_$(openssl rand -base64 32) makes one)";
    key.map(SecretSlice::from).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    const URL: (&str, &str) = ("USAGE_WEBHOOK_URL", "https://x.example/rpc/f?select=1");

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let find = |name: &str| {
            let pair = pairs.iter().find(|(key, _)| *key == name)?;
            Some(pair.1.to_owned())
        };
        Config::from_lookup(find).map_err(|error| error.to_string())
    }

    #[test]
    fn a_webhook_is_read_and_keeps_its_secrets() {
        let config = read(&[
            URL,
            ("USAGE_WEBHOOK_HEADERS", "apikey=abc,Authorization=Bearer%20abc"),
            ("USAGE_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            ("USAGE_WEBHOOK_BODY", r#"{"User": "{{student}}"}"#),
        ])
        .unwrap();
        let webhook = config.webhook.as_ref().unwrap();
        assert_eq!(
            (webhook.host(), webhook.url.query()),
            ("x.example", Some("select=1"))
        );
        assert_eq!(webhook.headers.len(), 2);
        assert!(webhook.secret.is_some() && webhook.template.is_some());
        let shown = format!("{} {config:?}", config.effective());
        for secret in ["Bearer", "MfKQ9r8", "x.example", "User\""] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        assert!(config.urls_in_the_clear().is_empty());
        let config = read(&[("USAGE_WEBHOOK_URL", "http://x.example/")]).unwrap();
        assert_eq!(config.urls_in_the_clear(), ["USAGE_WEBHOOK_URL"]);
        assert!(read(&[]).unwrap().webhook.is_none());
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        for (name, value, part) in [
            ("USAGE_WEBHOOK_URL", "ftp://x.example", "an http or https URL"),
            (
                "USAGE_WEBHOOK_URL",
                "https://user:pass@x.example",
                "without credentials",
            ),
            ("USAGE_WEBHOOK_SECRET", "abc", "whsec_ and the base64"),
            ("USAGE_WEBHOOK_SECRET", "whsec_YWJj", "whsec_ and the base64"),
            ("USAGE_WEBHOOK_HEADERS", "apikey", "name=value"),
            ("USAGE_WEBHOOK_HEADERS", "Host=x", "no header host"),
            ("USAGE_WEBHOOK_HEADERS", "Webhook-Id=x", "no header webhook-id"),
            ("USAGE_WEBHOOK_BODY", "{{student}}", "no JSON"),
            ("USAGE_WEBHOOK_TIMEOUT", "2m", "from 100ms to 1m"),
        ] {
            // The first pair of a name is read.
            let error = read(&[(name, value), URL]).map(|_| ()).unwrap_err();
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
    }
}
