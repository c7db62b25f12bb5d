//! Group commit: what is asked while a call is under way goes together into the next one.
//!
//! Alone, a request leaves at once. Under load a call carries many, so that Redis and this process pay for a round
//! trip once and not once a request. Only what would fill a call does not wait for one that is under way.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

/// Takes requests to where they are answered, and brings the answers back in the same order.
type Carry<Q, A> = dyn Fn(Vec<Q>) -> BoxFuture<'static, Vec<A>> + Send + Sync;

/// Requests that travel together.
pub(crate) struct Batch<Q, A>(Arc<Inner<Q, A>>);

struct Inner<Q, A> {
    carry: Box<Carry<Q, A>>,
    weigh: fn(&Q) -> usize,
    most: Bounds,
    queue: Mutex<Queue<Q, A>>,
}

/// How much travels at a time, at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Calls under way; another one sets out beside the first when it is full.
    pub(crate) calls: usize,
    /// Requests in a call.
    pub(crate) requests: usize,
    /// Requests in a call while those that wait would not fill one.
    pub(crate) partial: usize,
    /// Bytes in a call; a request that is heavier travels alone.
    pub(crate) bytes: usize,
}

struct Queue<Q, A> {
    waiting: VecDeque<(Q, oneshot::Sender<A>)>,
    under_way: usize,
}

impl<Q, A> Clone for Batch<Q, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q, A> fmt::Debug for Batch<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("most", &self.0.most)
            .finish_non_exhaustive()
    }
}

impl<Q: Send + 'static, A: Send + 'static> Batch<Q, A> {
    /// Requests for `carry`, each as heavy as `weigh` says, in bytes.
    pub(crate) fn new<F, C>(most: Bounds, weigh: fn(&Q) -> usize, carry: C) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
        C: Fn(Vec<Q>) -> F + Send + Sync + 'static,
    {
        Self(Arc::new(Inner {
            carry: Box::new(move |requests| Box::pin(carry(requests))),
            weigh,
            most,
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                under_way: 0,
            }),
        }))
    }

    /// Asks, and waits for the answer; `None` when the call that carried the request died. A request whose asker has
    /// gone before it left is not sent.
    pub(crate) async fn ask(&self, request: Q) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        if self.0.line_up(request, answer) {
            // In a task of its own: it goes on when this asker leaves, and starts after whoever else is about to ask.
            let inner = self.0.clone();
            tokio::spawn(Ride { inner, over: false }.run());
        }
        answered.await.ok()
    }
}

impl<Q, A> Inner<Q, A> {
    fn queue(&self) -> MutexGuard<'_, Queue<Q, A>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether somebody has to set out now.
    fn line_up(&self, request: Q, answer: oneshot::Sender<A>) -> bool {
        let mut queue = self.queue();
        queue.waiting.push_back((request, answer));
        let sets_out = queue.under_way == 0
            || (queue.under_way < self.most.calls && queue.waiting.len() >= self.most.requests);
        queue.under_way += usize::from(sets_out);
        sets_out
    }

    /// The next load of a ride; empty when it is over: nobody waits, or other rides are enough for who does.
    fn load(&self) -> (Vec<Q>, Vec<oneshot::Sender<A>>) {
        let mut queue = self.queue();
        let (mut requests, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        let full = queue.waiting.len() >= self.most.requests;
        let most = if full {
            self.most.requests
        } else {
            self.most.partial
        };
        let needed = queue.under_way == 1 || full;
        while needed && let Some((request, answer)) = queue.waiting.pop_front() {
            if answer.is_closed() {
                continue;
            }
            bytes = bytes.saturating_add((self.weigh)(&request));
            if !requests.is_empty() && (bytes > self.most.bytes || requests.len() >= most) {
                queue.waiting.push_front((request, answer));
                break;
            }
            requests.push(request);
            answers.push(answer);
        }
        queue.under_way -= usize::from(requests.is_empty());
        (requests, answers)
    }
}

/// Carries loads until it is needed no more.
struct Ride<Q, A> {
    inner: Arc<Inner<Q, A>>,
    over: bool,
}

impl<Q, A> Ride<Q, A> {
    async fn run(mut self) {
        loop {
            let (requests, askers) = self.inner.load();
            if requests.is_empty() {
                self.over = true;
                return;
            }
            let answers = (self.inner.carry)(requests).await;
            for (asker, answer) in askers.into_iter().zip(answers) {
                let _ = asker.send(answer); // Who has left needs none.
            }
        }
    }
}

impl<Q, A> Drop for Ride<Q, A> {
    /// After a panic, or at the end of the runtime: whoever waits hears that no answer comes, and the next may ask.
    fn drop(&mut self) {
        if !self.over {
            let mut queue = self.inner.queue();
            queue.under_way -= 1;
            if queue.under_way == 0 {
                queue.waiting.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;
