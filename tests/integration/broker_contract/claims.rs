//! What a claim hands out, and how what it handed out goes back: released, lost sight of, left behind.

use backend_worker::queue::{Broker, BrokerError, Delivery, Layout, Lease, WriteResult};
use rstest::rstest;

use super::{FIRST, Fixture, leases, one};
use crate::support::{enqueue, eventually, view};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn claims_in_order_and_no_more_than_asked(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
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

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_claim_without_a_lease_is_refused(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    enqueue(&*f.a, "1").await;
    assert!(matches!(
        f.brief.claim(FIRST, 1).await,
        Err(BrokerError::Unleased)
    ));
    assert_eq!(one(&*f.a, FIRST).await.id.as_ref(), "1");
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_resent_claim_returns_the_same_jobs(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    let mut again = f.a.claim(FIRST, 2).await.unwrap();
    again.sort_by(|x, y| x.lease.id.cmp(&y.lease.id));
    let leases = |deliveries: &[Delivery]| -> Vec<_> {
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

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_released_job_is_next_in_line(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = leases(&*f.a, FIRST, 2).await;
    for _ in 0..2 {
        assert_eq!(f.a.release(&claimed).await.unwrap(), 2, "said again, it stands");
    }
    assert_eq!(view(&*f.a, "1").await.attempts_made, 0);
    let again = f.b.claim(FIRST, 9).await.unwrap();
    let order: Vec<_> = again.iter().map(|d| (d.lease.id.as_ref(), d.attempt)).collect();
    assert_eq!(order, [("1", 1), ("2", 1), ("3", 1)]);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn renewing_tells_what_is_lost(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for n in 0..5 {
        enqueue(&*f.a, &n.to_string()).await;
    }
    let mut held = leases(&*f.a, FIRST, 5).await;
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

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_stray_of_this_replica_goes_back(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
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
        WriteResult::Applied
    );
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn leaving_puts_everything_back(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for n in 0..450 {
        enqueue(&*f.a, &n.to_string()).await;
    }
    let (mut number, mut claimed) = (FIRST, 0);
    while claimed < 450 {
        claimed += f.a.claim(number, 450).await.unwrap().len();
        number = number.next();
    }
    f.a.remove_replica().await.unwrap();
    let counts = f.a.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.active), (450, 0));
    assert!(matches!(f.a.claim(number, 1).await, Err(BrokerError::Unleased)));
    assert_eq!(f.b.claim(FIRST, 1).await.unwrap()[0].attempt, 1);
}
