//! Group commit: requests that arrive during a call leave together in the next one.
//!
//! A single request leaves at once. Under load each call carries many requests, so that Redis and this process pay for
//! one round trip a call, not for one a request. A further call starts beside a running one only when the waiting
//! requests would fill it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::locks::locked;

/// Sends requests, and returns their answers in the same order.
type SendBatch<Q, A> = dyn Fn(Vec<Q>) -> BoxFuture<'static, Vec<A>> + Send + Sync;

/// Requests that travel together.
pub(crate) struct Batcher<Q, A>(Arc<BatcherState<Q, A>>);

struct BatcherState<Q, A> {
    send: Box<SendBatch<Q, A>>,
    size_of: fn(&Q) -> usize,
    limits: BatchLimits,
    queue: Mutex<PendingRequests<Q, A>>,
}

/// How much travels at a time, at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Concurrent calls; a further call starts beside the first only when it is full.
    pub(crate) calls: usize,
    /// Requests in a call.
    pub(crate) requests: usize,
    /// Requests in a call while the waiting requests would not fill it.
    pub(crate) partial: usize,
    /// Bytes in a call; a larger request gets a call of its own.
    pub(crate) bytes: usize,
}

struct PendingRequests<Q, A> {
    waiting: VecDeque<(Q, oneshot::Sender<A>)>,
    calls_in_flight: usize,
}

impl<Q, A> Clone for Batcher<Q, A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q, A> fmt::Debug for Batcher<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("most", &self.0.limits)
            .finish_non_exhaustive()
    }
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// A batcher whose calls `send` makes. `size_of` is the size of a request in bytes.
    pub(crate) fn new<F, C>(limits: BatchLimits, size_of: fn(&Q) -> usize, send: C) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
        C: Fn(Vec<Q>) -> F + Send + Sync + 'static,
    {
        Self(Arc::new(BatcherState {
            send: Box::new(move |requests| Box::pin(send(requests))),
            size_of,
            limits,
            queue: Mutex::new(PendingRequests {
                waiting: VecDeque::new(),
                calls_in_flight: 0,
            }),
        }))
    }

    /// Queues a request and waits for its answer; `None` if its call panicked. A request whose caller has gone before the
    /// call starts is not sent.
    pub(crate) async fn ask(&self, request: Q) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        if self.0.enqueue(request, answer) {
            // Spawned so that it outlives this caller, and so that callers polled in the same tick can still join.
            let inner = self.0.clone();
            tokio::spawn(
                FlushTask {
                    inner,
                    has_ended: false,
                }
                .run(),
            );
        }
        answered.await.ok()
    }
}

impl<Q, A> BatcherState<Q, A> {
    fn queue(&self) -> MutexGuard<'_, PendingRequests<Q, A>> {
        locked(&self.queue)
    }

    /// Queues a request. Returns true if the caller must start a call for it.
    fn enqueue(&self, request: Q, answer: oneshot::Sender<A>) -> bool {
        let mut queue = self.queue();
        queue.waiting.push_back((request, answer));
        let needs_call = queue.calls_in_flight == 0
            || (queue.calls_in_flight < self.limits.calls && queue.waiting.len() >= self.limits.requests);
        queue.calls_in_flight += usize::from(needs_call);
        needs_call
    }

    /// Takes the requests of the next call. Empty when no request waits, or when the other calls in flight suffice: the
    /// task that asks ends then.
    fn next_batch(&self) -> (Vec<Q>, Vec<oneshot::Sender<A>>) {
        let mut queue = self.queue();
        let (mut requests, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        let full = queue.waiting.len() >= self.limits.requests;
        let most = if full {
            self.limits.requests
        } else {
            self.limits.partial
        };
        let needed = queue.calls_in_flight == 1 || full;
        while needed && let Some((request, answer)) = queue.waiting.pop_front() {
            if answer.is_closed() {
                continue;
            }
            bytes = bytes.saturating_add((self.size_of)(&request));
            if !requests.is_empty() && (bytes > self.limits.bytes || requests.len() >= most) {
                queue.waiting.push_front((request, answer));
                break;
            }
            requests.push(request);
            answers.push(answer);
        }
        queue.calls_in_flight -= usize::from(requests.is_empty());
        (requests, answers)
    }
}

/// Makes one call after the other until no request needs it.
struct FlushTask<Q, A> {
    inner: Arc<BatcherState<Q, A>>,
    /// The task has ended by itself, so there is nothing to clean up.
    has_ended: bool,
}

impl<Q, A> FlushTask<Q, A> {
    async fn run(mut self) {
        loop {
            let (requests, askers) = self.inner.next_batch();
            if requests.is_empty() {
                self.has_ended = true;
                return;
            }
            let answers = (self.inner.send)(requests).await;
            for (asker, answer) in askers.into_iter().zip(answers) {
                let _ = asker.send(answer); // An error means that the caller has gone.
            }
        }
    }
}

impl<Q, A> Drop for FlushTask<Q, A> {
    /// Cleans up after a panic, or at the end of the runtime: waiting callers get `None`, and the next one starts a
    /// call.
    fn drop(&mut self) {
        if !self.has_ended {
            let mut queue = self.inner.queue();
            queue.calls_in_flight -= 1;
            if queue.calls_in_flight == 0 {
                queue.waiting.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;
