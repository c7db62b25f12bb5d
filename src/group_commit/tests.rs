use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::timeout};

use super::*;

const FOUR: BatchLimits = BatchLimits {
    calls: 1,
    requests: 4,
    partial: 4,
    bytes: 10,
};

/// Notes what each call carried; each waits until it is let go.
struct Road {
    calls: Mutex<Vec<Vec<usize>>>,
    gate: Notify,
    open: bool,
}

impl Road {
    fn new(open: bool) -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            gate: Notify::new(),
            open,
        })
    }

    /// A batch over this road, where each request is a number that weighs as much, and is answered by its double.
    fn batch(self: &Arc<Self>) -> Batcher<usize, usize> {
        self.lanes(1)
    }

    /// The same, with so many calls under way at a time.
    fn lanes(self: &Arc<Self>, calls: usize) -> Batcher<usize, usize> {
        let road = self.clone();
        Batcher::new(
            BatchLimits { calls, ..FOUR },
            |n| *n,
            move |requests| {
                let road = road.clone();
                async move {
                    road.calls.lock().unwrap().push(requests.clone());
                    if !road.open {
                        road.gate.notified().await;
                    }
                    assert!(!requests.contains(&666), "this request kills its call");
                    requests.into_iter().map(|n| 2 * n).collect()
                }
            },
        )
    }

    fn calls(&self) -> Vec<Vec<usize>> {
        self.calls.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn what_comes_together_travels_together_and_each_gets_its_own_answer() {
    let road = Road::new(true);
    let batch = road.batch();
    assert_eq!(batch.ask(1).await, Some(2));
    let answers = join_all([1, 2, 3, 1, 1, 2].map(|n| batch.ask(n))).await;
    assert_eq!(answers, [2, 4, 6, 2, 2, 4].map(Some));
    assert_eq!(
        road.calls(),
        [vec![1], vec![1, 2, 3, 1], vec![1, 2]],
        "four at most"
    );
}

#[tokio::test]
async fn a_call_is_as_heavy_as_allowed_and_what_is_heavier_travels_alone() {
    let road = Road::new(true);
    let batch = road.batch();
    join_all([5, 5, 1, 99, 1].map(|n| batch.ask(n))).await;
    assert_eq!(road.calls(), [vec![5, 5], vec![1], vec![99], vec![1]]);
}

#[tokio::test]
async fn what_comes_while_a_call_is_under_way_waits_for_it_and_who_leaves_is_left_out() {
    let road = Road::new(false);
    let batch = road.batch();
    let ask = |n| {
        let batch = batch.clone();
        tokio::spawn(async move { batch.ask(n).await })
    };
    let first = ask(1);
    while road.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    let (leaves, stays) = (ask(2), ask(3));
    tokio::task::yield_now().await;
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    // The first asker leaves as well: the call goes on, for the others.
    first.abort();
    road.gate.notify_one();
    while road.calls().len() < 2 {
        tokio::task::yield_now().await;
    }
    road.gate.notify_one();
    assert_eq!(stays.await.unwrap(), Some(6));
    assert_eq!(road.calls(), [vec![1], vec![3]]);
}

#[tokio::test]
async fn a_full_call_sets_out_beside_the_first_and_a_third_waits() {
    let road = Road::new(false);
    let batch = road.lanes(2);
    let ask = |n| {
        let batch = batch.clone();
        tokio::spawn(async move { batch.ask(n).await })
    };
    let settled = async |calls: usize| {
        while road.calls().len() < calls {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(road.calls().len(), calls);
    };
    let mut asked = vec![ask(1)];
    settled(1).await;
    asked.extend([2, 2, 2].map(ask));
    settled(1).await; // Not full.
    asked.push(ask(2));
    settled(2).await;
    asked.extend([1, 1, 1, 1, 3].map(ask));
    settled(2).await; // No third one, full or not.
    // Whichever ends first takes the full load; with less than that to do, one goes on and the other is over.
    road.gate.notify_one();
    settled(3).await;
    road.gate.notify_one();
    settled(3).await;
    road.gate.notify_one();
    settled(4).await;
    road.gate.notify_one();
    let answers = join_all(asked).await.into_iter().map(Result::unwrap);
    let doubles = [2, 4, 4, 4, 4, 2, 2, 2, 2, 6].map(Some);
    assert_eq!(answers.collect::<Vec<_>>(), doubles);
    assert_eq!(road.calls(), [vec![1], vec![2; 4], vec![1; 4], vec![3]]);
    while batch.0.queue().calls_in_flight > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_call_that_dies_leaves_nobody_waiting() {
    let road = Road::new(true);
    let batch = road.batch();
    let all = join_all([1, 2, 666, 3].map(|n| batch.ask(n)));
    let answers = timeout(Duration::from_secs(10), all).await.unwrap();
    assert_eq!(answers, [Some(2), Some(4), None, None]);
    assert_eq!(batch.ask(4).await, Some(8), "the next call is made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_when_many_threads_ask() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let batch = Batcher::new(
        FOUR,
        |_| 0,
        move |requests: Vec<usize>| {
            counted.fetch_add(requests.len(), Ordering::Relaxed);
            async move { requests }
        },
    );
    let asks = (0..4).map(|thread| {
        let batch = batch.clone();
        tokio::spawn(async move {
            for n in 0..5_000 {
                assert_eq!(batch.ask(thread * 10_000 + n).await, Some(thread * 10_000 + n));
            }
        })
    });
    for ended in timeout(Duration::from_secs(60), join_all(asks)).await.unwrap() {
        ended.unwrap();
    }
    assert_eq!(sent.load(Ordering::Relaxed), 20_000);
}

#[tokio::test]
async fn a_line_that_would_not_fill_a_call_goes_in_small_ones() {
    let road = Road::new(true);
    let carry = {
        let road = road.clone();
        move |requests: Vec<usize>| {
            road.calls.lock().unwrap().push(requests.clone());
            async move { requests }
        }
    };
    let batch = Batcher::new(BatchLimits { partial: 2, ..FOUR }, |_| 0, carry);
    join_all([1, 2, 3].map(|n| batch.ask(n))).await;
    join_all([1, 2, 3, 4, 5].map(|n| batch.ask(n))).await;
    assert_eq!(road.calls(), [vec![1, 2], vec![3], vec![1, 2, 3, 4], vec![5]]);
}
