//! Who may call: reads are open unless a read token is set; what changes something wants the admin token, and is
//! answered to loopback only where none is configured.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use subtle::ConstantTimeEq;

/// The tokens that open the routes.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// For what changes something.
    pub admin: Option<SecretString>,
    /// For reads, where they are not open.
    pub read: Option<SecretString>,
    /// Whether the last address of `X-Forwarded-For` is the caller's: behind a proxy that sets it.
    pub trust_proxy: bool,
}

/// The caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied(&'static str);

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let body = Json(json!({ "success": false, "error": self.0 }));
        (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer")], body).into_response()
    }
}

impl Access {
    /// Whether a caller may change something.
    ///
    /// # Errors
    /// [`Denied`], saying what is missing.
    pub fn to_change(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<(), Denied> {
        match &self.admin {
            Some(token) if bears(headers, token) => Ok(()),
            Some(_) => Err(Denied("this route wants Authorization: Bearer ADMIN_TOKEN")),
            // A proxy on this host would make the whole world local.
            None if peer.ip().to_canonical().is_loopback() && !headers.contains_key("x-forwarded-for") => {
                Ok(())
            }
            None => Err(Denied(
                "no ADMIN_TOKEN is configured: this route answers to loopback only",
            )),
        }
    }

    /// Whether a caller may read.
    ///
    /// # Errors
    /// [`Denied`], saying what is missing.
    pub fn to_read(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match &self.read {
            None => Ok(()),
            Some(token) if bears(headers, token) => Ok(()),
            Some(_) if self.admin.as_ref().is_some_and(|admin| bears(headers, admin)) => Ok(()),
            Some(_) => Err(Denied("this route wants Authorization: Bearer READ_TOKEN")),
        }
    }

    /// The caller's address.
    pub fn caller(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        let forwarded = headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .filter(|_| self.trust_proxy);
        let address =
            forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        address.unwrap_or(peer.ip()).to_canonical()
    }
}

/// In constant time: how long it takes to be refused says nothing about the token.
fn bears(headers: &HeaderMap, token: &SecretString) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    given.is_some_and(|(_, given)| {
        given
            .trim()
            .as_bytes()
            .ct_eq(token.expose_secret().as_bytes())
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
            .collect()
    }

    fn access(admin: Option<&str>, read: Option<&str>) -> Access {
        Access {
            admin: admin.map(Into::into),
            read: read.map(Into::into),
            trust_proxy: false,
        }
    }

    #[test]
    fn changing_wants_the_token_or_loopback_where_there_is_none() {
        let (near, far): (SocketAddr, SocketAddr) = (
            "[::ffff:127.0.0.1]:1".parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
        );
        let bearer = |token: &str| headers(&[("authorization", &format!("Bearer {token}"))]);
        let with = access(Some("t0ken"), None);
        assert!(with.to_change(&bearer("t0ken"), far).is_ok());
        assert!(
            with.to_change(&headers(&[("authorization", "bearer t0ken")]), far)
                .is_ok()
        );
        for wrong in [
            bearer("t0kex"),
            bearer(""),
            bearer("t0ken2"),
            headers(&[]),
            headers(&[("authorization", "t0ken")]),
        ] {
            assert!(with.to_change(&wrong, near).is_err(), "{wrong:?}");
        }
        let without = access(None, None);
        assert!(without.to_change(&headers(&[]), near).is_ok());
        assert!(without.to_change(&headers(&[]), far).is_err());
        assert!(
            without
                .to_change(&headers(&[("x-forwarded-for", "1.2.3.4")]), near)
                .is_err()
        );
    }

    #[test]
    fn reads_are_open_unless_a_token_is_set() {
        assert!(access(None, None).to_read(&headers(&[])).is_ok());
        let closed = access(Some("admin"), Some("read"));
        assert!(closed.to_read(&headers(&[])).is_err());
        for token in ["Bearer read", "Bearer admin"] {
            assert!(closed.to_read(&headers(&[("authorization", token)])).is_ok());
        }
    }

    #[test]
    fn the_caller_is_the_peer_unless_a_proxy_is_trusted() {
        let (peer, forwarded) = (
            "10.0.0.1:1".parse().unwrap(),
            headers(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4")]),
        );
        let mut access = access(None, None);
        assert_eq!(access.caller(&forwarded, peer).to_string(), "10.0.0.1");
        access.trust_proxy = true;
        assert_eq!(access.caller(&forwarded, peer).to_string(), "1.2.3.4");
        assert_eq!(
            access
                .caller(&headers(&[("x-forwarded-for", "nonsense")]), peer)
                .to_string(),
            "10.0.0.1"
        );
    }
}
