//! `USER_MAX_CONCURRENT`: how many jobs of one student are in flight, over the fleet.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use backend_worker::{
    queue::{Broker, BrokerOptions, Layout, Lease, apalis::ApalisBroker, bullmq::BullmqBroker},
    simulator::Provider,
};
use nix::sys::signal::Signal;
use rstest::rstest;

use super::{Claims, add, scenario};
use crate::support::{Scene, TestRedis, eventually};

fn capped(redis: &TestRedis, layout: Layout, worker: &str, most: u32) -> Arc<dyn Broker> {
    let options = BrokerOptions {
        most_per_owner: NonZeroU32::new(most),
        ..BrokerOptions::default()
    };
    match layout {
        Layout::Bullmq => Arc::new(BullmqBroker::new(redis.connection(), "q", worker, options)),
        Layout::Apalis => Arc::new(ApalisBroker::new(redis.connection(), "q", worker, options)),
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_student_at_the_cap_is_passed_over(#[case] layout: Layout) {
    let redis = TestRedis::start().await;
    let (a, b) = (capped(&redis, layout, "a", 2), capped(&redis, layout, "b", 2));
    add(&*a, "heavy", 40).await;
    add(&*a, "ann", 3).await;
    let (mut first, mut second) = (Claims::of(&*a).await, Claims::of(&*b).await);
    let taken = first.take(8).await;
    let leases: Vec<Lease> = taken.iter().map(|delivery| delivery.lease.clone()).collect();
    let ids: Vec<&str> = leases.iter().map(|lease| &*lease.id).collect();
    assert_eq!(ids, ["heavy-0", "ann-0", "heavy-1", "ann-1"]);
    // The other replica counts them too, and is not told to look again for nothing.
    assert_eq!(second.ids(8).await, Vec::<String>::new());
    let _the_marker_of_their_producer = b.wait(Duration::from_millis(300)).await.unwrap();
    assert!(
        !b.wait(Duration::from_millis(300)).await.unwrap(),
        "nothing can start"
    );
    // Others start at once, however many jobs wait before theirs.
    add(&*a, "bob", 1).await;
    assert!(b.wait(Duration::from_secs(5)).await.unwrap());
    assert_eq!(second.ids(8).await, ["bob-0"]);
    // The end of a job makes room for another one, and says so.
    a.complete(&leases[0], "{}").await.unwrap();
    assert!(b.wait(Duration::from_secs(5)).await.unwrap());
    assert_eq!(second.ids(8).await, ["heavy-2"]);
    a.fail(&leases[2], "refused", None).await.unwrap();
    assert!(b.wait(Duration::from_secs(5)).await.unwrap());
    assert_eq!(second.ids(8).await, ["heavy-3"]);
    // So does one that goes back, which is next.
    a.release(&leases[1..2]).await.unwrap();
    assert_eq!(first.ids(8).await, ["ann-0"]);
    // A replica without a limit takes them all.
    let other = redis.broker(layout, "q", "c");
    let rest = Claims::of(&*other).await.rest().await;
    assert_eq!(rest.len(), 44 - 7);
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_killed_replica_leaves_no_student_at_the_cap(#[case] layout: Layout) {
    let scene = Scene::set(Duration::from_millis(150)).await;
    let queue = format!("{layout}:ai-jobs=6");
    let env = [
        ("QUEUES", queue.as_str()),
        ("OPENAI_RATE_LIMIT_RPM", "0"),
        ("OPENAI_MAX_CONCURRENT", "0"),
        ("USER_MAX_CONCURRENT", "2"),
        ("LEASE_TTL", "5s"),
    ];
    let (doomed, survivor) = (scene.worker(&env).await, scene.worker(&env).await);
    let broker: Arc<dyn Broker> = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let journal = scene.simulator.journal();
    for n in 1000..1040 {
        scenario::add(&*broker, "heavy", &format!("job-{n}")).await;
    }
    for n in 2000..2010 {
        scenario::add(&*broker, &format!("student-{n}"), &format!("job-{n}")).await;
    }
    journal
        .wait_until(|journal| journal.counts(Provider::OpenAi).requests >= 20)
        .await;
    let killed = journal.elapsed_ms();
    doomed.signal(Signal::SIGKILL);
    eventually("all jobs are done", async || {
        let counts = broker.counts().await.unwrap();
        assert_eq!(counts.failed, 0);
        (counts.completed >= 50).then_some(())
    })
    .await;
    let calls: Vec<_> = journal.of(Provider::OpenAi);
    let heavy: Vec<(f64, f64)> = calls
        .iter()
        .filter(|call| call.marker.starts_with("job-1"))
        .map(|call| {
            (
                call.at_ms,
                call.took_ms
                    .map_or(killed.max(call.at_ms), |took| call.at_ms + took),
            )
        })
        .collect();
    for (at, _) in &heavy {
        let at_once = heavy.iter().filter(|(from, to)| from <= at && at < to).count();
        assert!(
            at_once <= 2,
            "{at_once} calls of one student at {at} ms, killed at {killed} ms"
        );
    }
    // The others did not wait behind him.
    let last = calls
        .iter()
        .rposition(|call| call.marker.starts_with("job-2"))
        .unwrap();
    assert!(last < 30, "the last of the others was call {last}");
    survivor.signal(Signal::SIGTERM);
    survivor.ended().await;
}
