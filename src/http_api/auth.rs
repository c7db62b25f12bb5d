//! Access control of the HTTP routes.
//!
//! - Routes that change something require `ADMIN_TOKEN`; those that add jobs accept `ENQUEUE_TOKEN` as well. Without a
//!   configured token these routes are off, unless `ADMIN_FROM_LOOPBACK` opens them to this host.
//! - Reads require `READ_TOKEN`. Without a configured token the worker answers only if `Host` is `localhost` or an
//!   address. After DNS rebinding a page sends its own name, so this check refuses it.
//!
//! A proxy on this host makes every remote client look local, and not all proxies add a header. So the operator must
//! enable trust in loopback explicitly. Then a caller must come from 127.0.0.1 or ::1, without a proxy's headers, name
//! this host in `Host`, and not send the origin of another page.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::{
    Json,
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN},
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use subtle::ConstantTimeEq;

/// The tokens that open the routes.
#[derive(Debug, Clone, Default)]
pub struct AccessControl {
    /// For routes that change something.
    pub admin: Option<SecretString>,
    /// For routes that add jobs, beside the admin's.
    pub enqueue: Option<SecretString>,
    /// For reads, where they are not open.
    pub read: Option<SecretString>,
    /// True if this host may change something where no admin token is set.
    pub admin_from_loopback: bool,
    /// True if the last address of `X-Forwarded-For` is the caller's: behind a proxy that sets it.
    pub trust_proxy: bool,
}

/// The caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDenied {
    /// A token is missing or wrong, or loopback would have to call; says which.
    Token(&'static str),
    /// A browser calls for a page of another site, or may.
    Foreign(&'static str),
}

impl IntoResponse for AccessDenied {
    fn into_response(self) -> Response {
        let body = |error: &str| Json(json!({ "success": false, "error": error }));
        match self {
            Self::Token(error) => {
                let bearer = [("www-authenticate", "Bearer")];
                (StatusCode::UNAUTHORIZED, bearer, body(error)).into_response()
            }
            Self::Foreign(error) => (StatusCode::FORBIDDEN, body(error)).into_response(),
        }
    }
}

/// Prefixes of the headers that proxies add.
const FORWARDED: [&str; 12] = [
    "forwarded",
    "via",
    "x-forwarded",
    "x-real-",
    "x-client-",
    "x-cluster-",
    "x-original-",
    "x-envoy-",
    "x-amzn-",
    "cf-",
    "true-client-",
    "fastly-",
];

impl AccessControl {
    /// Checks that a caller may change something.
    ///
    /// # Errors
    /// [`AccessDenied`], saying what is missing.
    pub fn to_change(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<(), AccessDenied> {
        match &self.admin {
            Some(token) if bears(headers, token) => Ok(()),
            Some(_) => Err(AccessDenied::Token(
                "this route wants Authorization: Bearer ADMIN_TOKEN",
            )),
            None if !self.admin_from_loopback => Err(AccessDenied::Token(
                "no ADMIN_TOKEN is configured: this route is off",
            )),
            None if !is_loopback(peer) || is_forwarded(headers) => Err(AccessDenied::Token(
                "no ADMIN_TOKEN is configured: this route answers to loopback only",
            )),
            None => is_of_this_host(headers),
        }
    }

    /// Checks that a caller may add jobs.
    ///
    /// # Errors
    /// [`AccessDenied`], saying what is missing.
    pub fn to_enqueue(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<(), AccessDenied> {
        match &self.enqueue {
            Some(token) if bears(headers, token) => Ok(()),
            Some(_) => self.to_change(headers, peer).map_err(|denied| match denied {
                AccessDenied::Token(_) => AccessDenied::Token(
                    "this route wants Authorization: Bearer ENQUEUE_TOKEN, or ADMIN_TOKEN",
                ),
                foreign @ AccessDenied::Foreign(_) => foreign,
            }),
            None => self.to_change(headers, peer),
        }
    }

    /// Checks that a caller may read.
    ///
    /// # Errors
    /// [`AccessDenied`], saying what is missing.
    pub fn to_read(&self, headers: &HeaderMap) -> Result<(), AccessDenied> {
        let is_admin = || self.admin.as_ref().is_some_and(|admin| bears(headers, admin));
        match &self.read {
            Some(token) if bears(headers, token) => Ok(()),
            _ if is_admin() => Ok(()),
            Some(_) => Err(AccessDenied::Token(
                "this route wants Authorization: Bearer READ_TOKEN",
            )),
            None if is_address(host(headers)) => Ok(()),
            None => Err(AccessDenied::Foreign(
                "no READ_TOKEN is configured: reads are answered under localhost and literal addresses only",
            )),
        }
    }

    /// The caller's address.
    pub fn caller(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        let forwarded = headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .filter(|_| self.trust_proxy);
        let address = forwarded.and_then(|value| address(value.to_str().ok()?.rsplit(',').next()?.trim()));
        address.unwrap_or(peer.ip()).to_canonical()
    }
}

/// An address as proxies write it: alone, or with a port; of IPv6 in brackets or not.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port)
}

/// Returns true if the peer is this host itself, by the addresses that only it has.
fn is_loopback(peer: SocketAddr) -> bool {
    let ip = peer.ip().to_canonical();
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| FORWARDED.iter().any(|start| name.as_str().starts_with(start)))
}

/// Checks that the request does not come from a browser that acts for another site (see the module).
fn is_of_this_host(headers: &HeaderMap) -> Result<(), AccessDenied> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = host(headers);
    if !is_loopback_name(host) {
        return Err(AccessDenied::Foreign(
            "no ADMIN_TOKEN is configured: this route answers to localhost only, and Host names another",
        ));
    }
    let origin = text(ORIGIN.as_str());
    let same = origin.is_none_or(|origin| {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    });
    let site = text("sec-fetch-site");
    if same && site.is_none_or(|site| ["same-origin", "none"].contains(&site)) {
        return Ok(());
    }
    Err(AccessDenied::Foreign(
        "no ADMIN_TOKEN is configured: this route does not answer to pages of other sites",
    ))
}

/// The `Host` header; of several, none counts.
fn host(headers: &HeaderMap) -> &str {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => "",
    }
}

/// True if a `Host` means this machine without any name lookup, which an attacker could answer.
fn is_loopback_name(host: &str) -> bool {
    named(host, |ip| ip.to_canonical().is_loopback())
}

/// Returns true if a `Host` is `localhost` or an address: no name that an attacker could bind to an address.
fn is_address(host: &str) -> bool {
    named(host, |_| true)
}

/// Returns true if a `Host` is `localhost`, or an address that `fits`.
fn named(host: &str, fits: impl Fn(IpAddr) -> bool) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    // User and password are no part of a Host.
    !host.contains('@') && (name.eq_ignore_ascii_case("localhost") || address(name).is_some_and(fits))
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

    fn access(admin: Option<&str>, read: Option<&str>) -> AccessControl {
        AccessControl {
            admin: admin.map(Into::into),
            read: read.map(Into::into),
            enqueue: None,
            admin_from_loopback: true,
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
        let local = ("host", "localhost:3002");
        assert!(without.to_change(&headers(&[local]), near).is_ok());
        assert!(without.to_change(&headers(&[local]), far).is_err());
        for name in FORWARDED {
            let forwarded = headers(&[local, (name, "for=1.2.3.4")]);
            assert!(without.to_change(&forwarded, near).is_err(), "{name}");
        }
    }

    #[test]
    fn trust_in_loopback_does_not_reach_the_pages_of_others() {
        let near: SocketAddr = "[::1]:1".parse().unwrap();
        let asked = |pairs: &[(&'static str, &str)]| access(None, None).to_change(&headers(pairs), near);
        for host in [
            "localhost",
            "LocalHost:3002",
            "127.0.0.1:3002",
            "127.9.9.9",
            "[::1]:3002",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(asked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:3002",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:3002",
            "localhost@evil.example",
            "evil@localhost",
            "[::2]",
            "a b",
        ] {
            let denied = asked(&[("host", host)]);
            assert!(
                matches!(denied, Err(AccessDenied::Foreign(_))),
                "{host:?}: {denied:?}"
            );
        }
        assert!(asked(&[]).is_err(), "no Host at all");

        let from = |name: &'static str, value: &str| asked(&[("host", "localhost:3002"), (name, value)]);
        for (name, value) in [
            ("origin", "http://localhost:3002"),
            ("origin", "https://LOCALHOST:3002"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            assert_eq!(from(name, value), Ok(()), "{name}: {value}");
        }
        for (name, value) in [
            ("origin", "null"),
            ("origin", ""),
            ("origin", "http://evil.example"),
            ("origin", "http://localhost:3000"),
            ("origin", "http://127.0.0.1:3002"),
            ("origin", "file://localhost:3002"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "Same-Origin"),
        ] {
            assert!(from(name, value).is_err(), "{name}: {value}");
        }

        // Who knows the token is no stranger.
        let with = access(Some("t0ken"), None);
        let strange = headers(&[
            ("authorization", "Bearer t0ken"),
            ("host", "ops.example"),
            ("origin", "https://other.example"),
        ]);
        assert!(with.to_change(&strange, near).is_ok());
    }

    #[test]
    fn changing_routes_are_off_unless_a_token_or_loopback_is_configured() {
        let local = headers(&[("host", "localhost:3002")]);
        let closed = AccessControl::default();
        for peer in ["127.0.0.1:1", "[::1]:1"] {
            let peer = peer.parse().unwrap();
            assert!(matches!(
                closed.to_change(&local, peer),
                Err(AccessDenied::Token(_))
            ));
            assert!(matches!(
                closed.to_enqueue(&local, peer),
                Err(AccessDenied::Token(_))
            ));
            assert!(access(None, None).to_change(&local, peer).is_ok());
        }
        // A sidecar has an address of the loopback network, too.
        for peer in ["127.0.0.6:1", "[::ffff:127.0.0.6]:1", "10.0.0.1:1"] {
            assert!(
                access(None, None)
                    .to_change(&local, peer.parse().unwrap())
                    .is_err(),
                "{peer}"
            );
        }
        for name in [
            "x-forwarded-host",
            "x-forwarded-proto",
            "via",
            "x-real-ip",
            "x-envoy-external-address",
            "cf-connecting-ip",
        ] {
            let forwarded = headers(&[("host", "localhost:3002"), (name, "x")]);
            let near = "127.0.0.1:1".parse().unwrap();
            assert!(access(None, None).to_change(&forwarded, near).is_err(), "{name}");
        }
    }

    #[test]
    fn a_token_for_adding_adds_and_does_nothing_else() {
        let mut access = access(Some("admin"), None);
        access.enqueue = Some("enqueue".into());
        let far = "10.0.0.1:1".parse().unwrap();
        let bearer = |token: &str| headers(&[("authorization", &format!("Bearer {token}"))]);
        for (token, adds, changes) in [
            ("enqueue", true, false),
            ("admin", true, true),
            ("x", false, false),
        ] {
            assert_eq!(access.to_enqueue(&bearer(token), far).is_ok(), adds, "{token}");
            assert_eq!(access.to_change(&bearer(token), far).is_ok(), changes, "{token}");
            assert_eq!(access.to_read(&bearer(token)).is_ok(), changes, "{token}");
        }
        assert!(access.to_enqueue(&headers(&[]), far).is_err());
    }

    #[test]
    fn without_a_token_reads_are_answered_under_addresses_only() {
        for host in [
            "localhost",
            "LOCALHOST:3002",
            "127.0.0.1:3002",
            "10.1.2.3",
            "[fd12::7]:3002",
        ] {
            assert!(
                access(None, None).to_read(&headers(&[("host", host)])).is_ok(),
                "{host}"
            );
        }
        for host in [
            "",
            "rebound.example",
            "worker.railway.internal:3002",
            "a@127.0.0.1",
            "localhost.example",
        ] {
            let denied = access(None, None).to_read(&headers(&[("host", host)]));
            assert!(matches!(denied, Err(AccessDenied::Foreign(_))), "{host}");
        }
        let two = headers(&[("host", "localhost")]);
        let mut two = two.clone();
        two.append("host", "rebound.example".parse().unwrap());
        assert!(access(None, None).to_read(&two).is_err(), "two names are none");
    }

    #[test]
    fn reads_want_the_token_where_one_is_set() {
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
        for (written, read) in [
            ("nonsense", "10.0.0.1"),
            ("1.2.3.4:5678", "1.2.3.4"),
            ("6.6.6.6:1, 1.2.3.4:5678", "1.2.3.4"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("1.2.3.4:x", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let caller = access.caller(&headers(&[("x-forwarded-for", written)]), peer);
            assert_eq!(caller.to_string(), read, "{written}");
        }
    }
}
