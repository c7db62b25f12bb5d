//! The claim beside completions: one call ends jobs and claims others into their slots.

use std::sync::Arc;

use backend_worker::queue::{Broker, Completion, CompletionResults, Lease, WriteResult};

use super::FIRST;
use crate::support::{Script, TestRedis, enqueue, options, replica, until_completed};

/// A queue with jobs of which the first `claimed` are this replica's.
async fn queue(ids: &[&str], claimed: usize) -> (TestRedis, Arc<dyn Broker>, Vec<Lease>) {
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    broker.renew(&[]).await.unwrap();
    for id in ids {
        enqueue(&*broker, id).await;
    }
    let claimed = broker.claim(FIRST, claimed).await.unwrap();
    let leases = claimed.into_iter().map(|delivery| delivery.lease).collect();
    (redis, broker, leases)
}

fn completion(lease: &Lease) -> Completion {
    Completion {
        lease: lease.clone(),
        result: "1".to_owned(),
        equal: None,
    }
}

/// Ids of what was claimed beside completions that were all applied; `None` when nothing was to be.
fn claimed(completed: CompletionResults) -> Option<Vec<String>> {
    for settled in completed.settled {
        assert_eq!(settled.unwrap(), WriteResult::Applied);
    }
    let deliveries = completed.claimed?.unwrap();
    Some(deliveries.into_iter().map(|d| d.lease.id.to_string()).collect())
}

#[tokio::test]
async fn as_many_are_claimed_as_have_ended() {
    let (redis, broker, leases) = queue(&["1", "2", "3", "4", "5", "6"], 3).await;

    let calls = redis.scripts().await;
    let ended = [completion(&leases[0]), completion(&leases[1])];
    let next = FIRST.next();
    // The first use of a script may have to bring it along.
    assert_eq!(
        claimed(broker.complete_all(&ended, Some(next)).await).unwrap(),
        ["4", "5"]
    );
    assert!(redis.scripts().await <= calls + 2);

    // Its answer was lost: the number tells what it had claimed, and claims nothing more.
    let again = broker.claim(next, 9).await.unwrap();
    let mut ids: Vec<&str> = again.iter().map(|d| &*d.lease.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["4", "5"]);
    assert!(
        again
            .iter()
            .all(|d| d.lease.token.ends_with(&format!(":{}", next.number())))
    );
    // And so does the call itself.
    let mut ids = claimed(broker.complete_all(&ended, Some(next)).await).unwrap();
    ids.sort_unstable();
    assert_eq!(ids, ["4", "5"]);

    // Without a number nothing is claimed.
    assert_eq!(
        claimed(broker.complete_all(&[completion(&leases[2])], None).await),
        None
    );
    let counts = broker.counts().await.unwrap();
    assert_eq!((counts.completed, counts.active, counts.waiting), (3, 2, 1));
}

#[tokio::test]
async fn the_queues_own_limits_hold_beside_completions() {
    let (redis, broker, leases) = queue(&["1", "2", "3", "4"], 2).await;
    // One place only, and one job is still in it.
    redis
        .ask::<()>(&["HSET", "bull:q:meta", "concurrency", "1"])
        .await;
    let second = FIRST.next();
    assert_eq!(
        claimed(broker.complete_all(&[completion(&leases[0])], Some(second)).await).unwrap(),
        [""; 0]
    );
    let third = second.next();
    assert_eq!(
        claimed(broker.complete_all(&[completion(&leases[1])], Some(third)).await).unwrap(),
        ["3"]
    );

    let lease = broker.claim(third, 1).await.unwrap().remove(0).lease;
    broker.set_paused(true).await.unwrap();
    let fourth = third.next();
    assert_eq!(
        claimed(broker.complete_all(&[completion(&lease)], Some(fourth)).await).unwrap(),
        [""; 0]
    );
    assert_eq!(broker.counts().await.unwrap().waiting, 1);
}

#[tokio::test]
async fn a_claim_that_fails_costs_no_completion() {
    let (redis, broker, leases) = queue(&["1", "2"], 2).await;
    redis.ask::<()>(&["SET", "bull:q:wait", "none"]).await;
    let next = FIRST.next();
    let CompletionResults {
        settled,
        claimed: beside,
    } = broker.complete_all(&[completion(&leases[0])], Some(next)).await;
    assert_eq!(settled.into_iter().next().unwrap().unwrap(), WriteResult::Applied);
    assert!(beside.unwrap().unwrap_err().is_refusal());

    // A completion that fails frees no slot: nothing is claimed into it, and the number is still to be used.
    redis.ask::<()>(&["DEL", "bull:q:wait"]).await;
    enqueue(&*broker, "3").await;
    redis.ask::<()>(&["DEL", "bull:q:2"]).await;
    redis.ask::<()>(&["SET", "bull:q:2", "no hash"]).await;
    let CompletionResults {
        settled,
        claimed: beside,
    } = broker.complete_all(&[completion(&leases[1])], Some(next)).await;
    assert!(settled.into_iter().next().unwrap().unwrap_err().is_refusal());
    assert!(beside.is_none());
    assert_eq!(broker.claim(next, 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_replica_without_a_renewal_ends_its_jobs_and_claims_none() {
    let (_redis, broker, leases) = queue(&["1", "2"], 1).await;
    broker.remove_replica().await.unwrap(); // It holds nothing from here on.
    assert!(
        broker
            .complete_all(&[completion(&leases[0])], Some(FIRST.next()))
            .await
            .claimed
            .is_none()
    );
    assert_eq!(broker.counts().await.unwrap().active, 0);
}

/// Under load the claim loop has nothing to do: a job costs one call.
#[tokio::test]
async fn a_full_queue_costs_one_call_a_job() {
    const JOBS: u64 = 200;
    let redis = TestRedis::start().await;
    let broker = redis.bullmq("q", "w");
    for id in 0..JOBS {
        enqueue(&*broker, &id.to_string()).await;
    }
    let before = redis.scripts().await;
    let running = replica(broker.clone(), 1, Script::echo(), &options());
    until_completed(&*broker, JOBS).await;
    let calls = redis.scripts().await - before;
    running.stop().await;
    assert!(calls < JOBS + JOBS / 4, "{calls} calls for {JOBS} jobs");
}

#[tokio::test]
async fn claims_are_under_way_together_and_one_that_is_overtaken_claims_nothing() {
    let (_redis, broker, leases) = queue(&["1", "2", "3", "4"], 2).await;
    let (second, third) = (FIRST.next(), FIRST.next().next());
    let complete = async |lease: &Lease, number| {
        claimed(broker.complete_all(&[completion(lease)], Some(number)).await).unwrap()
    };
    assert_eq!(complete(&leases[1], third).await, ["3"]);
    assert_eq!(complete(&leases[0], second).await, [""; 0]);
    // Both answers were lost: each number tells what is left of its claim.
    assert_eq!(broker.claim(third, 9).await.unwrap()[0].lease.id.as_ref(), "3");
    assert!(broker.claim(second, 9).await.unwrap().is_empty());
    let rest = broker.claim(third.next(), 9).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(&*rest[0].lease.id, "4");
}
