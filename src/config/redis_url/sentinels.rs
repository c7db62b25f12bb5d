//! URLs of Sentinels: `redis+sentinel://user:password@host:26379,host:26379/name/0`, and the forms of other clients.

use secrecy::SecretString;

use super::{RedisUrl, read_server};
use crate::connection::Sentinels;

const DEFAULT_PORT: u16 = 26379;
const EXAMPLE: &str = "such as redis+sentinel://default:password@host1:26379,host2:26379,host3:26379/mymaster/0; rediss+sentinel:// \
    with TLS; ?sentinelPassword=… where the Sentinels want one";

/// Reads a URL of Sentinels; `None` for any other.
pub(super) fn read(text: &str) -> Option<Result<(RedisUrl, Option<String>), String>> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_tls = match scheme.as_str() {
        "redis+sentinel" | "redis-sentinel" | "sentinel" | "valkey+sentinel" => false,
        "rediss+sentinel" | "rediss-sentinel" | "valkeys+sentinel" => true,
        _ => return None,
    };
    Some(parts(rest, is_tls))
}

fn parts(rest: &str, is_tls: bool) -> Result<(RedisUrl, Option<String>), String> {
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut sentinels = Sentinels {
        hosts: hosts
            .split(',')
            .map(|text| host(text, DEFAULT_PORT))
            .collect::<Option<_>>()
            .ok_or_else(|| fault("hosts with their ports"))?,
        service: decoded(fragment),
        username: None,
        password: None,
    };
    let mut options = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name.to_ascii_lowercase() {
            "sentinelmasterid" | "mastername" | "master" | "service_name" => {
                sentinels.service = value.into_owned();
            }
            "sentinelpassword" | "sentinel_password" => {
                sentinels.password = Some(SecretString::from(value.into_owned()));
            }
            "sentinelusername" | "sentinel_username" => sentinels.username = Some(value.into_owned()),
            _ => options.push((name.into_owned(), value.into_owned())),
        }
    }
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut database = segments.next().unwrap_or_default();
    if sentinels.service.is_empty() {
        sentinels.service = decoded(database);
        database = segments.next().unwrap_or_default();
    }
    let is_number = database.bytes().all(|b| b.is_ascii_digit());
    if sentinels.service.is_empty() || !is_number || segments.next().is_some() {
        return Err(fault("the name that they give the primary, and its database"));
    }
    // The host stands for the primary, whose address the Sentinels know.
    let scheme = if is_tls { "rediss" } else { "redis" };
    let at = if user.is_empty() { "" } else { "@" };
    let mut server = format!("{scheme}://{user}{at}primary/{database}");
    if !options.is_empty() {
        let options = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(options)
            .finish();
        server = format!("{server}?{options}");
    }
    let (url, told) = read_server(&server)?;
    let url = RedisUrl {
        url: url.into(),
        sentinels: Some(sentinels),
        seeds: Vec::new(),
    };
    Ok((url, told))
}

fn fault(missing: &str) -> String {
    format!("a URL of Sentinels with {missing}, {EXAMPLE}")
}

/// A name without its percent-encoding.
fn decoded(text: &str) -> String {
    let text = text.replace('+', "%2B");
    let pairs = url::form_urlencoded::parse(text.as_bytes());
    pairs
        .map(|(name, _)| name.into_owned())
        .next()
        .unwrap_or_default()
}

/// `host`, `host:port`, `[address]:port`.
pub(super) fn host(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, default_port),
    };
    let host = host.trim_matches(['[', ']']);
    (!host.is_empty() && !host.contains(char::is_whitespace)).then(|| (host.to_owned(), port))
}
