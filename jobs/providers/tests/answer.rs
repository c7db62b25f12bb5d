//! Waits and excerpts.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderValue};

use crate::providers::{
    error_body::{ErrorBody, excerpt},
    retry_after::{asked, wait_in},
};

const DAY: u64 = 86_400_000;

type Headers = &'static [(&'static str, &'static str)];

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    asked(headers, &ErrorBody::default(), false)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

#[test]
fn retry_after_headers() {
    let rows: &[(Headers, Option<u64>)] = &[
        (&[], None),
        (&[("retry-after", "7")], Some(7_000)),
        (&[("retry-after", " 7 ")], Some(7_000)),
        (&[("retry-after", "0")], Some(0)),
        (&[("retry-after", "0.25")], Some(250)),
        (&[("retry-after-ms", "1500"), ("retry-after", "7")], Some(1_500)),
        (&[("retry-after-ms", "soon"), ("retry-after", "7")], Some(7_000)),
        (&[("retry-after-ms", "-5"), ("retry-after", "7")], Some(7_000)),
        (&[("retry-after", "-7")], None),
        (&[("retry-after", "NaN")], None),
        (&[("retry-after", "inf")], Some(DAY)),
        (&[("retry-after", "-inf")], None),
        (&[("retry-after", "1e300")], Some(DAY)),
        (&[("retry-after", "99999999999999999999999")], Some(DAY)),
        (&[("retry-after-ms", "1e308")], Some(DAY)),
        (&[("retry-after", "")], None),
        (&[("retry-after", "a while")], None),
        (&[("retry-after", "Fri, 01 Jan 1999 00:00:00 GMT")], Some(0)),
        (&[("retry-after", "Tue, 01 Jan 2999 00:00:00 GMT")], Some(DAY)),
    ];
    for (pairs, wait) in rows {
        assert_eq!(
            retry_after(&headers(pairs)),
            wait.map(Duration::from_millis),
            "{pairs:?}"
        );
    }
}

#[test]
fn retry_after_as_a_date() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
    let wait = retry_after(&headers(&[("retry-after", &date)])).unwrap();
    assert!((500..=600).contains(&wait.as_secs()), "{wait:?}");
}

#[test]
fn waits_in_words() {
    let rows = [
        ("Please retry after 7 seconds.", Some(7_000)),
        ("PLEASE RETRY AFTER 7 SECONDS.", Some(7_000)),
        ("Please retry after 1 second", Some(1_000)),
        ("Try again in 26s.", Some(26_000)),
        ("retry after 26.", Some(26_000)),
        ("retry after 2 minutes", Some(120_000)),
        ("Quota will be replenished in 0.5 days.", Some(DAY / 2)),
        ("Quota will be replenished in 2.12 days.", Some(DAY)),
        ("Quota will be replenished in 04:05:06.", Some(14_706_000)),
        ("Quota will be replenished in 0.00:00:10", Some(10_000)),
        ("replenished in 99999999:00:00", Some(DAY)),
        ("retry after -3 seconds", None),
        ("retry after nan seconds", None),
        ("retry after ", None),
        ("retry after a while", None),
        ("replenished in ::", None),
        ("replenished in 1:2", None),
        ("nothing of the kind", None),
        ("", None),
    ];
    for (message, wait) in rows {
        assert_eq!(wait_in(message), wait.map(Duration::from_millis), "{message}");
    }
}

#[test]
fn excerpts_are_short_and_on_one_line() {
    assert_eq!(excerpt(" a\r\n\tb\u{0}\u{1b}[31mc\u{85}d "), "a b [31mc d");
    assert_eq!(excerpt(""), "");
    let exact = "ü".repeat(200);
    assert_eq!(excerpt(&exact), exact);
    let long = excerpt(&"ü".repeat(201));
    assert_eq!(long.chars().count(), 200);
    assert!(long.ends_with("ü…"));
}
