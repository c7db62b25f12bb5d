use std::num::NonZeroU8;

use super::*;
use crate::retry::Backoff;

const SECOND: Duration = Duration::from_secs(1);

fn rules(max_wait: Duration) -> OutcomeRules {
    let retry = RetryPolicy {
        tries: NonZeroU8::MIN,
        backoff: Backoff::default(),
    };
    OutcomeRules {
        retry,
        max_wait,
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

fn failure(class: Class, retry_after: Option<Duration>) -> Failure {
    Failure::new(class, "it went wrong")
        .by(Provider::OpenAi)
        .with_retry_after(retry_after)
}

/// delay in seconds, counts, gate; or why it failed.
fn of(
    class: Class,
    retry_after: u64,
    attempt: u32,
    waited: u64,
    max_wait: u64,
) -> Result<(u64, bool), String> {
    let retry_after = (retry_after > 0).then_some(retry_after as u32 * SECOND);
    let delivery = delivery(attempt, waited as u32 * SECOND);
    match rules(max_wait as u32 * SECOND).of(&failure(class, retry_after), &delivery, 1) {
        Outcome::Later {
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
        Outcome::Failed { reason, .. } => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocked_jobs_wait_for_free_up_to_the_limit() {
    assert_eq!(of(Class::Blocked, 54, 3, 0, 600), Ok((54, false)));
    assert_eq!(
        of(Class::Blocked, 54, 1, 590, 600),
        Ok((10, false)),
        "the last wait is cut"
    );
    assert!(
        of(Class::Blocked, 54, 1, 600, 600)
            .unwrap_err()
            .starts_with("waited 600 s in all")
    );
    assert_eq!(
        of(Class::Blocked, 54, 1, 0, 0).unwrap_err(),
        "it went wrong",
        "0 fails at once"
    );
}

#[test]
fn a_long_retry_after_costs_no_attempt_whoever_asks_for_it() {
    for class in [Class::RateLimited, Class::Transient] {
        assert_eq!(of(class, 30, 3, 0, 600), Ok((30, false)), "{class}");
        // It is not a wait for a breaker: no bound on those makes it fail.
        assert_eq!(of(class, 30, 3, 600, 600), Ok((30, false)), "{class}");
        assert_eq!(of(class, 30, 3, 0, 0), Ok((30, false)), "{class}");
    }
    assert_eq!(
        of(Class::RateLimited, 86_400, 1, 0, 600),
        Ok((600, false)),
        "a day is not granted"
    );
}

#[test]
fn a_job_that_a_limit_refuses_keeps_its_place_however_long_it_has_waited() {
    let limited = failure(Class::Blocked, Some(54 * SECOND)).with_limit();
    for (waited, max_wait) in [(0, 600), (600, 600), (0, 0)] {
        assert_eq!(
            rules(max_wait * SECOND).of(&limited, &delivery(3, waited * SECOND), 0),
            Outcome::Limited {
                provider: Provider::OpenAi,
                wait: 54 * SECOND,
                reason: "it went wrong".to_owned(),
            }
        );
    }
}

#[test]
fn without_credit_a_job_waits_for_someone_to_pay() {
    assert_eq!(of(Class::OutOfQuota, 0, 1, 0, 600), Ok((60, false)));
    assert_eq!(
        of(Class::OutOfQuota, 0, 1, 600, 600).unwrap_err(),
        "waited 600 s in all for credit (CIRCUIT_MAX_WAIT): it went wrong"
    );
}

#[test]
fn what_is_kept_of_a_failure_is_bounded() {
    let long = Failure::permanent("ü".repeat(5000));
    let Outcome::Failed { reason, note } = rules(SECOND).of(&long, &delivery(1, Duration::ZERO), 0) else {
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
            .told_to_student(Some(JobType::GenerateFlashcards))
        {
            Outcome::Failed { reason, note } => (reason, note.unwrap().cause),
            other => panic!("{class}: {other:?}"),
        }
    };
    for (class, sentence) in [
        (
            Class::Transient,
            "The service is temporarily unavailable; please try again later.",
        ),
        (Class::RateLimited, "The service is busy; please try again later."),
        (Class::Blocked, "The service is busy; please try again later."),
        (
            Class::OutOfQuota,
            "The service is not available at the moment; please try again later.",
        ),
        (
            Class::Deployment,
            "The service is not available at the moment; please try again later.",
        ),
        (
            Class::Permanent,
            "The study material could not be turned into flashcards.",
        ),
    ] {
        // The history is for operators, and has the details alone.
        assert_eq!(
            failed(class),
            (format!("{sentence} details"), "details".to_owned())
        );
    }
    assert_eq!(Outcome::Released.told_to_student(None), Outcome::Released);
}

#[test]
fn the_script_for_poison_has_the_sentence_of_the_table() {
    let script = include_str!("../../queue/poison.lua");
    assert!(script.contains(&format!("local SENTENCE = '{}'", jobs::LOST)));
}
