//! Waiting for work without polling for it.
//!
//! The waiter reads the keys that show work, over a socket with client tracking. Redis remembers that the waiter read
//! them, and pushes one message when any client changes one. So the waiter sees a push by any producer within a round
//! trip, while an idle queue costs a handful of commands every ten seconds. Reading and arming are one step, so no
//! change falls between them.

use std::time::{Duration, Instant};

use redis::{PushInfo, PushKind, aio::MultiplexedConnection};
use tokio::sync::{Mutex, mpsc};

use crate::{connection::Connection, keys::ApalisKeys, queue::BrokerError};

/// How often a Redis (or a proxy) without client tracking is asked.
const POLL: Duration = Duration::from_secs(1);
/// Time until the waiter tries client tracking again, because its refusal may have been a temporary fault.
const POLL_FOR: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct ApalisWaiter {
    connection: Connection,
    reading: redis::Pipeline,
    mode: Mutex<WaitMode>,
}

#[derive(Debug)]
enum WaitMode {
    Closed,
    Tracking(InvalidationListener),
    /// Redis knows no client tracking, or said so: until then it is asked again and again.
    Polling(Instant),
}

#[derive(Debug)]
struct InvalidationListener {
    socket: MultiplexedConnection,
    /// That of the connection when it was opened.
    generation: u64,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
}

/// TIME, LLEN active, EXISTS paused, GET full, the first of scheduled.
type WaitReading = ((u64, u64), u64, bool, Option<u64>, Vec<(redis::Value, f64)>);

impl ApalisWaiter {
    pub(super) fn new(connection: Connection, keys: &ApalisKeys) -> Self {
        let mut reading = redis::pipe();
        reading.cmd("TIME").llen(&keys.active).exists(&keys.paused);
        reading.get(format!("{}:full", keys.fair));
        reading.zrange_withscores(&keys.scheduled, 0, 0);
        Self {
            connection,
            reading,
            mode: Mutex::new(WaitMode::Closed),
        }
    }

    /// Returns `true` when there may be work, `false` after `limit`.
    pub(super) async fn wait(&self, limit: Duration) -> Result<bool, BrokerError> {
        let mut mode = self.mode.lock().await;
        let outdated = match &*mode {
            WaitMode::Closed => true,
            WaitMode::Tracking(listener) => listener.generation != self.connection.generation(),
            WaitMode::Polling(until) => *until < Instant::now(),
        };
        if outdated {
            *mode = self.listen().await?;
        }
        let WaitMode::Tracking(listener) = &mut *mode else {
            tokio::time::sleep(POLL.min(limit)).await;
            return Ok(true);
        };
        let outcome = listener.wait(&self.reading, limit).await;
        if outcome.is_err() {
            *mode = WaitMode::Closed;
        }
        outcome
    }

    async fn listen(&self) -> Result<WaitMode, BrokerError> {
        let generation = self.connection.generation();
        let (sender, pushes) = mpsc::unbounded_channel();
        let mut socket = match self.connection.listener(sender).await {
            Ok(socket) => socket,
            Err(error) if !error.is_io_error() && !error.is_timeout() && is_unknown(&error) => {
                return Ok(Self::poll(&error));
            }
            Err(error) => return Err(error.into()),
        };
        match redis::cmd("CLIENT")
            .arg("TRACKING")
            .arg("ON")
            .query_async::<()>(&mut socket)
            .await
        {
            Ok(()) => Ok(WaitMode::Tracking(InvalidationListener {
                socket,
                generation,
                pushes,
            })),
            Err(error) if is_unknown(&error) => Ok(Self::poll(&error)),
            Err(error) => Err(error.into()),
        }
    }

    fn poll(error: &redis::RedisError) -> WaitMode {
        tracing::warn!(%error, "Redis offers no client tracking: new jobs are looked for once a second");
        WaitMode::Polling(Instant::now() + POLL_FOR)
    }
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

impl InvalidationListener {
    async fn wait(&mut self, reading: &redis::Pipeline, limit: Duration) -> Result<bool, BrokerError> {
        // Pushes up to here announce changes that the read below sees anyway.
        while let Ok(push) = self.pushes.try_recv() {
            check_push(&push)?;
        }
        let ((seconds, micros), active, paused, full, scheduled): WaitReading =
            reading.query_async(&mut self.socket).await?;
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
        match tokio::time::timeout(pause, self.pushes.recv()).await {
            Ok(Some(push)) => check_push(&push).map(|()| true),
            Ok(None) => Err(BrokerError::Redis(
                std::io::Error::from(std::io::ErrorKind::BrokenPipe).into(),
            )),
            Err(_elapsed) => Ok(pause < limit), // Cut short by a job that is due now.
        }
    }
}

fn check_push(push: &PushInfo) -> Result<(), BrokerError> {
    match push.kind {
        PushKind::Disconnection => Err(BrokerError::Redis(
            std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
        )),
        _ => Ok(()),
    }
}
