//! Listing: pages that hold their place while jobs come and go, and what chooses among the jobs.

use std::time::Duration;

use backend_worker::queue::{JobState, Layout, ListCursor, ListQuery, ListedJob, NewJob};
use jobs::JobType;
use rstest::rstest;

use super::{FIRST, Fixture, bury, dead_key, failed, ids, numbers, one, order, put_off};
use crate::support::{enqueue, raw};

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn dead_letters_are_listed_newest_first_with_their_class(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    for id in ["1", "2", "3"] {
        bury(&f, id, number()).await;
        // Each in a millisecond of its own.
        f.redis.ask::<i64>(&["ZADD", dead_key(&f), id, id]).await;
    }
    let page = f.a.list(&failed(None, 10)).await.unwrap();
    assert_eq!(ids(&page), ["3", "2", "1"]);
    assert!(page.next.is_none());
    let ListedJob {
        kind,
        attempts_made,
        at,
        error,
        class,
        ..
    } = &page.jobs[0];
    assert_eq!(kind.as_deref(), Some("generate-flashcards"));
    assert_eq!((*attempts_made, *at), (1, Some(3)));
    assert_eq!(
        (error.as_deref(), class.as_deref()),
        (Some("no"), Some("transient"))
    );
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_list_is_read_in_pages_while_jobs_leave_it(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    for id in ["1", "2", "3", "4", "5", "6"] {
        bury(&f, id, number()).await;
        // All but one in the same millisecond.
        let at = if id == "6" { "8" } else { "7" };
        f.redis.ask::<i64>(&["ZADD", dead_key(&f), at, id]).await;
    }
    let first = f.a.list(&failed(None, 3)).await.unwrap();
    assert_eq!(ids(&first), ["6", "5", "4"]);
    // Two of them leave, and one fails again.
    f.a.retry(&["6", "5"], &order("o")).await.unwrap();
    let next = first.next_without([&first.jobs[0], &first.jobs[1]]).unwrap();
    let again = one(&*f.a, number()).await;
    f.a.fail(&again, "no", None).await.unwrap();
    let next: ListCursor = next.to_string().parse().unwrap();
    let rest = f.a.list(&failed(Some(&next), 2)).await.unwrap();
    assert_eq!(ids(&rest), ["3", "2"]);
    let last = f.a.list(&failed(rest.next.as_ref(), 9)).await.unwrap();
    assert_eq!(ids(&last), ["1"]);
    assert!(last.next.is_none());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn jobs_of_every_state_are_listed(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    for id in ["1", "2", "3", "4", "5", "6"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 4).await.unwrap();
    f.a.complete(&claimed[0].lease, "1").await.unwrap();
    f.a.fail(&claimed[1].lease, "x", None).await.unwrap();
    put_off(&f, &claimed[2].lease).await;
    for (state, expected) in [
        (JobState::Completed, &["1"][..]),
        (JobState::Failed, &["2"]),
        (JobState::Delayed, &["3"]),
        (JobState::Active, &["4"]),
        (JobState::Waiting, &["6", "5"]),
    ] {
        let query = ListQuery {
            state,
            ..failed(None, 1)
        };
        let mut page = f.a.list(&query).await.unwrap();
        let mut seen: Vec<String> = ids(&page).into_iter().map(str::to_owned).collect();
        while let Some(place) = page.next.take() {
            let query = ListQuery {
                after: Some(&place),
                ..query.clone()
            };
            page = f.a.list(&query).await.unwrap();
            seen.extend(ids(&page).into_iter().map(str::to_owned));
        }
        assert_eq!(seen, expected, "{state}");
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_type_and_an_age_choose(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    let mut number = numbers();
    for id in ["1", "2"] {
        bury(&f, id, number()).await;
    }
    let payload = raw("{}");
    let job = NewJob {
        id: "3",
        kind: JobType::ProcessImage,
        payload: &payload,
        max_attempts: 1,
        delay: Duration::ZERO,
    };
    f.a.enqueue(&job).await.unwrap();
    let lease = one(&*f.a, number()).await;
    f.a.fail(&lease, "x", None).await.unwrap();
    f.redis.ask::<i64>(&["ZADD", dead_key(&f), "5", "1"]).await;

    let of_type = ListQuery {
        kind: Some("process-image"),
        ..failed(None, 9)
    };
    assert_eq!(ids(&f.a.list(&of_type).await.unwrap()), ["3"]);
    let of_none = ListQuery {
        kind: Some("process"),
        ..failed(None, 9)
    };
    assert!(f.a.list(&of_none).await.unwrap().jobs.is_empty());
    let recent = ListQuery {
        since: Some(Duration::from_secs(3600)),
        ..failed(None, 9)
    };
    let page = f.a.list(&recent).await.unwrap();
    assert_eq!(ids(&page), ["3", "2"], "the other failed in 1970");
    assert!(page.next.is_none());
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn the_oldest_dead_letter_is_told(#[case] layout: Layout) {
    let f = Fixture::of(layout).await;
    assert_eq!(f.a.counts().await.unwrap().oldest_failed_ms, None);
    let mut number = numbers();
    for id in ["1", "2"] {
        bury(&f, id, number()).await;
    }
    f.redis
        .ask::<i64>(&["ZADD", dead_key(&f), "1700000000000", "2"])
        .await;
    let age = f.a.counts().await.unwrap().oldest_failed_ms.unwrap();
    assert!(age > 1_000_000_000, "{age} ms");
}
