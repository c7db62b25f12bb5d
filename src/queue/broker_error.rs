//! The reasons why an operation on a queue fails.

use redis::RedisError;

use crate::redis_error::RedisErrorClass;

/// Why a broker could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Redis is away, or refused.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// This worker's lease has run out: renew before claiming.
    #[error("this worker holds no lease on the queue")]
    Unleased,
    /// A job must not be called so.
    #[error("job id {0:?} cannot be used: it is empty, holds a colon, or names a key of the queue")]
    Id(String),
    /// A job cannot be written down.
    #[error("job: {0}")]
    Job(#[from] serde_json::Error),
}

impl BrokerError {
    /// Returns true if Redis itself answered with an error that will not go away by asking again: a key of a wrong
    /// type, say, rather than a time-out, a restart, a replica in read-only mode or a full memory.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => RedisErrorClass::of(error) == RedisErrorClass::Impossible,
            Self::Unleased => false,
            Self::Id(_) | Self::Job(_) => true,
        }
    }
}
