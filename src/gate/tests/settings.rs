//! Settings that cannot be configured, and the meaning of a call's end.

use std::time::Duration;

use jobs::{Culprit, Failure, FailureClass, ProviderReply};

use super::rig::{limit, ms};
use crate::{
    connection::Connection,
    gate::{BreakerSettings, CallOutcome, Gates, GatesSettings, InvalidGate, Settlement},
};

fn breaker(
    name: &str,
    failures: u32,
    successes: u32,
    open_ms: u64,
    half_open: u32,
) -> Result<BreakerSettings, InvalidGate> {
    BreakerSettings::new(name, failures, successes, ms(open_ms), ms(60_000), half_open)
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    assert_eq!(breaker("openai", 5, 2, 60_000, 3), Ok(BreakerSettings::openai()));
    assert_eq!(breaker("azure", 3, 2, 30_000, 3), Ok(BreakerSettings::azure()));
    let settings = GatesSettings::default();
    let limits = [
        settings.openai.limits,
        settings.azure_speech.limits,
        settings.azure_vision.limits,
    ];
    assert_eq!(
        limits.map(|l| l.requests_per_minute),
        [limit(50), None, limit(20)]
    );
    assert_eq!(limits.map(|l| l.max_concurrent), [limit(5), limit(20), limit(5)]);
    assert_eq!(limits.map(|l| l.tokens_per_minute), [None; 3]);
    assert_eq!(settings.azure_speech.breaker, settings.azure_vision.breaker);
}

#[test]
fn a_breaker_that_makes_no_sense_is_refused() {
    assert!(breaker("{azure}-2", 1, 1, 1, 1).is_ok());
    for name in ["", "a:b", "a b", "ä", &"x".repeat(65)] {
        assert_eq!(
            breaker(name, 5, 2, 60_000, 3),
            Err(InvalidGate::Name(name.to_owned()))
        );
    }
    for (failures, successes, half_open) in [(0, 2, 3), (5, 0, 3), (5, 2, 0), (1001, 2, 3), (5, 2, 1001)] {
        let error = breaker("b", failures, successes, 60_000, half_open).unwrap_err();
        assert!(matches!(error, InvalidGate::Count { .. }), "{error}");
    }
    let error = breaker("b", 5, 3, 60_000, 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "breaker b: half-open attempts (2) must not be fewer than the successes that close it (3)"
    );
    for time in [0, 86_400_001] {
        assert!(matches!(
            breaker("b", 5, 2, time, 3),
            Err(InvalidGate::Time { .. })
        ));
    }
}

#[tokio::test]
async fn gates_that_contradict_each_other_are_refused() {
    let new = |settings: &GatesSettings| {
        let connection = Connection::open(&"redis://127.0.0.1:1".into()).unwrap();
        Gates::new(connection, "r1", settings).map(drop)
    };
    let mut settings = GatesSettings::default();
    assert_eq!(new(&settings), Ok(()));
    settings.azure_vision.breaker = breaker("azure", 4, 2, 30_000, 3).unwrap();
    assert_eq!(new(&settings), Err(InvalidGate::TwoWays("azure".to_owned())));
    settings.azure_vision.breaker = breaker("vision", 4, 2, 30_000, 3).unwrap();
    assert_eq!(new(&settings), Ok(()));
    settings.lease_ttl = ms(999);
    assert!(matches!(
        new(&settings),
        Err(InvalidGate::Time { what: "lease", .. })
    ));
}

#[test]
fn a_calls_end_means_what_the_documentation_says() {
    let of = |class| Settlement::of(&Err(Failure::new(class, "x")));
    for class in [
        FailureClass::Transient,
        FailureClass::OutOfQuota,
        FailureClass::Deployment,
    ] {
        assert_eq!(of(class), Settlement::new(CallOutcome::Failure), "{class}");
    }
    for class in [FailureClass::Permanent, FailureClass::Cancelled] {
        assert_eq!(of(class), Settlement::new(CallOutcome::Ignored), "{class}");
    }
    assert_eq!(of(FailureClass::Blocked), Settlement::new(CallOutcome::Cancelled));
    // The culprit decides, where it is another than the class suggests.
    let sample = Failure::transient("a bad sample").blaming(Culprit::NoFault);
    assert_eq!(
        Settlement::of(&Err(sample)),
        Settlement::new(CallOutcome::Ignored)
    );
    let reply = ProviderReply {
        body: serde_json::value::RawValue::NULL.to_owned(),
        tokens: Some(9),
        is_cut: false,
    };
    assert_eq!(
        Settlement::of(&Ok(reply)),
        Settlement {
            tokens: Some(9),
            ..Settlement::new(CallOutcome::Success)
        }
    );
}

#[test]
fn a_429_pauses_the_fleet_for_as_long_as_it_says() {
    let told = |wait: Option<u64>| {
        let failure =
            Failure::new(FailureClass::RateLimited, "429").with_retry_after(wait.map(Duration::from_secs));
        let settlement = Settlement::of(&Err(failure));
        assert_eq!(settlement.outcome, CallOutcome::Ignored);
        settlement.throttle.unwrap().as_secs()
    };
    assert_eq!([told(Some(7)), told(None), told(Some(86_400))], [7, 5, 86_400]);
}
