//! Waiting for work on BullMQ's marker.
//!
//! Producers put `0` into the marker when they add a job; the worker that pops it claims. The popping call blocks, so
//! it has a socket of its own. An abandoned call that still runs in Redis would consume the marker of a job, and no
//! worker would claim that job. So the waiter closes the socket when the call is dropped, and when Redis does not
//! answer in time.

use std::time::Duration;

use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};
use tokio::{sync::Mutex, time::Instant};

use super::scripts;
use crate::{connection::Connection, keys::BullKeys, queue::BrokerError};

/// Upper bound of one BZPOPMIN. A worker that dies after it popped the marker delays the job by at most this.
const LONGEST: Duration = Duration::from_secs(15);
/// Shorter calls can end before their time, or never, with Redis before 7.0.8.
const SHORTEST: Duration = Duration::from_millis(2);
/// How late the answer of a blocking call may be, the same as for any other call.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct BullmqWaiter {
    connection: Connection,
    prefix: String,
    marker: String,
    /// The name of the socket in Redis's list of clients, by which BullMQ's `getWorkers` finds this worker.
    client_name: String,
    socket: Mutex<Option<MultiplexedConnection>>,
}

impl BullmqWaiter {
    pub(super) fn new(connection: Connection, keys: &BullKeys, client_name: String) -> Self {
        Self {
            connection,
            prefix: keys.prefix.clone(),
            marker: keys.marker.clone(),
            client_name,
            socket: Mutex::default(),
        }
    }

    /// Returns `true` when there may be work, `false` after `limit`.
    pub(super) async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        let started = Instant::now();
        let mut socket = self.socket.lock().await;
        loop {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let mut look = scripts::LOOK_FOR_WORK.prepare_invoke();
            look.key(&self.prefix);
            let nap = match self.connection.invoke::<i64>(&look).await? {
                0 => return Ok(true),
                ms => u64::try_from(ms).map_or(LONGEST, Duration::from_millis),
            };
            // `1` only says that the next due time has changed: the loop reads that time again.
            if self
                .pop(&mut socket, nap.min(LONGEST).min(left).max(SHORTEST))
                .await?
                == Some("0".to_owned())
            {
                return Ok(true);
            }
        }
    }

    /// Opens the socket if there is none, so that BullMQ lists a busy replica as a worker too.
    pub(super) async fn appear(&self) {
        // A waiter that is at work holds the lock, and has a socket.
        let Ok(mut socket) = self.socket.try_lock() else {
            return;
        };
        if socket.is_none() {
            match self.open().await {
                Ok(opened) => *socket = Some(opened),
                Err(error) => tracing::debug!(%error, "the socket to wait on is not open yet"),
            }
        }
    }

    async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut socket = self.connection.blocking().await?;
        let mut named = redis::cmd("CLIENT");
        named.arg("SETNAME").arg(&self.client_name);
        let named = tokio::time::timeout(PATIENCE, named.query_async::<()>(&mut socket)).await;
        match named {
            Ok(Ok(())) => {}
            // Some hosts, and users without the right, may not: only BullMQ's list of workers lacks this one then.
            Ok(Err(error)) if error.code().is_some() => {
                tracing::debug!(%error, "BullMQ's getWorkers does not list this replica");
            }
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Err(RedisError::from((ErrorKind::Io, "no answer to CLIENT SETNAME"))),
        }
        Ok(socket)
    }

    /// Pops a marker, or waits for one.
    async fn pop(
        &self,
        slot: &mut Option<MultiplexedConnection>,
        nap: Duration,
    ) -> Result<Option<String>, RedisError> {
        // Out of the slot while the call is on its way: it comes back only with an answer.
        let mut socket = match slot.take() {
            Some(socket) => socket,
            None => self.open().await?,
        };
        let mut call = redis::cmd("BZPOPMIN");
        call.arg(&self.marker).arg(nap.as_secs_f64());
        let answer = call.query_async::<Option<(String, String, f64)>>(&mut socket);
        let popped = tokio::time::timeout(nap + PATIENCE, answer)
            .await
            .map_err(|_elapsed| RedisError::from((ErrorKind::Io, "no answer to BZPOPMIN")))??;
        *slot = Some(socket);
        Ok(popped.map(|(_, marker, _)| marker))
    }
}
