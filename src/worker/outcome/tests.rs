use std::num::NonZeroU8;

use jobs::AccountFault;

use super::*;
use crate::{gate::BreakerSettings, retry::Backoff};

const SECOND: Duration = Duration::from_secs(1);

fn rules(max_wait: Duration) -> OutcomeRules {
    let retry = RetryPolicy {
        tries: NonZeroU8::MIN,
        backoff: Backoff::default(),
    };
    OutcomeRules {
        retry,
        max_wait,
        account_waits: AccountWaits::default(),
        spreads_retries: true,
        replica: "r".to_owned(),
    }
}

fn delivery(attempt: u32, waited: Duration) -> Delivery {
    Delivery {
        attempt,
        waited,
        first: attempt == 1,
        ..Delivery::first_of(None, None)
    }
}

fn failure(class: FailureClass, retry_after: Option<Duration>) -> Failure {
    Failure::new(class, "it went wrong")
        .by(Provider::OpenAi)
        .with_retry_after(retry_after)
}

/// delay in seconds, counts, gate; or why it failed.
fn of(
    class: FailureClass,
    retry_after: u64,
    attempt: u32,
    waited: u64,
    max_wait: u64,
) -> Result<(u64, bool), String> {
    let retry_after = (retry_after > 0).then_some(retry_after as u32 * SECOND);
    let delivery = delivery(attempt, waited as u32 * SECOND);
    match rules(max_wait as u32 * SECOND).of(&failure(class, retry_after), &delivery, 1) {
        DeliveryOutcome::Later {
            delay,
            counts,
            waits_for,
            ..
        } => {
            assert_eq!(
                waits_for.is_some(),
                !counts,
                "who waits without losing an attempt waits for a gate"
            );
            Ok((delay.as_secs(), counts))
        }
        DeliveryOutcome::Failed { reason, .. } => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocked_jobs_wait_for_free_up_to_the_limit() {
    assert_eq!(of(FailureClass::Blocked, 54, 3, 0, 600), Ok((54, false)));
    assert_eq!(
        of(FailureClass::Blocked, 54, 1, 590, 600),
        Ok((10, false)),
        "the last wait is cut"
    );
    assert!(
        of(FailureClass::Blocked, 54, 1, 600, 600)
            .unwrap_err()
            .starts_with("waited 600 s in all")
    );
    assert_eq!(
        of(FailureClass::Blocked, 54, 1, 0, 0).unwrap_err(),
        "it went wrong",
        "0 fails at once"
    );
}

#[test]
fn a_long_retry_after_costs_no_attempt_whoever_asks_for_it() {
    for class in [FailureClass::RateLimited, FailureClass::Transient] {
        assert_eq!(of(class, 30, 3, 0, 600), Ok((30, false)), "{class}");
        // It is not a wait for a breaker: no bound on those makes it fail.
        assert_eq!(of(class, 30, 3, 600, 600), Ok((30, false)), "{class}");
        assert_eq!(of(class, 30, 3, 0, 0), Ok((30, false)), "{class}");
    }
    assert_eq!(
        of(FailureClass::RateLimited, 86_400, 1, 0, 600),
        Ok((86_400, false)),
        "never sooner than the provider asks"
    );
}

#[test]
fn a_job_that_a_limit_refuses_keeps_its_place_however_long_it_has_waited() {
    let limited = failure(FailureClass::Blocked, Some(54 * SECOND)).with_limit();
    for (waited, max_wait) in [(0, 600), (600, 600), (0, 0)] {
        assert_eq!(
            rules(max_wait * SECOND).of(&limited, &delivery(3, waited * SECOND), 0),
            DeliveryOutcome::Limited {
                provider: Provider::OpenAi,
                wait: 54 * SECOND,
                reason: "it went wrong".to_owned(),
            }
        );
    }
}

#[test]
fn without_credit_a_job_waits_for_someone_to_pay() {
    assert_eq!(of(FailureClass::OutOfQuota, 0, 1, 0, 600), Ok((60, false)));
    assert_eq!(
        of(FailureClass::OutOfQuota, 0, 1, 600, 600).unwrap_err(),
        "waited 600 s in all for credit (CIRCUIT_MAX_WAIT): it went wrong"
    );
}

/// The same of a key, a scope, a model and a parameter. A fault of this worker's own configuration is final.
#[test]
fn a_fault_of_the_account_waits_and_a_fault_of_this_worker_does_not() {
    let delivery = delivery(1, Duration::ZERO);
    for fault in AccountFault::ALL {
        let failure = failure(FailureClass::Deployment, None).with_account_fault(fault);
        match rules(600 * SECOND).of(&failure, &delivery, 1) {
            DeliveryOutcome::Later { delay, counts, .. } => {
                assert_eq!((delay.as_secs(), counts), (60, false))
            }
            other => panic!("{fault:?}: {other:?}"),
        }
        let at_once = rules(Duration::ZERO).of(&failure, &delivery, 1);
        assert!(matches!(at_once, DeliveryOutcome::Failed { .. }), "{at_once:?}");
    }
    let unbounded = OutcomeRules {
        account_waits: AccountWaits::of(None),
        ..rules(600 * SECOND)
    };
    let key = failure(FailureClass::Deployment, None).with_account_fault(AccountFault::Key);
    let without_breaker = unbounded.of(&key, &delivery, 1);
    assert!(
        matches!(without_breaker, DeliveryOutcome::Failed { .. }),
        "{without_breaker:?}"
    );
    let own = rules(600 * SECOND).of(&failure(FailureClass::Deployment, None), &delivery, 1);
    assert!(matches!(own, DeliveryOutcome::Failed { .. }), "{own:?}");
}

/// A breaker that opens for less than a minute lets its jobs ask again as soon.
#[test]
fn a_job_asks_again_when_its_breaker_lets_a_probe_pass() {
    let mut gates = GatesSettings::default();
    gates.openai.breaker = BreakerSettings::new("openai", 5, 2, 3 * SECOND, 60 * SECOND, 3).unwrap();
    let rules = OutcomeRules {
        account_waits: AccountWaits::of(Some(&gates)),
        ..rules(600 * SECOND)
    };
    for (provider, seconds) in [(Provider::OpenAi, 3), (Provider::AzureSpeech, 30)] {
        let failure = Failure::new(FailureClass::OutOfQuota, "x").by(provider);
        match rules.of(&failure, &delivery(1, Duration::ZERO), 1) {
            DeliveryOutcome::Later { delay, .. } => assert_eq!(delay.as_secs(), seconds, "{provider}"),
            other => panic!("{other:?}"),
        }
    }
}

/// BullMQ retries a job without a backoff at once: three attempts are gone within the same outage.
#[test]
fn retries_without_a_backoff_are_spread_unless_bullmqs_way_is_wanted() {
    let delay = |spreads_retries, backoff| {
        let (spread, mut delivery) = (rules(SECOND), delivery(1, Duration::ZERO));
        (delivery.kind, delivery.backoff, delivery.max_attempts) = (Some("x".to_owned()), backoff, 3);
        let rules = OutcomeRules {
            spreads_retries,
            ..spread
        };
        match rules.of(&failure(FailureClass::Transient, None), &delivery, 1) {
            DeliveryOutcome::Later {
                delay, counts: true, ..
            } => delay,
            other => panic!("{other:?}"),
        }
    };
    assert!(delay(true, None) >= SECOND);
    assert_eq!(delay(false, None), Duration::ZERO);
    for spreads in [true, false] {
        assert_eq!(
            delay(spreads, Some(QueueBackoff::NONE)),
            Duration::ZERO,
            "the producer wants none"
        );
    }
}

#[test]
fn what_is_kept_of_a_failure_is_bounded() {
    let long = Failure::permanent("ü".repeat(5000));
    let DeliveryOutcome::Failed { reason, note } = rules(SECOND).of(&long, &delivery(1, Duration::ZERO), 0)
    else {
        panic!("it failed")
    };
    assert_eq!(reason.chars().count(), LONGEST_REASON + 1);
    assert_eq!(note.unwrap().cause, reason);
}

#[test]
fn the_reason_of_a_failed_job_starts_with_a_sentence_for_the_student() {
    let failed = |class| {
        let failure = Failure::new(class, "details").by(Provider::OpenAi);
        match rules(Duration::ZERO)
            .of(&failure, &delivery(u32::MAX, Duration::ZERO), 1)
            .with_student_sentence(Some(JobType::GenerateFlashcards))
        {
            DeliveryOutcome::Failed { reason, note } => (reason, note.unwrap().cause),
            other => panic!("{class}: {other:?}"),
        }
    };
    for (class, sentence) in [
        (
            FailureClass::Transient,
            "The service is temporarily unavailable; please try again later.",
        ),
        (
            FailureClass::RateLimited,
            "The service is busy; please try again later.",
        ),
        (
            FailureClass::Blocked,
            "The service is busy; please try again later.",
        ),
        (
            FailureClass::OutOfQuota,
            "The service is not available at the moment; please try again later.",
        ),
        (
            FailureClass::Deployment,
            "The service is not available at the moment; please try again later.",
        ),
        (
            FailureClass::Permanent,
            "The study material could not be turned into flashcards.",
        ),
    ] {
        // The history is for operators, and has the details alone.
        assert_eq!(
            failed(class),
            (format!("{sentence} details"), "details".to_owned())
        );
    }
    assert_eq!(
        DeliveryOutcome::Released.with_student_sentence(None),
        DeliveryOutcome::Released
    );
}

#[test]
fn the_script_for_poison_has_the_sentence_of_the_table() {
    let script = include_str!("../../queue/poison_count.lua");
    assert!(script.contains(&format!("local SENTENCE = '{}'", jobs::LOST)));
}
