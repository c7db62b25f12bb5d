//! Label values of the metrics. Enums bound the number of series, so that no input from outside can add one.

#![allow(
    missing_docs,
    reason = "the method into_str that strum derives has no documentation"
)]

use jobs::{Failure, FailureClass, JobType, Provider};
use redis::{ErrorKind, RedisError};
use strum::{EnumCount, IntoStaticStr, VariantArray};

/// A value's place in an array of cells.
pub trait CellIndex: Copy {
    /// Position of this value, below the number of variants.
    fn index(self) -> usize;
}

// No derive of strum numbers the variants.
macro_rules! index_by_variant {
    ($($name:ty),*) => {$(
        impl CellIndex for $name {
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}
index_by_variant!(JobType, Provider, JobOutcome, Answer, RedisFault, WebhookResult);

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub enum JobOutcome {
    /// Completed.
    #[strum(to_string = "succeeded")]
    Succeeded,
    /// Dead letter.
    #[strum(to_string = "failed")]
    Failed,
    /// Put off, an attempt used up.
    #[strum(to_string = "retried")]
    Retried,
    /// Put off, no attempt used up.
    #[strum(to_string = "waiting")]
    Waiting,
    /// Given back untouched.
    #[strum(to_string = "released")]
    Released,
    /// Lost to another replica.
    #[strum(to_string = "lost")]
    Lost,
}

/// A provider's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub enum Answer {
    /// Success.
    #[strum(to_string = "2xx")]
    Success,
    /// Refused.
    #[strum(to_string = "4xx")]
    ClientError,
    /// Asked to slow down.
    #[strum(to_string = "429")]
    TooMany,
    /// The provider's fault.
    #[strum(to_string = "5xx")]
    ServerError,
    /// Any other status.
    #[strum(to_string = "other")]
    Other,
    /// No answer came.
    #[strum(to_string = "none")]
    Nothing,
}

impl Answer {
    /// The answer behind a failure.
    pub fn of(failure: &Failure) -> Self {
        match failure.status() {
            None => Self::Nothing,
            Some(200..=299) => Self::Success,
            Some(429) => Self::TooMany,
            Some(400..=499) => Self::ClientError,
            Some(500..=599) => Self::ServerError,
            Some(_) => Self::Other,
        }
    }
}

/// How a call to Redis failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub enum RedisFault {
    /// No answer in time.
    #[strum(to_string = "timeout")]
    Timeout,
    /// No connection, or it broke.
    #[strum(to_string = "connection")]
    Connection,
    /// Redis answered with an error.
    #[strum(to_string = "answer")]
    Answer,
}

/// The result of sending a usage event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub enum WebhookResult {
    /// The receiver has taken it.
    #[strum(to_string = "delivered")]
    Delivered,
    /// It was not taken, and is sent again.
    #[strum(to_string = "failed")]
    Failed,
    /// The receiver refuses its content: it is set aside.
    #[strum(to_string = "refused")]
    Refused,
    /// It has no student, and the receiver needs one.
    #[strum(to_string = "skipped")]
    Skipped,
}

impl RedisFault {
    /// Classifies an error.
    pub fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_io_error() || error.is_connection_dropped() || error.kind() == ErrorKind::Io {
            Self::Connection
        } else {
            Self::Answer
        }
    }
}

/// A job's type; `other` for all that this worker does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLabel(pub Option<JobType>);

impl JobLabel {
    /// How many there are.
    pub const COUNT: usize = JobType::ALL.len() + 1;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        JobType::ALL
            .into_iter()
            .map(|kind| Self(Some(kind)))
            .chain([Self(None)])
    }

    /// As a label's value.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            Some(kind) => kind.as_str(),
            None => "other",
        }
    }
}

impl CellIndex for JobLabel {
    fn index(self) -> usize {
        self.0.map_or(JobType::ALL.len(), |kind| kind as usize)
    }
}

/// A failure's class; `none` without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobClass(pub Option<FailureClass>);

impl JobClass {
    /// How many there are.
    pub const COUNT: usize = FailureClass::ALL.len() + 1;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        FailureClass::ALL
            .into_iter()
            .map(|class| Self(Some(class)))
            .chain([Self(None)])
    }

    /// As a label's value.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            Some(class) => class.as_str(),
            None => "none",
        }
    }
}

impl CellIndex for JobClass {
    fn index(self) -> usize {
        self.0.map_or(FailureClass::ALL.len(), |class| class as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order<T: CellIndex>(all: impl Iterator<Item = T>) {
        for (at, value) in all.enumerate() {
            assert_eq!(value.index(), at);
        }
    }

    #[test]
    fn every_value_has_a_place_of_its_own() {
        in_order(JobLabel::all());
        in_order(JobClass::all());
        in_order(JobOutcome::VARIANTS.iter().copied());
        in_order(Answer::VARIANTS.iter().copied());
        in_order(RedisFault::VARIANTS.iter().copied());
        in_order(Provider::ALL.into_iter());
    }
}
