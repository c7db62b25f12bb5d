//! Facts about a caller: its token, its address, and whether a browser calls for a page of another site.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::{
    HeaderMap,
    header::{AUTHORIZATION, HOST, ORIGIN},
    uri::Authority,
};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::AccessDenied;

/// Prefixes of the headers that proxies add.
pub(super) const FORWARDED: [&str; 12] = [
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

/// An address as proxies write it: alone, or with a port; of IPv6 in brackets or not.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port)
}

/// Returns true if the peer is this host itself, by the addresses that only it has.
pub(super) fn is_loopback(peer: SocketAddr) -> bool {
    let ip = peer.ip().to_canonical();
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| FORWARDED.iter().any(|start| name.as_str().starts_with(start)))
}

/// Checks that the request does not come from a browser that acts for another site (see the module).
pub(super) fn is_of_this_host(headers: &HeaderMap) -> Result<(), AccessDenied> {
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
pub(super) fn host(headers: &HeaderMap) -> &str {
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
pub(super) fn is_address(host: &str) -> bool {
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
pub(super) fn bears(headers: &HeaderMap, token: &SecretString) -> bool {
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
