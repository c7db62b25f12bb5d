//! Scripts that run in Redis, as functions where Redis has them.
//!
//! A script begins with preludes, the functions that it shares with others. `EVALSHA` makes these functions again at every
//! call, which costs Redis more than most scripts do afterwards. Redis 7 can load them once: `library.rs` makes a library
//! with one function out of the same source. Redis before 7, Dragonfly, and users without the rights evaluate the script
//! ([`FunctionSupport`]).
//!
//! The name of a library holds a digest of its source, so that each version has a library of its own. A replica that finds
//! its function missing loads it, and deletes surplus libraries of other versions.

mod library;
mod support;
#[cfg(test)]
mod tests;
mod variant;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use redis::{FromRedisValue, RedisError, ToRedisArgs, aio::ConnectionManager};

pub use support::FunctionSupport;
pub(crate) use variant::ScriptVariant;
use variant::StoredFunction;

use crate::{keys::KeyNamespace, locks::locked, redis_error::RedisErrorClass};

/// Libraries of other versions of a script that a load keeps, for the replicas that may still call them.
const KEPT_VERSIONS: usize = 3;

/// A script.
#[derive(Debug)]
pub struct Script {
    source: ScriptSource,
    plain: Arc<ScriptVariant>,
    /// The variants for fleets in a cluster.
    tagged: Mutex<HashMap<KeyNamespace, Arc<ScriptVariant>>>,
}

#[derive(Debug)]
struct ScriptSource {
    /// The name of its function, for a script that has one.
    name: Option<String>,
    preludes: String,
    operation: String,
}

impl Script {
    /// A script that Redis always evaluates.
    pub fn new(source: &str) -> Self {
        Self::of(ScriptSource {
            name: None,
            preludes: String::new(),
            operation: source.to_owned(),
        })
    }

    /// A script that runs as a function where that is possible.
    ///
    /// `name` consists of lower-case letters, digits and `_`; `operation` is the part behind the preludes.
    pub fn stored(name: &str, preludes: &str, operation: &str) -> Self {
        Self::of(ScriptSource {
            name: Some(name.to_owned()),
            preludes: preludes.to_owned(),
            operation: operation.to_owned(),
        })
    }

    fn of(source: ScriptSource) -> Self {
        Self {
            plain: Arc::new(ScriptVariant::new(
                source.name.as_deref(),
                &source.preludes,
                &source.operation,
            )),
            tagged: Mutex::default(),
            source,
        }
    }

    /// The script as the fleets of this namespace run it.
    pub(crate) fn within(&self, namespace: &KeyNamespace) -> Arc<ScriptVariant> {
        if !namespace.is_tagged() {
            return self.plain.clone();
        }
        let mut tagged = locked(&self.tagged);
        let variant = tagged.entry(namespace.clone()).or_insert_with(|| {
            let ScriptSource {
                name,
                preludes,
                operation,
            } = &self.source;
            Arc::new(ScriptVariant::tagged(
                namespace,
                name.as_deref(),
                preludes,
                operation,
            ))
        });
        variant.clone()
    }

    /// The names by which Redis's SLOWLOG knows the script: its SHA, and its function.
    pub fn logged_names(&self) -> impl Iterator<Item = &str> {
        let ScriptVariant { evaluated, function } = &*self.plain;
        let function = function.as_ref().map(|function| function.name.as_str());
        std::iter::once(evaluated.get_hash()).chain(function)
    }

    /// The SHA by which Redis knows the evaluated script.
    pub fn get_hash(&self) -> &str {
        self.plain.evaluated.get_hash()
    }

    /// The code of the library with its function, if it has one.
    #[cfg(test)]
    pub(crate) fn library_code(&self) -> Option<String> {
        self.plain.function.as_ref().map(|function| function.code.clone())
    }

    /// A call without keys and arguments so far.
    pub fn prepare_invoke(&self) -> ScriptCall<'_> {
        ScriptCall {
            script: self,
            keys: Vec::new(),
            args: Vec::new(),
        }
    }
}

/// Scripts by name, each once for each name by which Redis's SLOWLOG knows it.
pub(crate) fn logged_names<'a>(
    scripts: impl IntoIterator<Item = (String, &'a Script)>,
) -> Vec<(String, String)> {
    scripts
        .into_iter()
        .flat_map(|(name, script)| {
            script
                .logged_names()
                .map(move |logged| (name.clone(), logged.to_owned()))
        })
        .collect()
}

/// A call of a script, with its keys and arguments.
#[derive(Debug)]
pub struct ScriptCall<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl ScriptCall<'_> {
    /// Adds a key.
    pub fn key<T: ToRedisArgs>(&mut self, key: T) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    /// Adds an argument.
    pub fn arg<T: ToRedisArgs>(&mut self, arg: T) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    async fn call<T: FromRedisValue>(
        &self,
        function: &StoredFunction,
        guard: Option<&str>,
        connection: &mut ConnectionManager,
    ) -> Result<T, RedisError> {
        let mut command = redis::cmd("FCALL");
        command
            .arg(&function.name)
            .arg(self.keys.len() + usize::from(guard.is_some()))
            .arg(&self.keys);
        if let Some(guard) = guard {
            command.arg(guard);
        }
        command.arg(&self.args).query_async(connection).await
    }
}

/// A call that Redis runs as a script.
pub trait Invocation: Sync {
    /// Runs the script in one round trip, or in a few more when Redis has to load it first.
    fn run<T: FromRedisValue + Send>(
        &self,
        connection: &mut ConnectionManager,
        functions: &FunctionSupport,
    ) -> impl Future<Output = Result<T, RedisError>> + Send;
}

impl Invocation for redis::ScriptInvocation<'_> {
    async fn run<T: FromRedisValue + Send>(
        &self,
        connection: &mut ConnectionManager,
        _functions: &FunctionSupport,
    ) -> Result<T, RedisError> {
        self.invoke_async(connection).await
    }
}

impl Invocation for ScriptCall<'_> {
    async fn run<T: FromRedisValue + Send>(
        &self,
        connection: &mut ConnectionManager,
        functions: &FunctionSupport,
    ) -> Result<T, RedisError> {
        let namespace = functions.namespace();
        let (variant, guard) = (self.script.within(namespace), namespace.guard());
        let guard = guard.as_deref();
        if let Some(function) = variant.function.as_ref().filter(|_| functions.are_usable()) {
            let mut answer = self.call(function, guard, connection).await;
            let is_missing = answer.as_ref().is_err_and(support::is_missing);
            // After a restart every call in flight misses its function; only one of them loads at a time.
            if let Some(_loading) = is_missing.then(|| functions.may_load()).flatten() {
                match support::load(function, KEPT_VERSIONS, connection).await {
                    Ok(()) => answer = self.call(function, guard, connection).await,
                    // The script has not run, and neither error says that Redis lacks functions.
                    Err(error)
                        if matches!(
                            RedisErrorClass::of(&error),
                            RedisErrorClass::NoAnswer
                                | RedisErrorClass::Replica
                                | RedisErrorClass::AnotherNode
                        ) =>
                    {
                        return Err(error);
                    }
                    Err(error) => functions.refused(&error),
                }
            }
            match answer {
                // Neither call has run. Redis refuses a function before it begins when memory is full; an evaluated script
                // runs up to its first write that needs memory, and may free some before.
                Err(error) if support::is_missing(&error) || error.code() == Some("OOM") => {}
                Err(error) if support::is_refused(&error) => functions.refused(&error),
                answer => return answer,
            }
        }
        let mut invocation = variant.evaluated.prepare_invoke();
        for key in &self.keys {
            invocation.key(key);
        }
        if let Some(guard) = guard {
            invocation.key(guard);
        }
        for arg in &self.args {
            invocation.arg(arg);
        }
        invocation.invoke_async(connection).await
    }
}
