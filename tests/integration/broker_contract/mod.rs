//! What every broker promises, whatever its layout. One suite: each layout runs all of it.

mod claims;
mod leases;

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{
    Broker, BrokerError, ClaimNumber, Later, Layout, Lease, Note, Recovered, Settled, State,
};

use crate::support::{TestRedis, both_layouts, enqueue, enqueue_with, eventually, view};

const FIRST: ClaimNumber = ClaimNumber::FIRST;

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
        // Whose lease is unbroken for a ttl may judge others: this one's is short, and kept alive by `recovered`.
        let sweeper = redis.broker_with(layout, "q", "sweeper", Duration::from_millis(300));
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
    a_stray_of_this_replica_goes_back
    who_has_just_lived_through_an_outage_judges_nobody
    a_paused_queue_hands_out_nothing
    waiting_ends_when_work_arrives
    waiting_ends_when_a_delayed_job_is_due
    a_known_id_is_not_enqueued_again
    counts_follow_the_jobs
    an_unknown_job_is_not_found
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

async fn who_has_just_lived_through_an_outage_judges_nobody(f: Fixture) {
    enqueue(&*f.a, "1").await;
    f.orphan(FIRST).await;
    // Its lease is fresh: so may be everybody's trouble.
    f.sweeper.renew(&[]).await.unwrap();
    let found = f.sweeper.recover().await.unwrap();
    assert_eq!((found.requeued, found.more), (0, false));
    assert_eq!(f.recovered().await.requeued, 1, "in time it does");
}
