//! Waiting for work without polling for it.
//!
//! The waiter reads the keys that show work, over the replica's socket with client tracking. Redis remembers that they
//! were read, and announces the next change of each, once. So the waiter learns of a push by any producer within a round
//! trip, while an idle queue costs a handful of commands every ten seconds. Reading and arming are one step, so no
//! change falls between them.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::{
    connection::{Connection, KeyChanges, TrackingSocket},
    keys::ApalisKeys,
    queue::BrokerError,
};

/// How often a Redis (or a proxy) without client tracking is asked.
const POLL: Duration = Duration::from_secs(1);
/// Time until the waiter tries client tracking again, because its refusal may have been a temporary fault.
const POLL_FOR: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct ApalisWaiter {
    connection: Connection,
    reading: redis::Pipeline,
    /// The keys that `reading` reads.
    keys: [String; 4],
    mode: Mutex<WaitMode>,
}

#[derive(Debug)]
enum WaitMode {
    Closed,
    Tracking(TrackingSocket, KeyChanges),
    /// Redis knows no client tracking, or said so: until then it is asked again and again.
    Polling(Instant),
}

/// TIME, LLEN active, EXISTS paused, GET full, the first of scheduled.
type WaitReading = ((u64, u64), u64, bool, Option<u64>, Vec<(redis::Value, f64)>);

impl ApalisWaiter {
    pub(super) fn new(connection: Connection, keys: &ApalisKeys) -> Self {
        let full = format!("{}:full", keys.fair);
        let mut reading = redis::pipe();
        reading.cmd("TIME").llen(&keys.active).exists(&keys.paused);
        reading.get(&full);
        reading.zrange_withscores(&keys.scheduled, 0, 0);
        Self {
            connection,
            reading,
            keys: [
                keys.active.clone(),
                keys.paused.clone(),
                full,
                keys.scheduled.clone(),
            ],
            mode: Mutex::new(WaitMode::Closed),
        }
    }

    /// Returns `true` when there may be work, `false` after `limit`.
    pub(super) async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        let mut mode = self.mode.lock().await;
        let outdated = match &*mode {
            WaitMode::Closed => true,
            WaitMode::Tracking(socket, _) => !self.connection.is_tracked_by(socket).await,
            WaitMode::Polling(until) => *until < Instant::now(),
        };
        if outdated {
            *mode = self.listen().await?;
        }
        let WaitMode::Tracking(socket, changes) = &mut *mode else {
            tokio::time::sleep(POLL.min(limit)).await;
            return Ok(true);
        };
        let outcome = self.wait_for_change(socket, changes, limit).await;
        // An answer that refuses the reading of this queue's keys says nothing against the socket of all queues.
        if outcome.as_ref().is_err_and(is_broken) {
            self.connection.discard_tracking(socket).await;
            *mode = WaitMode::Closed;
        }
        Ok(outcome?)
    }

    async fn listen(&self) -> Result<WaitMode, BrokerError> {
        match self.connection.tracking().await {
            Ok(socket) => {
                let changes = socket.subscribe();
                Ok(WaitMode::Tracking(socket, changes))
            }
            Err(error) if !error.is_io_error() && !error.is_timeout() && is_unknown(&error) => {
                tracing::warn!(%error, "Redis offers no client tracking: new jobs are looked for once a second");
                Ok(WaitMode::Polling(Instant::now() + POLL_FOR))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn wait_for_change(
        &self,
        socket: &mut TrackingSocket,
        changes: &mut KeyChanges,
        limit: Duration,
    ) -> Result<bool, redis::RedisError> {
        // Announcements up to here are of changes that the read below sees anyway.
        changes.forget()?;
        let ((seconds, micros), active, paused, full, scheduled): WaitReading =
            self.reading.query_async(&mut socket.socket).await?;
        let pause = match scheduled.first() {
            _ if paused => limit,
            // The owners of all that wait had as many jobs in flight as they may, when so many waited; the key goes
            // when one of these ends.
            _ if active > 0 && full != Some(active) => return Ok(true),
            Some((_, due)) => {
                let now = seconds as f64 + micros as f64 / 1e6;
                // Clamped first: a score can be any number, infinity too.
                Duration::from_secs_f64((due - now).clamp(0.0, limit.as_secs_f64()))
            }
            None => limit,
        };
        let keys = self.keys.each_ref().map(String::as_str);
        match tokio::time::timeout(pause, changes.wait_for(&keys)).await {
            Ok(changed) => changed.map(|()| true),
            Err(_elapsed) => Ok(pause < limit), // Cut short by a job that is due now.
        }
    }
}

/// Returns true if the socket may be dead.
fn is_broken(error: &redis::RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// Returns true if Redis answered that it does not know or does not allow what it was asked.
fn is_unknown(error: &redis::RedisError) -> bool {
    use redis::{ErrorKind, ServerErrorKind};
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm)
            | ErrorKind::RESP3NotSupported
    )
}
