use futures_util::poll;

use super::*;

fn entered(isolation: &Arc<SuspectIsolation>, lost: u32) -> (InFlightPresence, Suspect) {
    let presence = isolation.enter(lost).unwrap();
    let suspect = presence.suspect().unwrap();
    (presence, suspect)
}

#[tokio::test]
async fn a_suspect_that_was_lost_twice_waits_for_the_others_and_keeps_them_out() {
    let isolation: Arc<SuspectIsolation> = Arc::default();
    let (one, two) = (isolation.enter(0).unwrap(), isolation.enter(0).unwrap());
    let ((first, a), (second, b)) = (entered(&isolation, 2), entered(&isolation, 3));
    assert!(isolation.is_on());
    let late = isolation.enter(0).expect("a claim that was under way");
    let mut first_runs = std::pin::pin!(a.may_run());
    for other in [one, two, late] {
        assert!(poll!(&mut first_runs).is_pending());
        drop(other);
    }
    first_runs.await;
    assert!(a.runs_alone());
    a.may_call().await;
    assert!(isolation.enter(0).is_none(), "nothing runs beside it");
    let mut second_runs = std::pin::pin!(b.may_run());
    assert!(poll!(&mut second_runs).is_pending(), "no other suspect either");
    drop(first);
    second_runs.await;
    let mut over = std::pin::pin!(isolation.is_over());
    assert!(poll!(&mut over).is_pending());
    drop(second);
    over.await;
    assert!(!isolation.is_on());
    assert!(isolation.enter(0).is_some());
}

#[tokio::test]
async fn suspects_that_were_lost_once_prepare_together_and_then_call_together() {
    let isolation: Arc<SuspectIsolation> = Arc::default();
    let other = isolation.enter(0).unwrap();
    let ((first, a), (second, b), (third, c)) = (
        entered(&isolation, 1),
        entered(&isolation, 1),
        entered(&isolation, 1),
    );
    let (twice, d) = entered(&isolation, 2);
    let mut a_runs = std::pin::pin!(a.may_run());
    assert!(
        poll!(&mut a_runs).is_pending(),
        "another job may have a call under way"
    );
    drop(other);
    a_runs.await;
    let mut a_calls = std::pin::pin!(a.may_call());
    assert!(
        poll!(&mut a_calls).is_pending(),
        "the two others are still to prepare"
    );
    b.may_run().await;
    c.may_run().await;
    assert!(!a.runs_alone() && !b.runs_alone());
    let mut d_runs = std::pin::pin!(d.may_run());
    assert!(
        poll!(&mut d_runs).is_pending(),
        "one that was lost twice runs alone"
    );
    let mut b_calls = std::pin::pin!(b.may_call());
    assert!(poll!(&mut a_calls).is_pending() && poll!(&mut b_calls).is_pending());
    drop(third); // It has failed before its call, say.
    b_calls.await;
    a_calls.await;
    a.may_call().await; // A later call waits for nothing.
    drop(first);
    assert!(poll!(&mut d_runs).is_pending());
    drop(second);
    d_runs.await;
    assert!(d.runs_alone());
    drop(twice);
}

#[tokio::test]
async fn a_suspect_without_company_runs_alone() {
    let isolation: Arc<SuspectIsolation> = Arc::default();
    let (_first, a) = entered(&isolation, 1);
    a.may_run().await;
    assert!(a.runs_alone());
    let (_late, b) = entered(&isolation, 1);
    assert!(poll!(std::pin::pin!(b.may_run())).is_pending());
    let mut too_slow = std::pin::pin!(a.is_too_slow());
    assert!(poll!(&mut too_slow).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_keeps_the_others_waiting_has_to_leave() {
    let isolation: Arc<SuspectIsolation> = Arc::default();
    let ((_first, a), (second, b), (_third, c)) = (
        entered(&isolation, 1),
        entered(&isolation, 1),
        entered(&isolation, 1),
    );
    a.may_run().await;
    b.may_run().await;
    let (mut a_calls, mut slow) = (std::pin::pin!(a.may_call()), std::pin::pin!(b.is_too_slow()));
    assert!(poll!(&mut a_calls).is_pending() && poll!(&mut slow).is_pending());
    slow.await;
    assert!(poll!(&mut a_calls).is_pending(), "it is still at work");
    assert!(
        poll!(std::pin::pin!(c.may_run())).is_pending(),
        "too late to join"
    );
    drop(second);
    a_calls.await;
}

#[tokio::test]
async fn a_suspect_that_leaves_before_it_runs_stops_no_other() {
    let isolation: Arc<SuspectIsolation> = Arc::default();
    let ((runs, a), (waits, _)) = (entered(&isolation, 2), entered(&isolation, 2));
    a.may_run().await;
    drop(waits);
    assert!(isolation.enter(0).is_none(), "the one still runs");
    drop(runs);
    assert!(isolation.enter(0).is_some());
}
