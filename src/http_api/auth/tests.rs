//! Tests of the access rules, without a server.

use super::{caller::FORWARDED, *};

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

    // A caller that knows the token is trusted.
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
