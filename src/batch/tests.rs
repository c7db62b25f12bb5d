use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::timeout};

use super::*;

const FOUR: Load = Load {
    requests: 4,
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
    fn batch(self: &Arc<Self>) -> Batch<usize, usize> {
        let road = self.clone();
        Batch::new(
            FOUR,
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
    let batch = Batch::new(
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
