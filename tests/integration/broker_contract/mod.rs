//! What every broker promises, whatever its layout. One suite: each layout runs all of it.

mod claims;
mod outcomes;
mod queue;
mod recovery;

use std::{sync::Arc, time::Duration};

use backend_worker::queue::{
    Broker, BrokerError, ClaimNumber, HistoryNote, Layout, Lease, Postponement, SweepResult, WriteResult,
};

use crate::support::{TestRedis, eventually};

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
        // Others are judged once renewals have followed each other for a ttl: this one's is short, and `recovered`
        // renews.
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
    pub(crate) async fn recovered(&self) -> SweepResult {
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
        assert_eq!(
            self.brief.mark_started(&lease).await.unwrap(),
            WriteResult::Applied
        );
    }

    /// Claims one job with the replica whose lease has run out by the time that this returns.
    pub(crate) async fn orphan(&self, number: ClaimNumber) -> Lease {
        let lease = eventually("a claim within the lease", async || {
            self.brief.renew(&[]).await.unwrap();
            match self.brief.claim(number, 1).await {
                // A busy machine may need longer than the lease lasts.
                Err(BrokerError::Unleased) => None,
                claimed => Some(claimed.unwrap().pop().expect("a job to claim").lease),
            }
        })
        .await;
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
                .ask(&["EXISTS", &format!("{}:q:{}:lock", self.redis.prefix(), lease.id)])
                .await;
            (!locked).then_some(())
        })
        .await;
        lease
    }
}

/// Claims up to `count` jobs.
async fn leases(broker: &dyn Broker, number: ClaimNumber, count: usize) -> Vec<Lease> {
    let claimed = broker.claim(number, count).await.unwrap();
    claimed.into_iter().map(|delivery| delivery.lease).collect()
}

pub(crate) async fn one(broker: &dyn Broker, number: ClaimNumber) -> Lease {
    let mut claimed = leases(broker, number, 1).await;
    assert_eq!(claimed.len(), 1, "one job is there to be claimed");
    claimed.remove(0)
}

fn later(delay_ms: u64, counts: bool) -> Postponement<'static> {
    Postponement {
        delay: Duration::from_millis(delay_ms),
        counts,
        reason: "because",
        gate: (!counts).then_some("openai"),
        note: None,
    }
}

pub(crate) fn note() -> HistoryNote {
    HistoryNote {
        attempt: 1,
        r#try: 2,
        class: "transient".to_owned(),
        cause: "503".to_owned(),
        delay_ms: Some(20),
        replica: "a".to_owned(),
    }
}
