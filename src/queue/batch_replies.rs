//! Parses the answers of scripts that end many jobs at once, one for each job.

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use super::{BrokerError, WriteResult};
use crate::redis_error::unwrapped;

/// Of one job: 1 applied, 0 lost, or the error that kept it from being written.
pub(super) fn settled(answer: Value) -> Result<WriteResult, BrokerError> {
    Err(BrokerError::Redis(match answer {
        Value::Int(1) => return Ok(WriteResult::Applied),
        Value::Int(0) => return Ok(WriteResult::Lost),
        Value::BulkString(text) => raised(&String::from_utf8_lossy(&text)),
        _ => (
            ErrorKind::UnexpectedReturnType,
            "neither applied, nor lost, nor refused",
        )
            .into(),
    }))
}

/// Of each of `count` jobs that the call itself failed.
pub(super) fn failed(
    error: &RedisError,
    count: usize,
) -> impl Iterator<Item = Result<WriteResult, BrokerError>> {
    std::iter::repeat_with(|| Err(error.clone().into())).take(count)
}

/// Not an answer for each job that was sent.
pub(super) fn too_few() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "not an answer for each job").into()
}

/// The error that Redis raised inside of a script, as if the command had travelled alone.
pub(super) fn raised(text: &str) -> RedisError {
    match unwrapped(text).split_once(' ') {
        Some((code, detail)) if !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase()) => {
            redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
        }
        _ => {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            (kind, "the script ended with an error", text.to_owned()).into()
        }
    }
}
