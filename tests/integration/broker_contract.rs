//! What every broker promises, whatever its layout. One suite: each layout runs all of it.

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{
    Broker, BrokerError, ClaimNumber, Later, Layout, Lease, Note, Recovered, Settled, State,
};

use crate::support::{TestRedis, both_layouts, enqueue, enqueue_with, eventually, view};

const FIRST: ClaimNumber = ClaimNumber::FIRST;
/// Of the replica that sweeps.
const TTL: Duration = Duration::from_millis(300);

/// Two replicas of one queue; the leases of `brief` run out in no time.
pub(crate) struct Fixture {
    pub(crate) redis: TestRedis,
    pub(crate) a: Arc<dyn Broker>,
    b: Arc<dyn Broker>,
    brief: Arc<dyn Broker>,
    sweeper: Arc<dyn Broker>,
}

impl Fixture {
    pub(crate) async fn of(layout: Layout) -> Self {
        let redis = TestRedis::start().await;
        let (a, b) = (redis.broker(layout, "q", "a"), redis.broker(layout, "q", "b"));
        let brief = redis.broker_with(layout, "q", "brief", Duration::from_millis(50));
        // Others are judged once renewals have followed each other for a ttl: this one's is short, and `recovered` renews.
        let sweeper = redis.broker_with(layout, "q", "sweeper", TTL);
        a.renew(&[]).await.unwrap();
        b.renew(&[]).await.unwrap();
        Self {
            redis,
            a,
            b,
            brief,
            sweeper,
        }
    }

    /// Sweeps until something was found.
    pub(crate) async fn recovered(&self) -> Recovered {
        eventually("recovered", async || {
            self.sweeper.renew(&[]).await.unwrap();
            let found = self.sweeper.recover().await.unwrap();
            (found.requeued + found.poisoned > 0).then_some(found)
        })
        .await
    }

    /// Sweeps until nothing is left to find.
    pub(crate) async fn swept(&self) {
        eventually("swept", async || {
            self.sweeper.renew(&[]).await.unwrap();
            (!self.sweeper.recover().await.unwrap().more).then_some(())
        })
        .await;
    }

    /// As [`Self::orphan`], of a job that has begun to run.
    pub(crate) async fn begun_orphan(&self, number: ClaimNumber) {
        let lease = self.orphan(number).await;
        assert_eq!(self.brief.begin(&lease).await.unwrap(), Settled::Applied);
    }

    /// Claims one job with the replica whose lease has run out by the time that this returns.
    pub(crate) async fn orphan(&self, number: ClaimNumber) -> Lease {
        self.brief.renew(&[]).await.unwrap();
        let lease = one(&*self.brief, number).await;
        eventually("the lease ran out", async || {
            // A claim without a lease says so.
            matches!(
                self.brief.claim(number.next(), 0).await,
                Err(BrokerError::Unleased)
            )
            .then_some(())
        })
        .await;
        // The BullMQ layout locks each job for itself, from its claim on. No such key exists in the other.
        eventually("the lock ran out", async || {
            let locked: bool = self
                .redis
                .ask(&["EXISTS", &format!("bull:q:{}:lock", lease.id)])
                .await;
            (!locked).then_some(())
        })
        .await;
        lease
    }
}

pub(crate) async fn one(broker: &dyn Broker, number: ClaimNumber) -> Lease {
    let mut claimed = broker.claim(number, 1).await.unwrap();
    assert_eq!(claimed.len(), 1, "one job is there to be claimed");
    claimed.remove(0).lease
}

fn later(delay_ms: u64, counts: bool) -> Later<'static> {
    Later {
        delay: Duration::from_millis(delay_ms),
        counts,
        reason: "because",
        gate: (!counts).then_some("openai"),
        note: None,
    }
}

pub(crate) fn note() -> Note {
    Note {
        attempt: 1,
        r#try: 2,
        class: "transient".to_owned(),
        cause: "503".to_owned(),
        delay_ms: Some(20),
        replica: "a".to_owned(),
    }
}

both_layouts! {
    [Fixture]
    claims_in_order_and_no_more_than_asked
    a_claim_without_a_lease_is_refused
    a_resent_claim_returns_the_same_jobs
    completing_is_idempotent
    a_late_outcome_is_refused
    a_retry_counts_or_not
    a_failed_job_is_a_dead_letter
    a_released_job_is_next_in_line
    progress_and_history_are_kept
    an_orphan_is_recovered_without_losing_an_attempt
    three_lost_deliveries_are_poison
    what_was_lost_before_it_had_begun_is_none
    renewing_tells_what_is_lost
    leaving_puts_everything_back
    a_stray_of_this_replica_goes_back
    after_an_outage_nobody_is_judged_at_once
    the_dead_are_judged_by_whoever_comes
    what_a_later_version_has_written_is_left_as_it_is
    a_paused_queue_hands_out_nothing
    waiting_ends_when_work_arrives
    waiting_ends_when_a_delayed_job_is_due
    a_known_id_is_not_enqueued_again
    counts_follow_the_jobs
    an_unknown_job_is_not_found
}

async fn claims_in_order_and_no_more_than_asked(f: Fixture) {
    for id in ["1", "2", "3", "4"] {
        enqueue(&*f.a, id).await;
    }
    let ids = async |broker: &dyn Broker, number, count| -> Vec<String> {
        let claimed = broker.claim(number, count).await.unwrap();
        claimed.iter().map(|d| d.lease.id.to_string()).collect()
    };
    assert_eq!(ids(&*f.a, FIRST, 2).await, ["1", "2"]);
    assert_eq!(ids(&*f.b, FIRST, 1).await, ["3"]);
    assert_eq!(ids(&*f.a, FIRST.next(), 5).await, ["4"]);
    assert!(ids(&*f.b, FIRST.next(), 5).await.is_empty());
}

async fn a_claim_without_a_lease_is_refused(f: Fixture) {
    enqueue(&*f.a, "1").await;
    assert!(matches!(
        f.brief.claim(FIRST, 1).await,
        Err(BrokerError::Unleased)
    ));
    assert_eq!(one(&*f.a, FIRST).await.id.as_ref(), "1");
}

async fn a_resent_claim_returns_the_same_jobs(f: Fixture) {
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    let mut again = f.a.claim(FIRST, 2).await.unwrap();
    again.sort_by(|x, y| x.lease.id.cmp(&y.lease.id));
    let leases = |deliveries: &[backend_worker::queue::Delivery]| -> Vec<_> {
        deliveries
            .iter()
            .map(|d| (d.lease.clone(), d.attempt, d.payload.clone()))
            .collect()
    };
    assert_eq!(leases(&claimed), leases(&again));
    // A copy of it that was held up on its way claims nothing, even when its jobs have ended.
    for delivery in &claimed {
        f.a.complete(&delivery.lease, "1").await.unwrap();
    }
    assert!(f.a.claim(FIRST, 2).await.unwrap().is_empty());
    f.a.claim(FIRST.next().next(), 0).await.unwrap();
    assert!(
        f.a.claim(FIRST.next(), 2).await.unwrap().is_empty(),
        "an older number is too late"
    );
    // One that never arrived is carried out when it is sent again.
    assert_eq!(f.b.claim(FIRST, 2).await.unwrap().len(), 1);
}

async fn completing_is_idempotent(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    for _ in 0..3 {
        assert_eq!(
            f.a.complete(&lease, r#"{"n":1}"#).await.unwrap(),
            Settled::Applied
        );
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.progress, job.attempts_made),
        (State::Completed, 100, 1)
    );
    assert_eq!(job.result, Some(serde_json::json!({"n": 1})));
    assert_eq!(f.a.counts().await.unwrap().completed, 1);
    // The outcome stands: another one of the same claim does not overwrite it.
    f.a.fail(&lease, "too late", None).await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, State::Completed);
}

async fn a_late_outcome_is_refused(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let late = f.orphan(FIRST).await;
    f.recovered().await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(f.brief.complete(&late, "1").await.unwrap(), Settled::Lost);
    assert_eq!(f.brief.fail(&late, "x", None).await.unwrap(), Settled::Lost);
    assert_eq!(
        f.brief.retry_at(&late, later(0, true)).await.unwrap(),
        Settled::Lost
    );
    assert_eq!(f.brief.progress(&late, 50, None).await.unwrap(), Settled::Lost);
    assert_eq!(f.brief.release(std::slice::from_ref(&late)).await.unwrap(), 0);
    assert_eq!(view(&*f.a, "1").await.state, State::Active);
    assert_eq!(f.a.complete(&lease, "2").await.unwrap(), Settled::Applied);
}

async fn a_retry_counts_or_not(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(
        f.a.retry_at(&lease, later(40, true)).await.unwrap(),
        Settled::Applied
    );
    let job = view(&*f.a, "1").await;
    assert_eq!((job.state, job.attempts_made), (State::Delayed, 1));
    assert_eq!(job.error.as_deref(), Some("because"));
    assert!(f.a.claim(FIRST.next(), 0).await.unwrap().is_empty());

    let number = std::cell::Cell::new(FIRST.next());
    let claim = async || {
        eventually("due", async || {
            number.set(number.get().next());
            f.a.claim(number.get(), 1).await.unwrap().pop()
        })
        .await
    };
    let second = claim().await;
    assert_eq!((second.attempt, second.waited), (2, Duration::ZERO));
    f.a.retry_at(&second.lease, later(30, false)).await.unwrap();
    let third = claim().await;
    assert_eq!(
        (third.attempt, third.waited),
        (2, Duration::from_millis(30)),
        "waiting costs no attempt"
    );
}

async fn a_failed_job_is_a_dead_letter(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    for _ in 0..2 {
        assert_eq!(
            f.a.fail(&lease, "no \"good\"", Some(&note())).await.unwrap(),
            Settled::Applied
        );
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.error.as_deref()),
        (State::Failed, Some("no \"good\""))
    );
    assert_eq!(job.history.len(), 1, "the note is written once");
    assert!(f.a.claim(FIRST.next(), 1).await.unwrap().is_empty());
}

async fn a_released_job_is_next_in_line(f: Fixture) {
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed: Vec<Lease> =
        f.a.claim(FIRST, 2)
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.lease)
            .collect();
    for _ in 0..2 {
        assert_eq!(f.a.release(&claimed).await.unwrap(), 2, "said again, it stands");
    }
    assert_eq!(view(&*f.a, "1").await.attempts_made, 0);
    let again = f.b.claim(FIRST, 9).await.unwrap();
    let order: Vec<_> = again.iter().map(|d| (d.lease.id.as_ref(), d.attempt)).collect();
    assert_eq!(order, [("1", 1), ("2", 1), ("3", 1)]);
}

async fn progress_and_history_are_kept(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(view(&*f.a, "1").await.progress, 10, "a claimed job has begun");
    assert_eq!(
        f.a.progress(&lease, 15, Some(&note())).await.unwrap(),
        Settled::Applied
    );
    let job = view(&*f.a, "1").await;
    assert_eq!(job.progress, 15);
    let line = &job.history[0];
    assert_eq!(line.note, note());
    assert!(line.at > 1_700_000_000_000, "Redis's clock, ms");
    for _ in 0..150 {
        f.a.progress(&lease, 20, Some(&note())).await.unwrap();
    }
    assert_eq!(view(&*f.a, "1").await.history.len(), 100, "a history is bounded");
}

async fn an_orphan_is_recovered_without_losing_an_attempt(f: Fixture) {
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    let found = f.recovered().await;
    assert_eq!((found.requeued, found.poisoned), (1, 0));
    let claimed = f.b.claim(FIRST, 1).await.unwrap();
    assert_eq!(claimed[0].attempt, 1);
    f.swept().await;
}

async fn three_lost_deliveries_are_poison(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    for lost in 1..=3 {
        if lost == 1 {
            // A first delivery says so by its first paid call.
            let lease = f.orphan(number).await;
            let page = f.a.ledger_key("1");
            f.redis.ask::<()>(&["HSET", &page, "by", &lease.token]).await;
        } else {
            f.begun_orphan(number).await;
        }
        number = number.next().next();
        let found = f.recovered().await;
        assert_eq!(
            (found.requeued, found.poisoned),
            if lost < 3 { (1, 0) } else { (0, 1) }
        );
        f.swept().await;
    }
    let job = view(&*f.a, "1").await;
    assert_eq!(job.state, State::Failed);
    assert!(
        job.error
            .unwrap()
            .contains("poison: 3 deliveries ended without an outcome")
    );
}

/// Who is claimed and waits while its replica dies has killed nobody. It cannot go on for ever, all the same: a payload may
/// kill a replica before anything runs.
async fn what_was_lost_before_it_had_begun_is_none(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    for lost in 1..=12 {
        // One of them has begun. The mark that it leaves is no later claim's.
        if lost == 5 {
            f.begun_orphan(number).await;
        } else {
            f.orphan(number).await;
        }
        number = number.next().next();
        let found = f.recovered().await;
        let expected = if lost < 12 { (1, 0) } else { (0, 1) };
        assert_eq!((found.requeued, found.poisoned), expected, "after {lost}");
        f.swept().await;
        if lost == 6 {
            let next = f.b.claim(FIRST, 1).await.unwrap().remove(0);
            assert_eq!(next.lost, 6, "whoever claims it is told");
            f.b.release(&[next.lease]).await.unwrap();
        }
    }
    let error = view(&*f.a, "1").await.error.unwrap();
    assert!(error.contains("poison: 12 deliveries ended without"), "{error}");
}

async fn renewing_tells_what_is_lost(f: Fixture) {
    for n in 0..5 {
        enqueue(&*f.a, &n.to_string()).await;
    }
    let mut held: Vec<Lease> =
        f.a.claim(FIRST, 5)
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.lease)
            .collect();
    assert!(f.a.renew(&held).await.unwrap().is_empty());
    // Many more than one script takes at a time, and one of them is not ours.
    let mine = held[0].clone();
    held.resize(2500, mine);
    held[2400] = Lease {
        id: "3".into(),
        token: "somebody:1".into(),
    };
    assert_eq!(f.a.renew(&held).await.unwrap(), [held[2400].clone()]);
}

async fn leaving_puts_everything_back(f: Fixture) {
    for n in 0..450 {
        enqueue(&*f.a, &n.to_string()).await;
    }
    let (mut number, mut claimed) = (FIRST, 0);
    while claimed < 450 {
        claimed += f.a.claim(number, 450).await.unwrap().len();
        number = number.next();
    }
    f.a.leave().await.unwrap();
    let counts = f.a.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active), (450, 0));
    assert!(matches!(f.a.claim(number, 1).await, Err(BrokerError::Unleased)));
    assert_eq!(f.b.claim(FIRST, 1).await.unwrap()[0].attempt, 1);
}

async fn a_paused_queue_hands_out_nothing(f: Fixture) {
    enqueue(&*f.a, "1").await;
    f.b.set_paused(true).await.unwrap();
    assert!(f.a.claim(FIRST, 1).await.unwrap().is_empty());
    f.b.set_paused(false).await.unwrap();
    one(&*f.a, FIRST.next()).await;
}

async fn waiting_ends_when_work_arrives(f: Fixture) {
    // Longer than any patience: only the job can end the wait.
    let waiting = tokio::spawn({
        let a = f.a.clone();
        async move { a.wait(Duration::from_secs(3600)).await }
    });
    // Once a listener is connected, it is armed before it sleeps.
    eventually("the waiter listens", async || {
        let clients: String = f.redis.ask(&["CLIENT", "LIST"]).await;
        let listens = |c: &str| c.contains("flags=t") && c.contains("cmd=z") || c.contains("cmd=bzpopmin");
        clients.lines().any(listens).then_some(())
    })
    .await;
    enqueue(&*f.b, "1").await;
    tokio::time::timeout(crate::support::PATIENCE, waiting)
        .await
        .expect("the wait ends")
        .unwrap()
        .unwrap();
    // Nothing happens: the limit ends the wait, and says so.
    f.a.claim(FIRST, 1).await.unwrap();
    assert!(!f.a.wait(Duration::from_millis(20)).await.unwrap());
}

async fn waiting_ends_when_a_delayed_job_is_due(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    f.a.retry_at(&lease, later(200, true)).await.unwrap();
    let waits = async {
        let mut number = FIRST;
        loop {
            assert!(f.a.wait(Duration::from_secs(3600)).await.unwrap());
            number = number.next();
            if !f.a.claim(number, 1).await.unwrap().is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, waits)
        .await
        .expect("the job comes due");
}

async fn a_known_id_is_not_enqueued_again(f: Fixture) {
    enqueue_with(&*f.a, "1", 5).await;
    let payload = crate::support::raw("{}");
    let job = backend_worker::queue::NewJob {
        id: "1",
        kind: jobs::JobType::ProcessImage,
        payload: &payload,
        max_attempts: 1,
        delay: Duration::ZERO,
    };
    assert!(!f.a.enqueue(&job).await.unwrap());
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].max_attempts), (1, 5));
}

async fn counts_follow_the_jobs(f: Fixture) {
    for id in ["1", "2", "3", "4", "5"] {
        enqueue(&*f.a, id).await;
    }
    let leases: Vec<Lease> =
        f.a.claim(FIRST, 4)
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.lease)
            .collect();
    f.a.complete(&leases[0], "1").await.unwrap();
    f.a.fail(&leases[1], "x", None).await.unwrap();
    f.a.retry_at(&leases[2], later(60_000, true)).await.unwrap();
    let counts = f.b.counts().await.unwrap();
    let numbers = (
        counts.waiting,
        counts.active,
        counts.completed,
        counts.failed,
        counts.delayed,
    );
    assert_eq!(numbers, (1, 1, 1, 1, 1));
}

async fn an_unknown_job_is_not_found(f: Fixture) {
    assert!(f.a.find("nobody").await.unwrap().is_none());
}

async fn a_stray_of_this_replica_goes_back(f: Fixture) {
    enqueue(&*f.sweeper, "1").await;
    enqueue(&*f.sweeper, "2").await;
    let claim = eventually("claimed", async || {
        f.sweeper.renew(&[]).await.unwrap();
        Some(f.sweeper.claim(FIRST, 2).await.unwrap()).filter(|claimed| claimed.len() == 2)
    })
    .await;
    // The replica knows of one job only: the answer that named the other never came.
    let known = [claim[0].lease.clone()];
    eventually("put back", async || {
        assert!(f.sweeper.renew(&known).await.unwrap().is_empty());
        (f.a.counts().await.unwrap().waiting == 1).then_some(())
    })
    .await;
    assert_eq!(one(&*f.b, FIRST).await.id, claim[1].lease.id);
    assert_eq!(
        f.sweeper.complete(&known[0], "1").await.unwrap(),
        Settled::Applied
    );
}

async fn after_an_outage_nobody_is_judged_at_once(f: Fixture) {
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    tokio::time::sleep(TTL).await; // The length of the outage: nobody can renew.
    f.sweeper.renew(&[]).await.unwrap();
    let found = f.sweeper.recover().await.unwrap();
    assert_eq!((found.requeued, found.more), (0, false), "its owner gets time");
    assert_eq!(f.recovered().await.requeued, 1, "but not for ever");
}

/// Where every replica dies sooner than its lease runs out, the jobs of the dead come back all the same.
async fn the_dead_are_judged_by_whoever_comes(f: Fixture) {
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    let born = std::cell::Cell::new(0);
    eventually("recovered by somebody who has only just come", async || {
        born.set(born.get() + 1);
        let newcomer = f
            .redis
            .broker_with(f.a.layout(), "q", &format!("newcomer-{}", born.get()), TTL);
        newcomer.renew(&[]).await.unwrap();
        (newcomer.recover().await.unwrap().requeued == 1).then_some(())
    })
    .await;
    assert_eq!(one(&*f.b, FIRST).await.id.as_ref(), "1");
}

/// Replicas of neighbouring versions run side by side: fields that one does not know are the other's.
async fn what_a_later_version_has_written_is_left_as_it_is(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let (job, queue) = match f.a.layout() {
        Layout::Apalis => ("q:meta:1", "q:"),
        Layout::Bullmq => ("bull:q:1", "bull:q:bw:"),
    };
    let session = format!("{queue}session:a");
    let hashes = match f.a.layout() {
        Layout::Apalis => vec![job, &session],
        Layout::Bullmq => vec![job], // Its session is a number.
    };
    for hash in &hashes {
        f.redis.ask::<()>(&["HSET", hash, "bw:later", "kept"]).await;
    }
    f.redis
        .ask::<()>(&["SET", &format!("{queue}later"), "kept"])
        .await;

    f.a.renew(&[]).await.unwrap();
    let first = one(&*f.a, FIRST).await;
    f.a.begin(&first).await.unwrap();
    f.a.progress(&first, 50, Some(&note())).await.unwrap();
    assert!(f.a.renew(std::slice::from_ref(&first)).await.unwrap().is_empty());
    f.a.release(&[first]).await.unwrap();
    f.orphan(FIRST).await;
    f.recovered().await;
    let second = one(&*f.a, FIRST.next()).await;
    f.a.fail(&second, "no", None).await.unwrap();
    let order = backend_worker::queue::RetryOrder {
        id: "o",
        by: "test",
        reset_attempts: true,
    };
    f.a.retry(&["1"], &order).await.unwrap();
    let third = one(&*f.a, FIRST.next().next()).await;
    assert_eq!(f.a.complete(&third, "1").await.unwrap(), Settled::Applied);

    for hash in hashes {
        let kept: Option<String> = f.redis.ask(&["HGET", hash, "bw:later"]).await;
        assert_eq!(kept.as_deref(), Some("kept"), "{hash}");
    }
    let kept: Option<String> = f.redis.ask(&["GET", &format!("{queue}later")]).await;
    assert_eq!(kept.as_deref(), Some("kept"));
}
