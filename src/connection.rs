//! The connection to Redis: one multiplexed socket a replica, every call with a deadline, replaced when it is dead.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    Client, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use secrecy::{ExposeSecret, SecretString};

use crate::telemetry::metrics::{
    PROCESS,
    labels::{Index, RedisFault},
};

/// No call to Redis waits longer than this for its answer, unless its caller says otherwise.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls in a row without an answer after which the socket counts as dead. A partition sends no RST, so nothing
/// else would ever tell.
const DEAF_AFTER: u32 = 3;

/// A cheaply cloned handle to Redis.
///
/// Reconnects by itself and fails fast while it cannot: callers retry with a back-off of their own, because only
/// they know whether a resend is safe.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    client: Client,
    manager: Mutex<ConnectionManager>,
    unanswered: AtomicU32,
    /// The last call found no connection.
    cut_off: AtomicBool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection") // The address may carry a password.
    }
}

impl Connection {
    /// Prepares a connection; the first call opens it. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the URL is not one that Redis clients understand.
    pub fn open(url: &SecretString) -> Result<Self, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = url.expose_secret().into_connection_info()?.set_tcp_settings(tcp);
        let client = Client::open(info)?;
        let manager = Mutex::new(new_manager(&client)?);
        Ok(Self(Arc::new(Inner {
            client,
            manager,
            unanswered: AtomicU32::new(0),
            cut_off: AtomicBool::new(false),
        })))
    }

    /// Runs a script: one round trip, two when Redis has forgotten the script.
    ///
    /// # Errors
    /// Redis's own, or a time-out after two seconds: the script may have run then.
    pub async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let (mut manager, asked) = (self.manager(), Instant::now());
        self.heed(asked, script.invoke_async(&mut manager).await)
    }

    /// Sends a pipeline in one round trip.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn query<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RedisError> {
        let (mut manager, asked) = (self.manager(), Instant::now());
        self.heed(asked, pipeline.query_async(&mut manager).await)
    }

    /// Answers once Redis does.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        let (mut manager, asked) = (self.manager(), Instant::now());
        self.heed(asked, redis::cmd("PING").query_async(&mut manager).await)
    }

    /// A socket of its own that receives Redis's pushes (RESP3), for waiting.
    ///
    /// # Errors
    /// When Redis cannot be reached, or does not speak RESP3.
    pub async fn listener(
        &self,
        pushes: tokio::sync::mpsc::UnboundedSender<redis::PushInfo>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let info = self.0.client.get_connection_info();
        let resp3 = info
            .redis_settings()
            .clone()
            .set_protocol(redis::ProtocolVersion::RESP3);
        let client = Client::open(info.clone().set_redis_settings(resp3))?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_push_sender(pushes);
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A socket of its own for commands that block: no answer is too late for it. It is closed when it is dropped,
    /// and with it ends whatever it waits for.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn blocking(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        self.0
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    fn manager(&self) -> ConnectionManager {
        self.0
            .manager
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counts the answers, and watches them for a socket that has gone deaf, to open another.
    fn heed<T>(&self, asked: Instant, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        PROCESS.redis_seconds.observe(asked.elapsed());
        if let Err(error) = &answer {
            let fault = RedisFault::of(error);
            PROCESS.redis_errors[fault.index()].add(1);
            if fault != RedisFault::Answer {
                self.0.cut_off.store(true, Ordering::Relaxed);
            }
        } else if self.0.cut_off.load(Ordering::Relaxed) && self.0.cut_off.swap(false, Ordering::Relaxed) {
            PROCESS.redis_reconnects.add(1);
        }
        if !answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.0.unanswered.store(0, Ordering::Relaxed);
        } else if self.0.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= DEAF_AFTER {
            self.0.unanswered.store(0, Ordering::Relaxed);
            if let Ok(fresh) = new_manager(&self.0.client) {
                tracing::warn!("Redis answers nothing: opening another connection");
                *self.0.manager.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
            }
        }
        answer
    }
}

fn new_manager(client: &Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_number_of_retries(0)
        // The default of 50 makes callers queue behind each other at a few hundred jobs in flight.
        .set_pipeline_buffer_size(1024);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
