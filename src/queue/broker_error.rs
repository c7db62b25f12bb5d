//! The reasons why an operation on a queue fails.

use redis::RedisError;

use crate::redis_error::RedisErrorClass;

/// The reason why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Redis is away, or refused.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// This worker's lease has run out: renew before claiming.
    #[error("this worker holds no lease on the queue")]
    Unleased,
    /// The id cannot be used for a job.
    #[error("job id {0:?} cannot be used: it is empty, holds a colon, or names a key of the queue")]
    Id(String),
    /// A job cannot be written as JSON.
    #[error("job: {0}")]
    Job(#[from] serde_json::Error),
}

impl BrokerError {
    /// Returns true if the same call would fail again, because a key has another type, for example.
    ///
    /// A time-out, a restart, a replica in read-only mode and a full memory can pass, and are no refusal.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => RedisErrorClass::of(error) == RedisErrorClass::Impossible,
            Self::Unleased => false,
            Self::Id(_) | Self::Job(_) => true,
        }
    }
}
