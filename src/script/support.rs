//! Finds out whether Redis runs functions, and loads them.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rand::RngExt;
use redis::{RedisError, Value, aio::ConnectionManager};
use tracing::{debug, info};

use super::variant::StoredFunction;
use crate::{keys::KeyNamespace, locks::locked, redis_error::RedisErrorClass};

/// How long scripts are evaluated after Redis has refused a function. Redis may be upgraded, or its user given the rights.
const EVALUATED_FOR: Duration = Duration::from_secs(600);

/// The knowledge of one connection about the functions of its Redis.
#[derive(Debug, Default)]
pub struct FunctionSupport {
    /// Of the fleet's names in a cluster.
    namespace: KeyNamespace,
    refused_at: Mutex<Option<Instant>>,
    /// Held by the call that loads a function.
    loading: tokio::sync::Mutex<()>,
}

impl FunctionSupport {
    /// For the fleet of this namespace.
    pub(crate) fn within(namespace: KeyNamespace) -> Self {
        Self {
            namespace,
            ..Self::default()
        }
    }

    /// The fleet's namespace.
    pub(crate) const fn namespace(&self) -> &KeyNamespace {
        &self.namespace
    }

    /// Returns true if functions may be called.
    pub(super) fn are_usable(&self) -> bool {
        self.refused_at().is_none_or(|at| at.elapsed() >= EVALUATED_FOR)
    }

    /// The right to load a function; `None` while another call loads one. The caller evaluates its script then: a wait
    /// would add up over the callers when Redis does not answer.
    pub(super) fn may_load(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.loading.try_lock().ok()
    }

    /// Notes that Redis does not run functions.
    pub(super) fn refused(&self, error: &RedisError) {
        let mut refused_at = self.refused_at();
        if refused_at.is_none() {
            info!(%error, "Redis does not run scripts as functions: the worker evaluates them, which takes Redis more time, and tries again in 10 minutes");
        }
        *refused_at = Some(Instant::now());
    }

    fn refused_at(&self) -> MutexGuard<'_, Option<Instant>> {
        locked(&self.refused_at)
    }
}

/// Returns true if Redis does not know the function. The call had no effect then.
pub(super) fn is_missing(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|words| words.contains("Function not found"))
}

/// Returns true if Redis does not run functions, or not for this user. Servers word it differently, and all name the
/// command.
pub(super) fn is_refused(error: &RedisError) -> bool {
    let words = error.detail().unwrap_or_default().to_ascii_lowercase();
    RedisErrorClass::of(error) != RedisErrorClass::NoAnswer && words.contains("fcall")
}

/// Loads a function, and deletes other versions of it beyond `kept`. A replica that still calls a deleted one loads it
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
    // Old libraries only cost Redis some memory, so a failure to delete them has no consequence.
    if let Err(error) = delete_others(function, kept, connection).await {
        debug!(%error, function = function.name, "old versions of a function are not deleted: the next load tries again");
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
    if others.len() > kept {
        // Redis does not tell which of them are in use. In a fixed order, two versions of a rolling deployment could delete
        // each other's library at every call; at random, both are soon among the kept ones.
        let first = rand::rng().random_range(0..others.len());
        others.rotate_left(first);
    }
    for name in others.iter().skip(kept) {
        let mut delete = redis::cmd("FUNCTION");
        delete.arg("DELETE").arg(name);
        delete.query_async::<()>(connection).await?;
    }
    Ok(())
}

/// Collects the names with this stem from an answer of `FUNCTION LIST`, a map (RESP3) or a flat list (RESP2).
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
