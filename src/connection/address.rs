//! The address of Redis, and what its certificates are checked against.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, TlsCertificates, TlsMode,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::{ExposeSecret, SecretString};

use super::cluster::Node;
use crate::keys::KeyNamespace;

/// Where Redis is, with which credentials, and by which certificates it is known.
#[derive(Clone)]
pub struct RedisAddress {
    url: SecretString,
    authorities: Option<AuthorityFile>,
    is_insecure: bool,
    sentinels: Option<Sentinels>,
    /// Further nodes of a cluster that may be asked, beside the one of the URL.
    seeds: Vec<Node>,
    namespace: KeyNamespace,
}

/// The Sentinels that know where the primary is.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// Host and port of each.
    pub hosts: Vec<(String, u16)>,
    /// Their name for the primary.
    pub service: String,
    /// The user name that they want.
    pub username: Option<String>,
    /// The password of that user.
    pub password: Option<SecretString>,
}

impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisAddress") // The URL may carry a password, and certificates are long.
    }
}

impl<T: Into<SecretString>> From<T> for RedisAddress {
    fn from(url: T) -> Self {
        Self {
            url: url.into(),
            authorities: None,
            is_insecure: false,
            sentinels: None,
            seeds: Vec::new(),
            namespace: KeyNamespace::default(),
        }
    }
}

impl RedisAddress {
    /// Trusts the authorities of this file instead of the system's.
    #[must_use]
    pub fn trusting(self, authorities: AuthorityFile) -> Self {
        Self {
            authorities: Some(authorities),
            ..self
        }
    }

    /// Accepts any certificate.
    #[must_use]
    pub fn insecure(self) -> Self {
        Self {
            is_insecure: true,
            ..self
        }
    }

    /// Asks these Sentinels for the primary; the URL then has its credentials and its database.
    #[must_use]
    pub fn behind(self, sentinels: Sentinels) -> Self {
        Self {
            sentinels: Some(sentinels),
            ..self
        }
    }

    /// Serves a fleet of this namespace. In a cluster the node of the URL and `seeds` know the owner of its slot.
    #[must_use]
    pub fn within(self, namespace: KeyNamespace, seeds: Vec<Node>) -> Self {
        Self {
            namespace,
            seeds,
            ..self
        }
    }

    /// The part in front of all names of the fleet.
    pub const fn namespace(&self) -> &KeyNamespace {
        &self.namespace
    }

    /// The nodes of a cluster that the configuration names.
    pub(super) fn seeds(&self) -> Result<Vec<Node>, RedisError> {
        let first = match self.info()?.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some((host.clone(), *port))
            }
            _ => None,
        };
        Ok(first.into_iter().chain(self.seeds.iter().cloned()).collect())
    }

    /// The URL.
    pub const fn url(&self) -> &SecretString {
        &self.url
    }

    /// Returns true if the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        let info = self.url.expose_secret().into_connection_info();
        info.is_ok_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }

    /// Returns true if any certificate is accepted.
    pub const fn is_insecure(&self) -> bool {
        self.is_insecure
    }

    /// The Sentinels that are asked for the primary, if there are any.
    pub const fn sentinels(&self) -> Option<&Sentinels> {
        self.sentinels.as_ref()
    }

    pub(super) const fn has_authorities(&self) -> bool {
        self.authorities.is_some()
    }

    /// The same address with the present content of its file of authorities, if that has changed.
    pub(super) fn with_changed_authorities(&self) -> Option<Self> {
        let changed = self.authorities.as_ref()?.changed()?;
        Some(self.clone().trusting(changed))
    }

    fn info(&self) -> Result<ConnectionInfo, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = self.url.expose_secret().into_connection_info()?;
        let addr = match info.addr().clone() {
            ConnectionAddr::TcpTls {
                host,
                port,
                tls_params,
                ..
            } if self.is_insecure => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: true,
                tls_params,
            },
            addr => addr,
        };
        Ok(info.set_addr(addr).set_tcp_settings(tcp))
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let authorities = self.authorities.as_ref().filter(|_| !self.is_insecure)?;
        Some(TlsCertificates {
            client_tls: None,
            root_cert: Some(authorities.pem.to_vec()),
        })
    }

    /// A client of the server that the URL names.
    pub(super) fn client(&self) -> Result<Client, RedisError> {
        self.client_at(self.info()?)
    }

    fn client_at(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        match self.certificates() {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        }
    }

    /// A client of a node of the cluster, with the credentials of the URL.
    pub(super) fn client_of(&self, (host, port): &Node) -> Result<Client, RedisError> {
        let info = self.info()?;
        let addr = match info.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure, tls_params, ..
            } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure,
                tls_params,
            },
            ConnectionAddr::Tcp(..) => ConnectionAddr::Tcp(host.clone(), *port),
            other => other,
        };
        self.client_at(info.set_addr(addr))
    }

    /// A client of the Sentinels; `None` where the URL names the server itself.
    pub(super) fn sentinel_client(&self) -> Result<Option<SentinelClient>, RedisError> {
        let Some(sentinels) = &self.sentinels else {
            return Ok(None);
        };
        let is_tls = self.is_tls();
        let hosts = sentinels.hosts.iter().cloned().map(|(host, port)| match is_tls {
            true => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: self.is_insecure,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(host, port),
        });
        let hosts: Vec<ConnectionAddr> = hosts.collect();
        let mut builder = SentinelClientBuilder::new(hosts, &sentinels.service, SentinelServerType::Master)?
            .set_client_to_redis_tcp_settings(TcpSettings::default().set_nodelay(true));
        let info = self.info()?;
        let settings = info.redis_settings();
        builder = builder.set_client_to_redis_db(settings.db());
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(username) = &sentinels.username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &sentinels.password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        if is_tls {
            let mode = || match self.is_insecure {
                true => TlsMode::Insecure,
                false => TlsMode::Secure,
            };
            builder = builder
                .set_client_to_redis_tls_mode(mode())
                .set_client_to_sentinel_tls_mode(mode());
        }
        if let Some(certificates) = self.certificates().filter(|_| is_tls) {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build().map(Some)
    }
}

/// A file with certificates of authorities, all of them readable.
#[derive(Clone)]
pub struct AuthorityFile {
    path: PathBuf,
    pem: Arc<[u8]>,
}

impl std::fmt::Debug for AuthorityFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

impl AuthorityFile {
    /// Reads the file.
    ///
    /// # Errors
    /// The requirement that the file does not meet, as the rest of the sentence "it must be …".
    pub fn read(path: &Path) -> Result<Self, String> {
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
            false => Ok(Self {
                path: path.to_owned(),
                pem: pem.into(),
            }),
        }
    }

    /// The file as it is now, if it has changed and can be trusted.
    fn changed(&self) -> Option<Self> {
        let now = Self::read(&self.path).ok()?;
        (now.pem != self.pem).then_some(now)
    }
}
