//! Redis URLs as the clients of other languages and hosting panels write them.

mod nodes;
mod sentinels;

use secrecy::SecretString;
use url::Url;

use crate::connection::{Node, Sentinels};

/// A URL as it was read.
#[derive(Debug)]
pub(super) struct RedisUrl {
    /// The server's, which the Redis client understands. Behind Sentinels its host stands for the primary.
    pub(super) url: SecretString,
    /// The Sentinels that know the primary.
    pub(super) sentinels: Option<Sentinels>,
    /// Further nodes of a cluster.
    pub(super) seeds: Vec<Node>,
}

/// Options of other clients that this one needs no word for: it has its own time-outs, reconnects by itself, and finds
/// either family of addresses.
const LEFT_OUT: &[&str] = &[
    "family",
    "keepalive",
    "lazyconnect",
    "enablereadycheck",
    "enableofflinequeue",
    "maxretriesperrequest",
    "connecttimeout",
    "connect_timeout",
    "timeout",
    "socket_timeout",
    "socket_connect_timeout",
    "commandtimeout",
    "retry_on_timeout",
    "health_check_interval",
    "max_connections",
    "pool_size",
    "poolsize",
    "connection_limit",
    "decode_responses",
    "encoding",
    "addr",
    "idle_timeout",
    "dial_timeout",
    "read_timeout",
    "write_timeout",
    "client_name",
    "clientname",
    "name",
    "ssl_check_hostname",
    "virtual_host",
    "minpoolsize",
    "maxpoolsize",
    "max_idle_conns",
    "min_idle_conns",
    "pool_timeout",
    "max_retries",
    "maxretries",
    "max_retry_backoff",
    "min_retry_backoff",
    "retrydelay",
    "retry_delay",
    "retry_on_error",
    "reconnectonerror",
    "autoresubscribe",
    "autoresendunfulfilledcommands",
    "enableautopipelining",
    "showfriendlyerrorstack",
    "nodelay",
    "socket_keepalive",
    "single_connection_client",
    "decode_response",
    "errors",
    "persistent",
    "read_write_timeout",
    "resolveip",
];

/// Options of other clients whose meaning would be lost, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("ssl_ca_certs", "REDIS_CA_FILE names the authority"),
    ("ssl_ca_path", "REDIS_CA_FILE names the authority"),
    ("ssl_ca_data", "REDIS_CA_FILE names a file with the authority"),
    ("sslrootcert", "REDIS_CA_FILE names the authority"),
    ("ca", "REDIS_CA_FILE names the authority"),
    ("cafile", "REDIS_CA_FILE names the authority"),
    ("ssl_certfile", "certificates of clients are not supported"),
    ("ssl_keyfile", "certificates of clients are not supported"),
    ("sslcert", "certificates of clients are not supported"),
    ("sslkey", "certificates of clients are not supported"),
    ("cert", "certificates of clients are not supported"),
    ("key", "certificates of clients are not supported"),
    ("skip_verify", "REDIS_TLS_INSECURE=on accepts any certificate"),
    ("tlsskipverify", "REDIS_TLS_INSECURE=on accepts any certificate"),
    (
        "allowinvalidcertificates",
        "REDIS_TLS_INSECURE=on accepts any certificate",
    ),
    (
        "checkservername",
        "REDIS_TLS_INSECURE=on accepts any certificate, for any host",
    ),
    ("insecure", "REDIS_TLS_INSECURE=on accepts any certificate"),
    (
        "keyprefix",
        "BULLMQ_PREFIX names the prefix of BullMQ's keys; a prefix of ioredis hides them from BullMQ too",
    ),
    (
        "sentinelmasterid",
        "redis+sentinel://host:26379,host:26379/name is the URL of Sentinels",
    ),
    (
        "service_name",
        "redis+sentinel://host:26379,host:26379/name is the URL of Sentinels",
    ),
    (
        "prefix",
        "BULLMQ_PREFIX names the prefix of BullMQ's keys; a prefix of the client hides them from BullMQ too",
    ),
    ("cluster", "REDIS_CLUSTER_TAG serves a Redis Cluster"),
    ("clustermode", "REDIS_CLUSTER_TAG serves a Redis Cluster"),
    ("replicaset", "it is an option of another database"),
    (
        "sslmode",
        "it is an option of another database: rediss:// switches TLS on",
    ),
    ("readonly", "the worker writes: it needs the primary"),
    ("readfrom", "the worker writes: it needs the primary"),
];

/// A URL that the Redis client understands, and what was left out of it.
///
/// # Errors
/// The requirement that the value does not meet. It quotes no part of the value, which may hold a password.
pub(super) fn read(text: &str) -> Result<(RedisUrl, Option<String>), String> {
    if let Some(read) = sentinels::read(text) {
        return read;
    }
    let (text, seeds) = nodes::apart(text)?;
    let (url, told) = read_server(&text)?;
    let url = RedisUrl {
        url: url.into(),
        sentinels: None,
        seeds,
    };
    Ok((url, told))
}

/// The URL of a server.
fn read_server(text: &str) -> Result<(String, Option<String>), String> {
    const EXAMPLE: &str = "such as redis://default:password@host:6379 or rediss://… with TLS";
    // A panel shows the whole command.
    let is_tls_command = text.split_whitespace().any(|word| word == "--tls");
    let word = text
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']))
        .find(|word| word.contains("://"));
    let text = word.unwrap_or(text);
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("a redis:// or rediss:// URL, {EXAMPLE}"));
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" | "redis+tcp" if is_tls_command => "rediss",
        "redis" | "valkey" | "redis+tcp" | "redis+cluster" | "redis-cluster" => "redis",
        "rediss" | "valkeys" | "rediss+cluster" | "rediss-cluster" | "redis+tls" | "redis+ssl" | "tls" => {
            "rediss"
        }
        "redis+unix" | "unix" | "valkey+unix" => return Ok((text.to_owned(), None)),
        _ => return Err(format!("a redis:// or rediss:// URL, {EXAMPLE}")),
    };
    let mut url: Url = format!("{scheme}://{rest}").parse().map_err(|_| {
        "a redis:// or rediss:// URL; in its password the characters # / ? @ : % have to be written as %23 %2F %3F %40 \
         %3A %25"
            .to_owned()
    })?;
    if url.fragment().is_some()
        || url.path().contains('@')
        || url.query().is_some_and(|query| query.contains('@'))
    {
        return Err(
            "a redis:// or rediss:// URL whose password is percent-encoded: # is %23, / is %2F, ? is %3F"
                .to_owned(),
        );
    }
    options(&mut url)
}

/// Translates the options behind the question mark.
fn options(url: &mut Url) -> Result<(String, Option<String>), String> {
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let (mut kept, mut dropped, mut is_tls) = (Vec::new(), Vec::new(), false);
    for (number, (name, value)) in (1..).zip(&pairs) {
        let is_on = matches!(
            &*value.to_ascii_lowercase(),
            "true" | "1" | "yes" | "on" | "require" | "required"
        );
        match &*name.to_ascii_lowercase() {
            "protocol" => kept.push(format!("protocol={value}")),
            "tls" | "ssl" | "usetls" => is_tls |= is_on,
            "ssl_cert_reqs" | "rejectunauthorized"
                if matches!(
                    &*value.to_ascii_lowercase(),
                    "none" | "cert_none" | "verify_none" | "false" | "0" | "no" | "off"
                ) =>
            {
                return Err(format!(
                    "a URL without {}: REDIS_CA_FILE names the authority of a certificate of your own, and \
                     REDIS_TLS_INSECURE=on accepts any",
                    name.to_ascii_lowercase()
                ));
            }
            "ssl_cert_reqs" | "rejectunauthorized" => {}
            "db" | "database" if value.bytes().all(|b| b.is_ascii_digit()) => {
                if url.path().trim_matches('/').is_empty() {
                    url.set_path(value);
                }
            }
            "password" if url.password().is_none() => {
                let _ = url.set_password(Some(value));
            }
            "username" | "user" if url.username().is_empty() => {
                let _ = url.set_username(value);
            }
            other if let Some((_, instead)) = REFUSED.iter().find(|(known, _)| *known == other) => {
                return Err(format!("a URL without {other}: {instead}"));
            }
            other if LEFT_OUT.contains(&other) => dropped.push(name.clone()),
            _ => {
                // Its name stays out of the message: a password with a question mark in it ends here.
                return Err(format!(
                    "a URL without its option number {number} behind the question mark, which is not known: credentials, \
                     host, port and database are enough, such as rediss://default:password@host:6379/0"
                ));
            }
        }
    }
    url.set_query((!kept.is_empty()).then(|| kept.join("&")).as_deref());
    let mut text = url.to_string();
    if is_tls && url.scheme() == "redis" {
        text = text.replacen("redis://", "rediss://", 1);
    }
    let told = (!dropped.is_empty()).then(|| {
        format!(
            "has options of another client, which are left out: {}",
            dropped.join(", ")
        )
    });
    Ok((text, told))
}
