//! One socket on which Redis announces changed keys (client tracking) to all waiters of a replica.

use redis::{ErrorKind, PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::sync::broadcast;

use super::{CONNECT_TIMEOUT, Connection, RESPONSE_TIMEOUT};

/// Announcements that a waiter may be late by. Where there are more, it takes its own keys for changed.
const ANNOUNCEMENTS: usize = 256;

/// A socket with client tracking. Redis announces the next change of each key that was read over it.
#[derive(Debug, Clone)]
pub struct TrackingSocket {
    /// For reading the keys.
    pub socket: MultiplexedConnection,
    /// That of the connection when this was opened.
    generation: u64,
    announcements: broadcast::Sender<PushInfo>,
}

impl TrackingSocket {
    /// All announcements from here on.
    pub fn subscribe(&self) -> KeyChanges {
        KeyChanges(self.announcements.subscribe())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.announcements.same_channel(&other.announcements)
    }
}

/// What Redis announces, for one waiter.
#[derive(Debug)]
pub struct KeyChanges(broadcast::Receiver<PushInfo>);

impl KeyChanges {
    /// Forgets what has been announced so far: a read that follows sees it anyway.
    ///
    /// # Errors
    /// When the socket is closed.
    pub fn forget(&mut self) -> Result<(), RedisError> {
        use broadcast::error::TryRecvError::{Closed, Empty, Lagged};
        loop {
            match self.0.try_recv() {
                Ok(push) => check_open(&push)?,
                Err(Lagged(_)) => {}
                Err(Empty) => return Ok(()),
                Err(Closed) => return Err(closed()),
            }
        }
    }

    /// Waits until one of these keys has changed.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn wait_for(&mut self, keys: &[&str]) -> Result<(), RedisError> {
        use broadcast::error::RecvError::{Closed, Lagged};
        loop {
            match self.0.recv().await {
                Ok(push) => {
                    check_open(&push)?;
                    if names_any(&push, keys) {
                        return Ok(());
                    }
                }
                Err(Lagged(_)) => return Ok(()),
                Err(Closed) => return Err(closed()),
            }
        }
    }
}

/// Returns true if the push announces a change of one of these keys, or of all keys (FLUSHALL).
fn names_any(push: &PushInfo, keys: &[&str]) -> bool {
    push.kind == PushKind::Invalidate
        && push.data.iter().any(|names| match names {
            Value::Array(names) => names.iter().any(|name| match name {
                Value::BulkString(name) => keys.iter().any(|key| key.as_bytes() == name.as_slice()),
                _ => true,
            }),
            _ => true,
        })
}

fn check_open(push: &PushInfo) -> Result<(), RedisError> {
    match push.kind {
        PushKind::Disconnection => Err(closed()),
        _ => Ok(()),
    }
}

fn closed() -> RedisError {
    RedisError::from((
        ErrorKind::Io,
        "Redis has closed the socket that announces changed keys",
    ))
}

impl Connection {
    /// The socket with client tracking that all callers share.
    ///
    /// # Errors
    /// When Redis cannot be reached, or knows no RESP3 or no client tracking.
    pub async fn tracking(&self) -> Result<TrackingSocket, RedisError> {
        let mut shared = self.0.tracking.lock().await;
        if let Some(current) = &*shared
            && current.generation == self.generation()
        {
            return Ok(current.clone());
        }
        *shared = None;
        let opened = self.open_tracking().await?;
        *shared = Some(opened.clone());
        Ok(opened)
    }

    /// Returns true if callers share this socket still.
    pub async fn is_tracked_by(&self, socket: &TrackingSocket) -> bool {
        let shared = self.0.tracking.lock().await;
        socket.generation == self.generation() && shared.as_ref().is_some_and(|shared| shared.is_same(socket))
    }

    /// Gives the socket up: the next caller opens another.
    pub async fn discard_tracking(&self, socket: &TrackingSocket) {
        let mut shared = self.0.tracking.lock().await;
        if shared.as_ref().is_some_and(|shared| shared.is_same(socket)) {
            *shared = None;
        }
    }

    async fn open_tracking(&self) -> Result<TrackingSocket, RedisError> {
        let generation = self.generation();
        let announcements = broadcast::Sender::new(ANNOUNCEMENTS);
        let server = self.server().await?;
        let info = server.client.get_connection_info();
        let resp3 = info
            .redis_settings()
            .clone()
            .set_protocol(redis::ProtocolVersion::RESP3);
        let client = redis::Client::open(info.clone().set_redis_settings(resp3))?;
        let sender = announcements.clone();
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            // An announcement that no waiter subscribes to is dropped.
            .set_push_sender(move |push| {
                let _ = sender.send(push);
                Ok::<(), redis::aio::SendError>(())
            });
        let mut socket = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON");
        track.query_async::<()>(&mut socket).await?;
        Ok(TrackingSocket {
            socket,
            generation,
            announcements,
        })
    }
}
