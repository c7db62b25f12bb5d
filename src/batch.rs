//! Group commit: what is asked while a call is under way goes together into the next one.
//!
//! Alone, a request leaves at once. Under load a call carries many, so that Redis and this process pay for a round
//! trip once and not once a request.

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
    most: Load,
    queue: Mutex<Queue<Q, A>>,
}

/// How much a call carries at most; a request that is heavier travels alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests.
    pub(crate) requests: usize,
    /// Bytes.
    pub(crate) bytes: usize,
}

struct Queue<Q, A> {
    waiting: VecDeque<(Q, oneshot::Sender<A>)>,
    under_way: bool,
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
    /// Requests for `carry`, at most so many in one call, each as heavy as `weigh` says, in bytes.
    pub(crate) fn new<F, C>(most: Load, weigh: fn(&Q) -> usize, carry: C) -> Self
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
                under_way: false,
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
        !std::mem::replace(&mut queue.under_way, true)
    }

    /// The next load; empty when nobody waits any more, and then nothing is under way.
    fn load(&self) -> (Vec<Q>, Vec<oneshot::Sender<A>>) {
        let mut queue = self.queue();
        let (mut requests, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        while let Some((request, answer)) = queue.waiting.pop_front() {
            if answer.is_closed() {
                continue;
            }
            bytes = bytes.saturating_add((self.weigh)(&request));
            if !requests.is_empty() && (bytes > self.most.bytes || requests.len() >= self.most.requests) {
                queue.waiting.push_front((request, answer));
                break;
            }
            requests.push(request);
            answers.push(answer);
        }
        queue.under_way = !requests.is_empty();
        (requests, answers)
    }
}

/// Carries loads until nobody waits.
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
            queue.under_way = false;
            queue.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests;
