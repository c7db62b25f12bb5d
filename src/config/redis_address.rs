//! The address of Redis, and the certificates that it is checked against.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    cluster,
    reader::EnvReader,
    redis_url::{self, RedisUrl},
    vars,
};
use crate::{
    connection::{AuthorityFile, RedisAddress},
    keys::KeyNamespace,
};

pub(super) fn read(env: &mut EnvReader<'_>) -> RedisAddress {
    let RedisUrl {
        url,
        sentinels,
        seeds,
    } = url(env);
    let namespace = cluster::namespace(env);
    refuse_contradictions(env, &url, sentinels.is_some(), !seeds.is_empty(), &namespace);
    let mut address = RedisAddress::from(url).within(namespace, seeds);
    if let Some(sentinels) = sentinels {
        address = address.behind(sentinels);
    }
    let is_insecure = env.switch(&vars::REDIS_TLS_INSECURE);
    if is_insecure && !address.is_tls() {
        let fault = "is for a rediss:// URL, and Redis's is none";
        env.complain::<()>(&vars::REDIS_TLS_INSECURE, fault);
    }
    if is_insecure {
        address = address.insecure();
    }
    match env.optional(&vars::REDIS_CA_FILE, |path| AuthorityFile::read(Path::new(path))) {
        Some(_) if !address.is_tls() => {
            env.complain::<()>(
                &vars::REDIS_CA_FILE,
                "is for a rediss:// URL, and Redis's is none",
            );
            address
        }
        Some(authorities) => address.trusting(authorities),
        None => address,
    }
}

/// Several hosts are the nodes of a cluster, which has no Sentinels and one database.
fn refuse_contradictions(
    env: &mut EnvReader<'_>,
    url: &SecretString,
    has_sentinels: bool,
    has_seeds: bool,
    namespace: &KeyNamespace,
) {
    let fault = if has_seeds && !namespace.is_tagged() {
        "names several hosts: name one, or set REDIS_CLUSTER_TAG where they are the nodes of a Redis Cluster"
    } else if has_sentinels && namespace.is_tagged() {
        "names Sentinels, and REDIS_CLUSTER_TAG a Redis Cluster, which has none: name its nodes, or unset the tag"
    } else if namespace.is_tagged() && database(url) != 0 {
        "names a database, and a Redis Cluster has only number 0: leave it out"
    } else {
        return;
    };
    env.complain::<()>(&vars::REDIS_URL, fault);
}

fn database(url: &SecretString) -> i64 {
    let info = redis::IntoConnectionInfo::into_connection_info(url.expose_secret());
    info.map_or(0, |info| info.redis_settings().db())
}

fn url(env: &mut EnvReader<'_>) -> RedisUrl {
    let check = |text: &str| {
        let (url, told) = redis_url::read(text)?;
        // The client's own words would repeat the URL, password and all.
        match redis::IntoConnectionInfo::into_connection_info(url.url.expose_secret()) {
            Ok(_) => Ok((url, told)),
            Err(_) => {
                Err("a redis:// or rediss:// URL, such as redis://default:password@host:6379".to_owned())
            }
        }
    };
    // Railway's public URL costs egress: it serves only where the private one is missing.
    if !env.is_set(&vars::REDIS_URL)
        && let Some(public) = env.optional(&vars::REDIS_PUBLIC_URL, check)
    {
        return env.told(&vars::REDIS_PUBLIC_URL, public);
    }
    let private = env.parse(&vars::REDIS_URL, check);
    env.told(&vars::REDIS_URL, private)
}
