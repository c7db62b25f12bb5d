//! The rules of the replica's own breaker and limits, with a clock that is a number.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::gate::{
    decision::{Effect, State},
    settings::{BreakerSettings, LimitSettings},
    settlement::CallOutcome::{self, Cancelled, Failure, Ignored, Success},
};

const SECOND: Duration = Duration::from_secs(1);

fn local(limits: LimitSettings) -> (LocalFallback, Instant) {
    let start = Instant::now();
    let breaker = Arc::new(Mutex::new(LocalBreaker::new(BreakerSettings::openai())));
    (
        LocalFallback::new(breaker, LocalLimits::new(limits, start)),
        start,
    )
}

fn per_minute(requests: u32) -> LimitSettings {
    LimitSettings {
        requests_per_minute: NonZeroU32::new(requests),
        ..LimitSettings::default()
    }
}

fn end(
    local: &LocalFallback,
    now: Instant,
    account: LocalCallRecord,
    outcome: CallOutcome,
) -> SettlementReply {
    local.end(now, account, Settlement::new(outcome), true).unwrap()
}

fn account(local: &LocalFallback, now: Instant) -> LocalCallRecord {
    local.admit(now, 0, 1).unwrap().account
}

fn refusal(
    local: &LocalFallback,
    now: Instant,
    tokens: u64,
    replicas: u32,
) -> Option<(Reason, Option<Duration>)> {
    local
        .admit(now, tokens, replicas)
        .err()
        .map(|r| (r.reason, r.wait))
}

#[test]
fn the_breaker_goes_round_like_the_fleets() {
    let (local, start) = local(LimitSettings::default());
    let late = account(&local, start);
    for n in 1..=5 {
        let good = account(&local, start + n * SECOND);
        let bad = account(&local, start + n * SECOND);
        assert_eq!(
            end(&local, start + n * SECOND, good, Success).effect,
            Effect::Recorded
        );
        let settled = end(&local, start + n * SECOND, bad, Failure);
        assert_eq!(settled.count, n);
        assert_eq!(
            settled.effect,
            if n == 5 { Effect::Opened } else { Effect::Recorded }
        );
    }
    let opened = start + 5 * SECOND;
    assert_eq!(
        refusal(&local, opened, 0, 1),
        Some((Reason::Open, Some(60 * SECOND)))
    );
    assert_eq!(end(&local, opened, late, Failure).effect, Effect::Stale);

    let half_open = opened + 60 * SECOND;
    let first = local.admit(half_open, 0, 1).unwrap();
    assert!(first.half_opened);
    let second = local.admit(half_open, 0, 1).unwrap();
    assert!(!second.half_opened);
    let third = account(&local, half_open);
    assert_eq!(
        refusal(&local, half_open, 0, 1),
        Some((Reason::HalfOpen, Some(SECOND)))
    );
    assert_eq!(end(&local, half_open, third, Ignored).effect, Effect::Ignored);
    let third = account(&local, half_open); // The ignored one gave its place back.
    assert_eq!(end(&local, half_open, first.account, Success).count, 1);
    let closed = end(&local, half_open, second.account, Success);
    assert_eq!(
        (closed.effect, closed.state, closed.count),
        (Effect::Closed, State::Closed, 2)
    );
    assert_eq!(end(&local, half_open, third, Failure).effect, Effect::Stale);
    assert_eq!(refusal(&local, half_open, 0, 1), None);
}

#[test]
fn a_failed_probe_opens_it_again_and_old_failures_do_not_count() {
    let (local, start) = local(LimitSettings::default());
    for n in 0..20 {
        let now = start + n * 15 * SECOND;
        assert_eq!(
            end(&local, now, account(&local, now), Failure).effect,
            Effect::Recorded
        );
    }
    let now = start + Duration::from_secs(1000);
    local.refused(now, LocalRefusal::new(Reason::Open, Some(SECOND)));
    assert_eq!(refusal(&local, now, 0, 1), Some((Reason::Open, Some(SECOND))));
    let probe = local.admit(now + SECOND, 0, 1).unwrap();
    assert!(probe.half_opened);
    assert_eq!(
        end(&local, now + SECOND, probe.account, Failure).effect,
        Effect::Reopened
    );
    assert_eq!(
        refusal(&local, now + SECOND, 0, 1),
        Some((Reason::Open, Some(60 * SECOND)))
    );
    // Redis lets an ordinary call pass: it knows that the breaker is closed.
    let told = local.granted(now + SECOND, 0, false);
    assert_eq!(refusal(&local, now + SECOND, 0, 1), None);
    assert!(
        local
            .end(now + SECOND, told, Settlement::new(Success), false)
            .is_none()
    );
}

#[test]
fn failures_among_many_successes_do_not_open_it_and_an_outage_does_after_five_calls() {
    let (local, start) = local(LimitSettings::default());
    for n in 0..60 {
        let now = start + n * Duration::from_millis(100);
        let outcome = if n % 3 == 0 { Failure } else { Success };
        assert_eq!(
            end(&local, now, account(&local, now), outcome).effect,
            Effect::Recorded
        );
    }
    let now = start + 7 * SECOND;
    let ends: Vec<Effect> = (0..5)
        .map_while(|_| Some(end(&local, now, local.admit(now, 0, 1).ok()?.account, Failure).effect))
        .collect();
    assert_eq!(ends.last(), Some(&Effect::Opened), "{ends:?}");
}

#[test]
fn openings_in_a_row_last_longer_and_a_recovery_ramps_up() {
    let limits = LimitSettings {
        max_concurrent: NonZeroU32::new(20), // 16 of them for one replica
        ..LimitSettings::default()
    };
    let (local, mut now) = local(limits);
    for _ in 0..5 {
        end(&local, now, account(&local, now), Failure);
    }
    for seconds in [60, 120, 240, 480, 600, 600] {
        assert_eq!(
            refusal(&local, now, 0, 1),
            Some((Reason::Open, Some(seconds * SECOND)))
        );
        now += seconds * SECOND;
        assert_eq!(
            end(&local, now, account(&local, now), Failure).effect,
            Effect::Reopened
        );
    }
    now += 600 * SECOND;
    assert_eq!(
        end(&local, now, account(&local, now), Success).effect,
        Effect::Recorded
    );
    assert_eq!(
        end(&local, now, account(&local, now), Success).effect,
        Effect::Closed
    );
    let mut running = Vec::new();
    for (after, most) in [(0, 4), (15, 8), (30, 16)] {
        while let Ok(grant) = local.admit(now + after * SECOND, 0, 1) {
            running.push(grant.account);
        }
        assert_eq!(running.len(), most);
    }
}

#[test]
fn a_fault_of_the_account_costs_few_calls_and_is_named() {
    let (local, start) = local(LimitSettings::default());
    let credit = Settlement {
        fault: Some(AccountFault::Credit),
        ..Settlement::new(Failure)
    };
    let mut calls = 1;
    local.end(start, account(&local, start), credit, true);
    while let Ok(grant) = local.admit(start, 0, 1) {
        calls += 1;
        let also = local.admit(start, 0, 1).map(|grant| grant.account);
        local.end(start, grant.account, credit, true);
        if let Ok(also) = also {
            calls += 1;
            local.end(start, also, credit, true);
        }
    }
    assert_eq!(calls, 5);
    let refused = local.admit(start, 0, 1).unwrap_err();
    assert_eq!(
        (refused.reason, refused.fault),
        (Reason::Open, Some(AccountFault::Credit))
    );
    let probe = local.admit(start + 60 * SECOND, 0, 1).unwrap();
    assert_eq!(
        refusal(&local, start + 60 * SECOND, 0, 1),
        Some((Reason::HalfOpen, Some(SECOND)))
    );
    end(&local, start + 60 * SECOND, probe.account, Success);
    assert!(local.admit(start + 60 * SECOND, 0, 1).is_ok());
}

#[test]
fn a_limit_is_divided_by_the_replicas_with_a_fifth_to_spare() {
    for (limit, replicas, share) in [
        (5, 1, 4),
        (5, 2, 1),
        (50, 3, 12),
        (20, 1, 16),
        (3, 100, 1),
        (1, 1, 1),
    ] {
        for limits in [
            per_minute(limit),
            LimitSettings {
                max_concurrent: NonZeroU32::new(limit),
                ..LimitSettings::default()
            },
        ] {
            let (local, start) = local(limits);
            let passed = (0..60)
                .take_while(|_| local.admit(start, 0, replicas).is_ok())
                .count();
            assert_eq!(passed, share, "{limit} for {replicas}");
        }
    }
}

#[test]
fn what_redis_granted_before_it_went_away_counts() {
    let (local, start) = local(per_minute(5));
    let granted: Vec<LocalCallRecord> = (0..4).map(|_| local.granted(start, 0, false)).collect();
    assert_eq!(
        refusal(&local, start, 0, 1),
        Some((Reason::Rpm, Some(65 * SECOND)))
    );
    for account in granted {
        end(&local, start, account, Cancelled);
    }
    assert_eq!(refusal(&local, start, 0, 1), None);
}

#[test]
fn tokens_are_corrected_and_a_large_call_waits_until_nothing_else_was_used() {
    let limits = LimitSettings {
        tokens_per_minute: NonZeroU32::new(1000),
        ..LimitSettings::default()
    };
    let (local, start) = local(limits);
    let call = local.admit(start, 700, 1).unwrap().account;
    assert_eq!(
        refusal(&local, start, 200, 1),
        Some((Reason::Tpm, Some(65 * SECOND)))
    );
    let used = Settlement {
        tokens: Some(100),
        ..Settlement::new(Success)
    };
    local.end(start, call, used, true);
    assert_eq!(refusal(&local, start, 200, 1), None);
    assert_eq!(
        refusal(&local, start, 900, 1),
        Some((Reason::Tpm, Some(65 * SECOND)))
    );
    assert_eq!(refusal(&local, start + 65 * SECOND, 900, 1), None);
    assert_eq!(refusal(&local, start, 1001, 1), Some((Reason::TooLarge, None)));
}

#[test]
fn a_pause_is_kept_and_never_shortened() {
    let (local, start) = local(LimitSettings::default());
    let pause = |wait| Settlement {
        throttle: Some(wait),
        ..Settlement::new(Ignored)
    };
    let (long, short) = (account(&local, start), account(&local, start));
    local.end(start, long, pause(9 * SECOND), true);
    local.end(start, short, pause(SECOND), true);
    assert_eq!(
        refusal(&local, start + 2 * SECOND, 0, 1),
        Some((Reason::Throttled, Some(7 * SECOND)))
    );
    assert_eq!(refusal(&local, start + 9 * SECOND, 0, 1), None);
}

proptest! {
    #[test]
    fn no_window_of_a_minute_holds_more_than_the_share(steps in prop::collection::vec((0u64..20_000, 0u64..300), 1..200)) {
        let limits = LimitSettings { tokens_per_minute: NonZeroU32::new(1000), ..per_minute(10) };
        let (local, start) = local(limits);
        let (mut now, mut passed) = (0, Vec::new());
        for (pause, tokens) in steps {
            now += pause;
            match local.admit(start + Duration::from_millis(now), tokens, 1) {
                Ok(_) => passed.push((now, tokens)),
                Err(refusal) => {
                    let wait = refusal.wait.unwrap();
                    prop_assert!(!wait.is_zero() && wait <= 65 * SECOND);
                }
            }
        }
        for (i, (from, _)) in passed.iter().enumerate() {
            let window = || passed[i..].iter().take_while(|(at, _)| at - from < 60_000);
            prop_assert!(window().count() <= 8);
            prop_assert!(window().map(|(_, tokens)| tokens).sum::<u64>() <= 800);
        }
    }

    #[test]
    fn who_waits_as_long_as_told_passes(calls in prop::collection::vec(0u64..5000, 1..60)) {
        let (local, start) = local(per_minute(10));
        let mut now = start;
        for pause in calls {
            now += Duration::from_millis(pause);
            if let Err(refusal) = local.admit(now, 0, 1) {
                now += refusal.wait.unwrap();
                prop_assert!(local.admit(now, 0, 1).is_ok());
            }
        }
    }
}
