//! The address of Redis, and the certificates that it is checked against.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::SecretString;

use super::{reader::Reader, vars};
use crate::connection::RedisAddress;

pub(super) fn read(env: &mut Reader<'_>) -> RedisAddress {
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

fn url(env: &mut Reader<'_>) -> SecretString {
    let check = |text: &str| {
        redis::IntoConnectionInfo::into_connection_info(text)
            .map(|_| SecretString::from(text))
            // The client's own words would repeat the URL, password and all.
            .map_err(|_| "a redis:// or rediss:// URL".to_owned())
    };
    // Railway's public URL costs egress: it serves only where the private one is missing.
    if !env.is_set(&vars::REDIS_URL)
        && let Some(public) = env.optional(&vars::REDIS_PUBLIC_URL, check)
    {
        return public;
    }
    env.parse(&vars::REDIS_URL, check)
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
