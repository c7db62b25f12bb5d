//! The address of Redis, and the certificates that it is checked against.

use std::path::Path;

use secrecy::ExposeSecret as _;

use super::{
    reader::EnvReader,
    redis_url::{self, RedisUrl},
    vars,
};
use crate::connection::{AuthorityFile, RedisAddress};

pub(super) fn read(env: &mut EnvReader<'_>) -> RedisAddress {
    let RedisUrl { url, sentinels } = url(env);
    let mut address = RedisAddress::from(url);
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
