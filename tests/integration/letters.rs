//! What every broker lets an operator do to its jobs, whatever its layout: list, retry, remove.

use std::time::Duration;

use backend_worker::queue::{
    ClaimNumber, Later, Layout, Listed, Note, Page, Place, Query, Removal, Retried, RetryOrder, State,
};

use crate::{
    broker_contract::{Fixture, note, one},
    support::{both_layouts, enqueue, enqueue_with, view},
};

const FIRST: ClaimNumber = ClaimNumber::FIRST;

both_layouts! {
    [Fixture]
    dead_letters_are_listed_newest_first_with_their_class
    a_list_is_read_in_pages_while_jobs_leave_it
    jobs_of_every_state_are_listed
    a_type_and_an_age_choose
    a_retried_job_runs_once_more_and_keeps_its_history
    all_attempts_are_given_anew_where_asked_for
    the_same_order_retries_nothing_twice
    only_dead_letters_are_retried
    a_poisoned_job_starts_with_a_fresh_count
    gates_may_hold_up_a_retried_job_anew
    a_removed_job_leaves_nothing
    an_active_job_is_not_removed
    ids_without_jobs_are_listed_and_removed
    keys_of_a_wrong_type_are_refused_and_nothing_is_written
    the_oldest_dead_letter_is_told
}

fn order(id: &str) -> RetryOrder<'_> {
    RetryOrder {
        id,
        by: "op",
        reset_attempts: false,
    }
}

fn failed<'a>(after: Option<&'a Place>, limit: usize) -> Query<'a> {
    Query {
        state: State::Failed,
        kind: None,
        since: None,
        after,
        limit,
    }
}

fn ids(page: &Page) -> Vec<&str> {
    page.jobs.iter().map(|job| job.id.as_str()).collect()
}

fn transient() -> Note {
    Note {
        delay_ms: None,
        ..note()
    }
}

/// Enqueues, claims and fails a job.
async fn bury(f: &Fixture, id: &str, number: ClaimNumber) {
    enqueue(&*f.a, id).await;
    let lease = one(&*f.a, number).await;
    f.a.fail(&lease, "no", Some(&transient())).await.unwrap();
}

/// Claim numbers, one after the other.
fn numbers() -> impl FnMut() -> ClaimNumber {
    let mut number = FIRST;
    move || {
        let this = number;
        number = number.next();
        this
    }
}

/// Names of all keys of the queue.
async fn keys(f: &Fixture) -> Vec<String> {
    let mut keys: Vec<String> = f.redis.ask(&["KEYS", "*"]).await;
    keys.sort();
    keys
}

/// The key that lists dead letters by their time.
fn dead_key(f: &Fixture) -> &'static str {
    match f.a.layout() {
        Layout::Bullmq => "bull:q:failed",
        Layout::Apalis => "q:ended:dead",
    }
}

async fn dead_letters_are_listed_newest_first_with_their_class(f: Fixture) {
    let mut number = numbers();
    for id in ["1", "2", "3"] {
        bury(&f, id, number()).await;
        // Each in a millisecond of its own.
        f.redis.ask::<i64>(&["ZADD", dead_key(&f), id, id]).await;
    }
    let page = f.a.list(&failed(None, 10)).await.unwrap();
    assert_eq!(ids(&page), ["3", "2", "1"]);
    assert!(page.next.is_none());
    let Listed {
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

async fn a_list_is_read_in_pages_while_jobs_leave_it(f: Fixture) {
    let mut number = numbers();
    for id in ["1", "2", "3", "4", "5", "6"] {
        bury(&f, id, number()).await;
        // All but one in the same millisecond.
        let at = if id == "6" { "8" } else { "7" };
        f.redis.ask::<i64>(&["ZADD", dead_key(&f), at, id]).await;
    }
    let first = f.a.list(&failed(None, 3)).await.unwrap();
    assert_eq!(ids(&first), ["6", "5", "4"]);
    // Two of them leave, and one fails anew.
    f.a.retry(&["6", "5"], &order("o")).await.unwrap();
    let next = first.next_without([&first.jobs[0], &first.jobs[1]]).unwrap();
    let again = one(&*f.a, number()).await;
    f.a.fail(&again, "no", None).await.unwrap();
    let next: Place = next.to_string().parse().unwrap();
    let rest = f.a.list(&failed(Some(&next), 2)).await.unwrap();
    assert_eq!(ids(&rest), ["3", "2"]);
    let last = f.a.list(&failed(rest.next.as_ref(), 9)).await.unwrap();
    assert_eq!(ids(&last), ["1"]);
    assert!(last.next.is_none());
}

async fn jobs_of_every_state_are_listed(f: Fixture) {
    for id in ["1", "2", "3", "4", "5", "6"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 4).await.unwrap();
    f.a.complete(&claimed[0].lease, "1").await.unwrap();
    f.a.fail(&claimed[1].lease, "x", None).await.unwrap();
    let later = Later {
        delay: Duration::from_secs(3600),
        counts: true,
        reason: "x",
        gate: None,
        note: None,
    };
    f.a.retry_at(&claimed[2].lease, later).await.unwrap();
    for (state, expected) in [
        (State::Completed, &["1"][..]),
        (State::Failed, &["2"]),
        (State::Delayed, &["3"]),
        (State::Active, &["4"]),
        (State::Waiting, &["6", "5"]),
    ] {
        let query = Query {
            state,
            ..failed(None, 1)
        };
        let mut page = f.a.list(&query).await.unwrap();
        let mut seen: Vec<String> = ids(&page).into_iter().map(str::to_owned).collect();
        while let Some(place) = page.next.take() {
            let query = Query {
                after: Some(&place),
                ..query.clone()
            };
            page = f.a.list(&query).await.unwrap();
            seen.extend(ids(&page).into_iter().map(str::to_owned));
        }
        assert_eq!(seen, expected, "{state}");
    }
}

async fn a_type_and_an_age_choose(f: Fixture) {
    let mut number = numbers();
    for id in ["1", "2"] {
        bury(&f, id, number()).await;
    }
    let payload = crate::support::raw("{}");
    let job = backend_worker::queue::NewJob {
        id: "3",
        kind: jobs::JobType::ProcessImage,
        payload: &payload,
        max_attempts: 1,
        delay: Duration::ZERO,
    };
    f.a.enqueue(&job).await.unwrap();
    let lease = one(&*f.a, number()).await;
    f.a.fail(&lease, "x", None).await.unwrap();
    f.redis.ask::<i64>(&["ZADD", dead_key(&f), "5", "1"]).await;

    let of_type = Query {
        kind: Some("process-image"),
        ..failed(None, 9)
    };
    assert_eq!(ids(&f.a.list(&of_type).await.unwrap()), ["3"]);
    let of_none = Query {
        kind: Some("process"),
        ..failed(None, 9)
    };
    assert!(f.a.list(&of_none).await.unwrap().jobs.is_empty());
    let recent = Query {
        since: Some(Duration::from_secs(3600)),
        ..failed(None, 9)
    };
    let page = f.a.list(&recent).await.unwrap();
    assert_eq!(ids(&page), ["3", "2"], "the other failed in 1970");
    assert!(page.next.is_none());
}

async fn a_retried_job_runs_once_more_and_keeps_its_history(f: Fixture) {
    let mut number = numbers();
    enqueue_with(&*f.a, "1", 1).await;
    let lease = one(&*f.a, number()).await;
    f.a.fail(&lease, "no", Some(&transient())).await.unwrap();
    assert_eq!(f.a.retry(&["1"], &order("o")).await.unwrap(), [Retried::Done]);

    let job = view(&*f.a, "1").await;
    assert_eq!(
        (job.state, job.attempts_made, job.error),
        (State::Waiting, 1, None)
    );
    let classes: Vec<&str> = job.history.iter().map(|line| line.note.class.as_str()).collect();
    assert_eq!(classes, ["transient", "retried"]);
    let line = &job.history[1].note;
    assert_eq!(
        (line.cause.as_str(), line.replica.as_str(), line.attempt),
        ("retried by hand", "op", 1)
    );
    assert!(f.a.list(&failed(None, 9)).await.unwrap().jobs.is_empty());

    // A late copy of the outcome that buried it changes nothing.
    f.a.fail(&lease, "no", Some(&transient())).await.unwrap();
    let mut again = f.a.claim(number(), 9).await.unwrap();
    let delivery = again.pop().unwrap();
    assert_eq!((delivery.attempt, delivery.max_attempts), (2, 1));
    assert!(again.is_empty());
    f.a.complete(&delivery.lease, "1").await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, State::Completed);
    assert_eq!(f.a.counts().await.unwrap().failed, 0);
}

async fn all_attempts_are_given_anew_where_asked_for(f: Fixture) {
    bury(&f, "1", FIRST).await;
    let anew = RetryOrder {
        reset_attempts: true,
        ..order("o")
    };
    assert_eq!(f.a.retry(&["1"], &anew).await.unwrap(), [Retried::Done]);
    assert_eq!(view(&*f.a, "1").await.attempts_made, 0);
    assert_eq!(f.a.claim(FIRST.next(), 1).await.unwrap()[0].attempt, 1);
}

async fn the_same_order_retries_nothing_twice(f: Fixture) {
    let mut number = numbers();
    bury(&f, "1", number()).await;
    bury(&f, "2", number()).await;
    for _ in 0..3 {
        assert_eq!(
            f.a.retry(&["1", "2"], &order("o")).await.unwrap(),
            [Retried::Done; 2]
        );
    }
    assert_eq!(f.a.counts().await.unwrap().waiting, 2);
    assert_eq!(view(&*f.a, "1").await.history.len(), 2);
    let lease = one(&*f.a, number()).await;
    f.a.fail(&lease, "no", None).await.unwrap();
    let id = lease.id.to_string();
    assert_eq!(f.a.retry(&[&id], &order("o")).await.unwrap(), [Retried::Again]);
    assert_eq!(view(&*f.a, &id).await.state, State::Failed);
    assert_eq!(
        f.a.retry(&[&id], &order("another")).await.unwrap(),
        [Retried::Done]
    );
}

async fn only_dead_letters_are_retried(f: Fixture) {
    for id in ["1", "2", "3"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(FIRST, 2).await.unwrap();
    f.a.complete(&claimed[0].lease, "1").await.unwrap();
    let before = f.a.counts().await.unwrap();
    assert_eq!(
        f.a.retry(&["1", "2", "3", "nobody"], &order("o")).await.unwrap(),
        [
            Retried::NotFailed,
            Retried::NotFailed,
            Retried::NotFailed,
            Retried::Broken
        ]
    );
    assert_eq!(f.a.counts().await.unwrap(), before);
}

async fn a_poisoned_job_starts_with_a_fresh_count(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let mut number = FIRST;
    let lose = async |number: &mut ClaimNumber| {
        f.begun_orphan(*number).await;
        *number = number.next().next();
        let found = f.recovered().await;
        f.swept().await;
        found.poisoned
    };
    for poisoned in [0, 0, 1] {
        assert_eq!(lose(&mut number).await, poisoned);
    }
    let page = f.a.list(&failed(None, 9)).await.unwrap();
    assert_eq!(page.jobs[0].class.as_deref(), Some("poison"));
    assert!(page.jobs[0].error.as_deref().unwrap().starts_with("poison: 3"));

    assert_eq!(f.a.retry(&["1"], &order("o")).await.unwrap(), [Retried::Done]);
    for poisoned in [0, 0, 1] {
        assert_eq!(lose(&mut number).await, poisoned, "three more, not one");
    }
    let classes: Vec<String> = view(&*f.a, "1")
        .await
        .history
        .into_iter()
        .map(|line| line.note.class)
        .collect();
    assert_eq!(classes, ["poison", "retried", "poison"]);
}

async fn gates_may_hold_up_a_retried_job_anew(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    let later = Later {
        delay: Duration::from_millis(1),
        counts: false,
        reason: "blocked",
        gate: Some("openai"),
        note: None,
    };
    f.a.retry_at(&lease, later).await.unwrap();
    let number = std::cell::Cell::new(FIRST);
    let second = crate::support::eventually("due", async || {
        number.set(number.get().next());
        f.a.claim(number.get(), 1).await.unwrap().pop()
    })
    .await;
    assert_eq!(second.waited, Duration::from_millis(1));
    f.a.fail(&second.lease, "waited 0 s in all", None).await.unwrap();
    f.a.retry(&["1"], &order("o")).await.unwrap();
    let third = f.a.claim(number.get().next(), 1).await.unwrap();
    assert_eq!(third[0].waited, Duration::ZERO);
}

async fn a_removed_job_leaves_nothing(f: Fixture) {
    let mut number = numbers();
    bury(&f, "other", number()).await;
    let before = keys(&f).await;
    bury(&f, "1", number()).await;
    assert_eq!(f.a.remove("1").await.unwrap(), Removal::Done);
    assert_eq!(f.a.remove("1").await.unwrap(), Removal::Unknown);
    assert_eq!(keys(&f).await, before);
    assert!(f.a.find("1").await.unwrap().is_none());

    for id in ["waits", "done", "later"] {
        enqueue(&*f.a, id).await;
    }
    let claimed = f.a.claim(number(), 3).await.unwrap();
    f.a.release(std::slice::from_ref(&claimed[0].lease))
        .await
        .unwrap();
    f.a.complete(&claimed[1].lease, "1").await.unwrap();
    let later = Later {
        delay: Duration::from_secs(3600),
        counts: true,
        reason: "x",
        gate: None,
        note: None,
    };
    f.a.retry_at(&claimed[2].lease, later).await.unwrap();
    for id in ["waits", "done", "later", "other"] {
        assert_eq!(f.a.remove(id).await.unwrap(), Removal::Done, "{id}");
        assert!(f.a.find(id).await.unwrap().is_none(), "{id}");
    }
    let left = keys(&f).await;
    let of_jobs = |key: &&String| {
        ["waits", "done", "later", "other", ":1"]
            .iter()
            .any(|id| key.contains(id))
    };
    // The queue's own list of ended jobs may be called so.
    let left: Vec<_> = left.iter().filter(of_jobs).collect();
    assert!(left.is_empty(), "{left:?}");
    let counts = f.a.counts().await.unwrap();
    assert_eq!(counts, backend_worker::queue::Counts::default());
}

async fn an_active_job_is_not_removed(f: Fixture) {
    enqueue(&*f.a, "1").await;
    let lease = one(&*f.a, FIRST).await;
    assert_eq!(f.a.remove("1").await.unwrap(), Removal::Active);
    f.a.complete(&lease, "1").await.unwrap();
    assert_eq!(view(&*f.a, "1").await.state, State::Completed);
}

async fn ids_without_jobs_are_listed_and_removed(f: Fixture) {
    bury(&f, "1", FIRST).await;
    // With colons, and named like keys of the queue or of another job.
    let strange = ["gone", "a:b:c", "1:logs", "meta", "events", "", "\u{1b}[2J"];
    for id in strange {
        f.redis.ask::<i64>(&["ZADD", dead_key(&f), "3", id]).await;
    }
    let page = f.a.list(&failed(None, 50)).await.unwrap();
    assert_eq!(page.jobs.len(), strange.len() + 1);
    let ghosts = &page.jobs[1..];
    assert!(ghosts.iter().all(|job| job.kind.is_none() && job.error.is_none()));
    let fates = f.a.retry(&strange, &order("o")).await.unwrap();
    assert_eq!(fates, [Retried::Broken; 7]);
    let before = keys(&f).await;
    for id in strange {
        assert_eq!(f.a.remove(id).await.unwrap(), Removal::Done, "{id:?}");
    }
    assert_eq!(keys(&f).await, before, "nobody else's key is gone");
    assert_eq!(ids(&f.a.list(&failed(None, 50)).await.unwrap()), ["1"]);
}

async fn keys_of_a_wrong_type_are_refused_and_nothing_is_written(f: Fixture) {
    let mut number = numbers();
    for id in ["1", "2"] {
        bury(&f, id, number()).await;
    }
    // One job's own key spoils that job alone.
    let (log, list) = match f.a.layout() {
        Layout::Bullmq => ("bull:q:1:logs", "bull:q:wait"),
        Layout::Apalis => ("q:history:1", "q:active"),
    };
    f.redis.ask::<()>(&["SET", log, "in the way"]).await;
    assert_eq!(f.a.list(&failed(None, 9)).await.unwrap().jobs.len(), 2);
    assert_eq!(
        f.a.retry(&["1", "2"], &order("o")).await.unwrap(),
        [Retried::Broken, Retried::Done]
    );
    // The queue's own keys stop everything.
    f.redis.ask::<i64>(&["DEL", list]).await;
    f.redis.ask::<()>(&["SET", list, "in the way"]).await;
    assert!(f.a.retry(&["1"], &order("p")).await.unwrap_err().is_refusal());
    assert!(f.a.remove("1").await.unwrap_err().is_refusal());
    assert_eq!(view(&*f.a, "1").await.state, State::Failed);
    f.redis.ask::<i64>(&["DEL", list, dead_key(&f)]).await;
    f.redis.ask::<()>(&["SET", dead_key(&f), "in the way"]).await;
    assert!(f.a.list(&failed(None, 9)).await.unwrap_err().is_refusal());
    assert!(f.a.retry(&["1"], &order("p")).await.unwrap_err().is_refusal());
}

async fn the_oldest_dead_letter_is_told(f: Fixture) {
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

/// A stock worker of apalis buries jobs in its own list only.
#[tokio::test]
async fn dead_letters_of_a_stock_apalis_worker_are_found_too() {
    for zset in [false, true] {
        let f = Fixture::of(Layout::Apalis).await;
        let envelope = r#"{"data":{"type":"inner"},"type":"process-image"}"#;
        for id in ["s1", "s2", "s3"] {
            f.redis.ask::<i64>(&["HSET", "q:data", id, envelope]).await;
            let meta = format!("q:meta:{id}");
            let result = r#"{"Err":"stock"}"#;
            f.redis
                .ask::<i64>(&[
                    "HSET", &meta, "status", "Killed", "attempts", "2", "result", result,
                ])
                .await;
            match zset {
                true => f.redis.ask::<i64>(&["ZADD", "q:dead", "1700000000", id]).await,
                false => f.redis.ask::<i64>(&["SADD", "q:dead", id]).await,
            };
        }
        bury(&f, "ours", FIRST).await;
        let page = f.a.list(&failed(None, 9)).await.unwrap();
        let mut found = ids(&page);
        assert_eq!(found.remove(0), "ours");
        found.sort_unstable();
        assert_eq!(found, ["s1", "s2", "s3"]);
        assert_eq!(page.jobs[1].error.as_deref(), Some("stock"));
        assert_eq!(page.jobs[1].kind.as_deref(), Some("process-image"));
        assert_eq!(
            f.a.retry(&["s1", "s2"], &order("o")).await.unwrap(),
            [Retried::Done; 2]
        );
        assert_eq!(f.a.remove("s3").await.unwrap(), Removal::Done);
        assert_eq!(ids(&f.a.list(&failed(None, 9)).await.unwrap()), ["ours"]);
    }
}
