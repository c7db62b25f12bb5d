//! Label values of the metrics. Enums bound the number of series, so that no input from outside can add one.

use jobs::{Failure, FailureClass, JobType, Provider};
use redis::{ErrorKind, RedisError};

/// A value's place in an array of cells.
pub trait CellIndex: Copy {
    /// Position of this value, below the number of variants.
    fn index(self) -> usize;
}

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

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$about])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// As a label's value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

label! {
    /// How a delivery ended.
    JobOutcome {
        /// Completed.
        Succeeded = "succeeded",
        /// Dead letter.
        Failed = "failed",
        /// Put off, an attempt used up.
        Retried = "retried",
        /// Put off, no attempt used up.
        Waiting = "waiting",
        /// Given back untouched.
        Released = "released",
        /// Lost to another replica.
        Lost = "lost",
    }
}

label! {
    /// A provider's answer.
    Answer {
        /// Success.
        Success = "2xx",
        /// Refused.
        ClientError = "4xx",
        /// Asked to slow down.
        TooMany = "429",
        /// The provider's fault.
        ServerError = "5xx",
        /// Any other status.
        Other = "other",
        /// No answer came.
        Nothing = "none",
    }
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

label! {
    /// How a call to Redis failed.
    RedisFault {
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or it broke.
        Connection = "connection",
        /// Redis answered with an error.
        Answer = "answer",
    }
}

label! {
    /// What came of sending a usage event.
    WebhookResult {
        /// The receiver has taken it.
        Delivered = "delivered",
        /// It was not taken, and is sent again.
        Failed = "failed",
        /// The receiver refuses its content: it is set aside.
        Refused = "refused",
        /// It has no student, and the receiver needs one.
        Skipped = "skipped",
    }
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
        in_order(JobOutcome::ALL.iter().copied());
        in_order(Answer::ALL.iter().copied());
        in_order(RedisFault::ALL.iter().copied());
        in_order(Provider::ALL.into_iter());
    }
}
