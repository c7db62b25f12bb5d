//! The address of Redis, and the certificates that it is checked against.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::SecretString;

use super::{reader::EnvReader, redis_url, vars};
use crate::connection::RedisAddress;

pub(super) fn read(env: &mut EnvReader<'_>) -> RedisAddress {
    let address = RedisAddress::from(url(env));
    match env.optional(&vars::REDIS_CA_FILE, authorities) {
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

fn url(env: &mut EnvReader<'_>) -> SecretString {
    let check = |text: &str| {
        let (text, told) = redis_url::read(text)?;
        // The client's own words would repeat the URL, password and all.
        match redis::IntoConnectionInfo::into_connection_info(&*text) {
            Ok(_) => Ok((SecretString::from(text), told)),
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

/// The content of a file of certificates, each of which can be trusted.
fn authorities(path: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|e| format!("a file that can be read ({e})"))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| format!("a file of certificates in PEM ({e})"))?;
        store
            .add(certificate)
            .map_err(|e| format!("a file of certificates in PEM ({e})"))?;
    }
    match store.is_empty() {
        true => Err("a file that holds a certificate in PEM".to_owned()),
        false => Ok(pem),
    }
}
