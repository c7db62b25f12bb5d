//! The connection to Redis: one multiplexed socket a replica, and a deadline for every call. The replica replaces the
//! socket when it is dead, or when its server is no longer the primary.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    Client, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    locks::locked,
    redis_error::RedisErrorClass,
    script::{FunctionSupport, Invocation},
    telemetry::metrics::{
        PROCESS,
        labels::{CellIndex, RedisFault},
    },
};

/// No call to Redis waits longer than this for its answer, unless its caller says otherwise.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The same where the answer, or the question, is a large payload: several may be before it on their socket.
const LARGE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls in a row without an answer after which the socket counts as dead. A partition sends no RST, so nothing
/// else would ever tell.
const DEAF_AFTER: u32 = 3;
/// A server that refuses writes is left no more often than this: its address may go on leading to it for a while.
const LEAVE_EVERY: Duration = Duration::from_secs(1);

/// Where Redis is, with which credentials, and by which certificates it is known.
#[derive(Clone)]
pub struct RedisAddress {
    url: SecretString,
    authorities: Option<Vec<u8>>,
}

impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisAddress") // The URL may carry a password, and certificates are long.
    }
}

impl<T: Into<SecretString>> From<T> for RedisAddress {
    fn from(url: T) -> Self {
        Self {
            url: url.into(),
            authorities: None,
        }
    }
}

impl RedisAddress {
    /// Trusts the authorities of these certificates (PEM) instead of the system's.
    #[must_use]
    pub fn trusting(self, authorities: Vec<u8>) -> Self {
        Self {
            authorities: Some(authorities),
            ..self
        }
    }

    /// The URL.
    pub const fn url(&self) -> &SecretString {
        &self.url
    }

    /// Returns true if the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        let info = self.url.expose_secret().into_connection_info();
        info.is_ok_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }

    fn client(&self) -> Result<Client, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = self
            .url
            .expose_secret()
            .into_connection_info()?
            .set_tcp_settings(tcp);
        match &self.authorities {
            Some(authorities) => {
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(authorities.clone()),
                };
                Client::build_with_tls(info, certificates)
            }
            None => Client::open(info),
        }
    }
}

/// A cheaply cloned handle to Redis.
///
/// Reconnects by itself and fails fast while it cannot: callers retry with a back-off of their own, because only
/// they know whether a resend is safe.
#[derive(Clone)]
pub struct Connection(Arc<ConnectionState>);

struct ConnectionState {
    client: Client,
    manager: Mutex<ConnectionManager>,
    unanswered: AtomicU32,
    /// Counts the sockets that were given up for another.
    generation: AtomicU64,
    /// When a server was last left because it refused writes.
    left: Mutex<Option<Instant>>,
    /// The last call found no connection.
    cut_off: AtomicBool,
    /// How long an answer may take.
    response_timeout: Duration,
    /// Whether Redis runs scripts as functions.
    functions: FunctionSupport,
    /// The connection of large payloads, once there was one.
    large: OnceLock<Connection>,
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
    /// When the URL is not one that Redis clients understand, or a certificate cannot be read.
    pub fn open(address: &RedisAddress) -> Result<Self, RedisError> {
        Self::of(address.client()?, RESPONSE_TIMEOUT)
    }

    fn of(client: Client, response_timeout: Duration) -> Result<Self, RedisError> {
        let manager = Mutex::new(new_manager(&client, response_timeout)?);
        Ok(Self(Arc::new(ConnectionState {
            client,
            manager,
            unanswered: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            left: Mutex::new(None),
            cut_off: AtomicBool::new(false),
            response_timeout,
            functions: FunctionSupport::default(),
            large: OnceLock::new(),
        })))
    }

    /// The connection on which large payloads travel. What shared a socket with one would wait for all of it, and count
    /// as unanswered.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn for_large(&self) -> Result<&Self, RedisError> {
        if self.0.large.get().is_none() {
            let large = Self::of(self.0.client.clone(), LARGE_RESPONSE_TIMEOUT)?;
            let _ = self.0.large.set(large); // Another task may have been first: its connection is the one.
        }
        let missing = || RedisError::from((ErrorKind::Client, "no connection for large payloads"));
        self.0.large.get().ok_or_else(missing)
    }

    /// Runs a script: one round trip, some more when Redis has forgotten the script.
    ///
    /// # Errors
    /// Redis's own, or a time-out after two seconds: the script may have run then.
    pub async fn invoke<T: FromRedisValue + Send>(&self, script: &impl Invocation) -> Result<T, RedisError> {
        let (mut manager, asked) = (self.manager(), Instant::now());
        self.record_answer(asked, script.run(&mut manager, &self.0.functions).await)
    }

    /// Sends a pipeline in one round trip.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn query<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RedisError> {
        let (mut manager, asked) = (self.manager(), Instant::now());
        self.record_answer(asked, pipeline.query_async(&mut manager).await)
    }

    /// Answers once Redis does.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        let (mut manager, asked) = (self.manager(), Instant::now());
        self.record_answer(asked, redis::cmd("PING").query_async(&mut manager).await)
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

    /// Changes whenever the connection replaces its socket. A separate socket that a caller opened earlier may then
    /// lead to a server that is no longer the primary.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Relaxed)
    }

    fn manager(&self) -> ConnectionManager {
        locked(&self.0.manager).clone()
    }

    /// Counts the answers, and gives up a socket that no longer answers, or whose server has become a replica. Such a
    /// server keeps the connection open, so only its refused writes show the change.
    fn record_answer<T>(&self, asked: Instant, answer: Result<T, RedisError>) -> Result<T, RedisError> {
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
            self.reopen("Redis answers nothing: opening another connection");
        }
        let is_of_replica = |error: &RedisError| RedisErrorClass::of(error) == RedisErrorClass::Replica;
        if answer.as_ref().is_err_and(is_of_replica) && self.may_leave() {
            self.reopen("Redis has become a replica: opening another connection to its address");
        }
        answer
    }

    fn may_leave(&self) -> bool {
        let mut left = locked(&self.0.left);
        let may = left.is_none_or(|at| at.elapsed() >= LEAVE_EVERY);
        if may {
            *left = Some(Instant::now());
        }
        may
    }

    fn reopen(&self, why: &str) {
        if let Ok(fresh) = new_manager(&self.0.client, self.0.response_timeout) {
            tracing::warn!("{why}");
            *locked(&self.0.manager) = fresh;
            self.0.generation.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn new_manager(client: &Client, response_timeout: Duration) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
        .set_number_of_retries(0)
        // The default of 50 makes callers queue behind each other at a few hundred jobs in flight.
        .set_pipeline_buffer_size(1024);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
