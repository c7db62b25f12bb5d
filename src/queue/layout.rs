//! The two layouts of queues in Redis.

use std::{fmt, str::FromStr};

use strum::{EnumCount, VariantArray};

/// How a queue is laid out in Redis, and so who else can read and write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, VariantArray)]
pub enum Layout {
    /// That of BullMQ v5.
    Bullmq,
    /// That of `apalis_redis::RedisStorage`.
    Apalis,
}

impl Layout {
    /// All of them.
    #[allow(clippy::expect_used, reason = "the compiler evaluates it")]
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().expect("there are as many");

    /// Its name in `QUEUES`, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bullmq => "bullmq",
            Self::Apalis => "apalis",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no layout.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no queue layout (bullmq, apalis)")]
pub struct UnknownLayout(String);

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|l| l.as_str() == name)
            .ok_or_else(|| UnknownLayout(name.to_owned()))
    }
}
