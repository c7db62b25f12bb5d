//! Probes whether Redis accepts writes. With a full memory, a failed disk, a lost primary or a used-up quota, Redis
//! still answers reads but refuses the writes of every job.

use std::time::{Duration, Instant};

use redis::{ErrorKind, ServerErrorKind};
use tokio::sync::Mutex;

use crate::{
    connection::Connection, deadline::answered_within, keys::FLEET_WRITE_PROBE, redis_error::RedisErrorClass,
};

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait for one. Silence is the business of those who count Redis's absence.
const DEADLINE: Duration = Duration::from_millis(500);
/// How long the written key lives.
const TTL: Duration = Duration::from_secs(60);

/// Writes a key when it is asked, once a second at most.
#[derive(Debug)]
pub(super) struct WriteProbe {
    connection: Connection,
    last: Mutex<Option<(Instant, Option<String>)>>,
}

impl WriteProbe {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            last: Mutex::default(),
        }
    }

    /// Redis's error, if it answers but refuses the write.
    pub(super) async fn refusal(&self) -> Option<String> {
        let mut last = self.last.lock().await;
        if let Some((at, refusal)) = &*last
            && at.elapsed() < FRESH
        {
            return refusal.clone();
        }
        let mut write = redis::pipe();
        write
            .cmd("SET")
            .arg(self.connection.named(FLEET_WRITE_PROBE))
            .arg(1)
            .arg("EX")
            .arg(TTL.as_secs())
            .ignore();
        let written = answered_within(DEADLINE, self.connection.query::<()>(&write)).await;
        let refusal = match written {
            // `check` reports missing rights. Jobs may run without the right to write this key.
            Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => None,
            Ok(Err(error)) if RedisErrorClass::of(&error).refuses_writes() => Some(error.to_string()),
            _ => None,
        };
        *last = Some((Instant::now(), refusal.clone()));
        refusal
    }
}
