//! A leader, and jobs that wait for its result, as the queue and the store of results see them.

use std::{sync::Arc, time::Duration};

use backend_worker::{
    connection::Connection,
    deduplication::{Deduplicate, Deduplication, DeduplicationSettings, Joined},
    queue::{Answered, Broker, ClaimNumber, Completion, Delivery, EqualJobs, JobState, Layout, WriteResult},
};
use jobs::JobType;
use rstest::rstest;

use crate::support::{TestRedis, enqueue, view};

const FIRST: ClaimNumber = ClaimNumber::FIRST;

fn deduplication(connection: Connection) -> Deduplication {
    let settings = DeduplicationSettings {
        mode: Deduplicate::User,
        keep_for: Duration::from_secs(60),
    };
    Deduplication::new(connection, settings, "userId".into(), "r")
}

/// Two jobs that were claimed, and what makes them equal.
struct Two {
    redis: TestRedis,
    broker: Arc<dyn Broker>,
    deduplication: Deduplication,
    claimed: Vec<Delivery>,
    equal: EqualJobs,
}

impl Two {
    async fn claimed(layout: Layout) -> Self {
        let redis = TestRedis::start().await;
        let broker = redis.broker(layout, "q", "w");
        broker.renew(&[]).await.unwrap();
        for id in ["1", "2"] {
            enqueue(&*broker, id).await;
        }
        let claimed = broker.claim(FIRST, 2).await.unwrap();
        let deduplication = deduplication(redis.connection());
        let payload = bytes::Bytes::from_static(br#"{"userId":"ann"}"#);
        let equal = deduplication
            .equals_of(
                &*broker,
                &claimed[0],
                JobType::GenerateFlashcards,
                &payload,
                "ann",
            )
            .await
            .unwrap();
        Self {
            redis,
            broker,
            deduplication,
            claimed,
            equal,
        }
    }

    async fn join(&self, nth: usize) -> Joined {
        let kind = JobType::GenerateFlashcards;
        self.deduplication
            .join(&*self.broker, &self.claimed[nth], kind, &self.equal)
            .await
    }

    async fn complete_first(&self) {
        let completion = Completion {
            lease: self.claimed[0].lease.clone(),
            result: r#"{"success":true,"flashcards":[{"front":"a","back":"b"}]}"#.to_owned(),
            equal: Some((self.equal.clone(), Answered::New)),
        };
        for _ in 0..2 {
            let completed = self
                .broker
                .complete_all(std::slice::from_ref(&completion), None)
                .await;
            assert!(
                matches!(completed.settled[..], [Ok(WriteResult::Applied)]),
                "{completed:?}"
            );
        }
    }

    async fn await_second(&self) {
        let lease = &self.claimed[1].lease;
        let hour = Duration::from_secs(3600);
        for _ in 0..2 {
            let settled = self.broker.await_equal(lease, hour, "because", &self.equal).await;
            assert_eq!(
                settled.unwrap(),
                WriteResult::Applied,
                "sent again, it does nothing"
            );
        }
    }

    async fn expect_second_gets_the_result(&self) {
        let job = view(&*self.broker, &self.claimed[1].lease.id).await;
        assert_eq!((job.state, job.attempts_made), (JobState::Waiting, 0));
        let again = self.broker.claim(FIRST.next(), 2).await.unwrap();
        assert_eq!((again.len(), again[0].attempt), (1, 1));
        let kind = JobType::GenerateFlashcards;
        let joined = self
            .deduplication
            .join(&*self.broker, &again[0], kind, &self.equal)
            .await;
        assert!(matches!(joined, Joined::Reuses(_)), "{joined:?}");
        let left: Vec<String> = self.redis.ask(&["KEYS", "dedup:*:waiting*"]).await;
        assert_eq!(left, [""; 0]);
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_leader_wakes_those_that_wait(#[case] layout: Layout) {
    let two = Two::claimed(layout).await;
    assert!(matches!(two.join(0).await, Joined::Leads));
    assert!(
        matches!(two.join(0).await, Joined::Leads),
        "asked again, it still leads"
    );
    let Joined::Waits(left) = two.join(1).await else {
        panic!("both lead")
    };
    assert!(
        left > Duration::from_secs(5) && left < Duration::from_secs(20),
        "{left:?}"
    );
    two.await_second().await;
    let id = &two.claimed[1].lease.id;
    assert_eq!(view(&*two.broker, id).await.state, JobState::Delayed);
    two.complete_first().await;
    two.expect_second_gets_the_result().await;
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_leader_that_ends_before_a_job_waits_leaves_it_in_the_line(#[case] layout: Layout) {
    let two = Two::claimed(layout).await;
    assert!(matches!(two.join(0).await, Joined::Leads));
    assert!(matches!(two.join(1).await, Joined::Waits(_)));
    two.complete_first().await;
    two.await_second().await;
    two.expect_second_gets_the_result().await;
}
