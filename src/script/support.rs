//! Whether a Redis runs functions, and how one gets there.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use redis::{RedisError, Value, aio::ConnectionManager};
use tracing::{debug, info};

use super::StoredFunction;
use crate::{locks::locked, redis_error::RedisErrorClass};

/// How long scripts are evaluated after Redis has refused a function: it may be upgraded, or its user given the rights.
const EVALUATED_FOR: Duration = Duration::from_secs(600);

/// What one connection knows about the functions of its Redis.
#[derive(Debug, Default)]
pub struct FunctionSupport {
    refused_at: Mutex<Option<Instant>>,
}

impl FunctionSupport {
    /// Returns true if functions may be called.
    pub(super) fn are_usable(&self) -> bool {
        self.refused_at().is_none_or(|at| at.elapsed() >= EVALUATED_FOR)
    }

    /// Notes that Redis does not run functions.
    pub(super) fn refused(&self, error: &RedisError) {
        let mut refused_at = self.refused_at();
        if refused_at.is_none() {
            info!(%error, "Redis does not run the scripts as functions: they are evaluated, which takes it more time");
        }
        *refused_at = Some(Instant::now());
    }

    fn refused_at(&self) -> MutexGuard<'_, Option<Instant>> {
        locked(&self.refused_at)
    }
}

/// Returns true if Redis does not know the function: it has not run.
pub(super) fn is_missing(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|words| words.contains("Function not found"))
}

/// Returns true if Redis does not run functions, or not for this user. Each server words it in its own way, and names the
/// command.
pub(super) fn is_refused(error: &RedisError) -> bool {
    let words = error.detail().unwrap_or_default().to_ascii_lowercase();
    RedisErrorClass::of(error) != RedisErrorClass::NoAnswer && words.contains("fcall")
}

/// Loads a function, and deletes older versions of it beyond `kept` others. A replica that still calls one of these loads it
/// again.
pub(super) async fn load(
    function: &StoredFunction,
    kept: usize,
    connection: &mut ConnectionManager,
) -> Result<(), RedisError> {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(&function.code);
    load.query_async::<()>(connection).await?;
    debug!(function = function.name, "a script is loaded as a function");
    // Old libraries cost some memory of Redis and no more: failing to delete them has no consequence.
    if let Err(error) = delete_others(function, kept, connection).await {
        debug!(%error, "old functions are not deleted");
    }
    Ok(())
}

async fn delete_others(
    function: &StoredFunction,
    kept: usize,
    connection: &mut ConnectionManager,
) -> Result<(), RedisError> {
    let mut list = redis::cmd("FUNCTION");
    list.arg("LIST")
        .arg("LIBRARYNAME")
        .arg(format!("{}*", function.stem));
    let libraries: Value = list.query_async(connection).await?;
    let mut others = Vec::new();
    collect_names(&libraries, &function.stem, &mut others);
    others.sort();
    others.dedup();
    others.retain(|name| *name != function.name);
    for name in others.iter().skip(kept) {
        let mut delete = redis::cmd("FUNCTION");
        delete.arg("DELETE").arg(name);
        delete.query_async::<()>(connection).await?;
    }
    Ok(())
}

/// Finds the names that begin so in an answer of `FUNCTION LIST`, which is a map or a flat list by the protocol.
fn collect_names(answer: &Value, stem: &str, names: &mut Vec<String>) {
    match answer {
        Value::BulkString(bytes) => {
            let name = String::from_utf8_lossy(bytes);
            let digest = name.strip_prefix(stem);
            if digest.is_some_and(|digest| digest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
                names.push(name.into_owned());
            }
        }
        Value::SimpleString(text) if text.starts_with(stem) => names.push(text.clone()),
        Value::Array(values) | Value::Set(values) => {
            for value in values {
                collect_names(value, stem, names);
            }
        }
        Value::Map(pairs) => {
            for (key, value) in pairs {
                collect_names(key, stem, names);
                collect_names(value, stem, names);
            }
        }
        _ => {}
    }
}
