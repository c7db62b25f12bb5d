//! Deadlines of calls to Redis that tell a slow server from a stalled process.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, error::Elapsed, timeout};

/// A timer that fires later than its time by more than this shows that the process itself stood still.
const LATE: Duration = Duration::from_millis(25);
/// Time in which the runtime reads from its sockets: the answer may have arrived while another task kept the thread.
const GRACE: Duration = Duration::from_millis(10);
/// Stalls in a row that are forgiven. Beyond them the process is too slow to wait for anything.
const MOST_STALLS: usize = 4;

/// Waits for `answer` for `limit` of the time in which this process runs.
///
/// A task that computes for long on the runtime's thread, or a container that is frozen for a moment, makes a timer
/// and an answer due at the same time, and the timer is looked at first. Such a stall says nothing about Redis, so
/// the wait starts again after it, a bounded number of times.
///
/// # Errors
/// When there was no answer in time.
pub(crate) async fn answered_within<F: Future>(limit: Duration, answer: F) -> Result<F::Output, Elapsed> {
    let mut answer = pin!(answer);
    for _ in 0..MOST_STALLS {
        let started = Instant::now();
        if let Ok(output) = timeout(limit, &mut answer).await {
            return Ok(output);
        }
        if started.elapsed() <= limit + LATE {
            break;
        }
    }
    timeout(GRACE, answer).await
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Passes on each answer by a task of its own, as the driver of a connection does.
    fn relayed<T: Send + 'static>(from: oneshot::Receiver<T>) -> oneshot::Receiver<T> {
        let (to, relayed) = oneshot::channel();
        tokio::spawn(async move {
            if let Ok(answer) = from.await {
                let _ = to.send(answer);
            }
        });
        relayed
    }

    #[tokio::test]
    async fn an_answer_that_arrives_during_a_stall_counts() {
        let (server, answer) = oneshot::channel();
        let answer = relayed(answer);
        let waiting = tokio::spawn(answered_within(LIMIT, answer));
        tokio::task::yield_now().await;
        let server = std::thread::spawn(move || server.send("pong"));
        std::thread::sleep(LIMIT * 4); // The runtime's only thread stands still.
        server.join().unwrap().unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), Ok("pong"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_limit() {
        let started = Instant::now();
        let answer = answered_within(LIMIT, std::future::pending::<()>()).await;
        assert!(answer.is_err());
        assert_eq!(started.elapsed(), LIMIT + GRACE);
    }
}
