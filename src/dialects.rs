//! Shares the known dialects of the providers in the fleet, as one string a deployment in Redis that expires after a
//! day.

use std::time::Duration;

use async_trait::async_trait;
use jobs::providers::{DialectStore, REMEMBERED_FOR};
use tracing::debug;

use crate::{connection::Connection, deadline::answered_within, keys::dialect_key};

/// Longest wait for Redis: without it, a replica finds out by itself.
const DEADLINE: Duration = Duration::from_millis(250);

/// The dialects in Redis.
#[derive(Debug, Clone)]
pub struct SharedDialects {
    connection: Connection,
}

impl SharedDialects {
    /// The dialects that replicas on this Redis share.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    async fn ask<T: redis::FromRedisValue>(&self, call: &redis::Pipeline) -> Option<T> {
        match answered_within(DEADLINE, self.connection.query::<T>(call)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                debug!(%error, "the request dialects of the fleet are not reached");
                None
            }
            Err(_elapsed) => None,
        }
    }
}

#[async_trait]
impl DialectStore for SharedDialects {
    async fn load(&self, deployment: &str) -> Option<String> {
        let mut call = redis::pipe();
        call.get(self.connection.named(&dialect_key(deployment)));
        self.ask::<(Option<String>,)>(&call).await?.0
    }

    async fn save(&self, deployment: &str, dialect: &str) {
        let mut call = redis::pipe();
        call.set_ex(
            self.connection.named(&dialect_key(deployment)),
            dialect,
            REMEMBERED_FOR.as_secs(),
        )
        .ignore();
        let _: Option<()> = self.ask(&call).await;
    }
}
