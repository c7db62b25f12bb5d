//! The connection to Redis: one multiplexed socket a replica, and a deadline for every call. The replica replaces the
//! socket when it is dead, or when its server is no longer the primary, or no longer owns the fleet's slot of a cluster.

mod address;
mod cluster;
mod refusal;
mod tracking;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use address::{AuthorityFile, RedisAddress, Sentinels};
pub use cluster::Node;
use redis::{
    Client, ErrorKind, FromRedisValue, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};
use refusal::RefusalReader;
use tracing::info;
pub use tracking::{KeyChanges, TrackingSocket};

use crate::{
    keys::KeyNamespace,
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
/// The same for calls that carry a large payload. Several may be ahead of one on the socket.
const LARGE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls in a row without an answer after which the socket counts as dead. A partition sends no RST, so this is the
/// only sign of it.
const DEAF_AFTER: u32 = 3;
/// How long the Sentinels may take to name the primary, all of them together.
const SENTINELS_TIMEOUT: Duration = Duration::from_secs(4);
/// A server that refuses writes is left no more often than this: its address may go on leading to it for a while.
const LEAVE_EVERY: Duration = Duration::from_secs(1);

/// A cheaply cloned handle to Redis.
///
/// Reconnects by itself and fails fast while it cannot: callers retry with a back-off of their own, because only
/// they know whether a resend is safe.
#[derive(Clone)]
pub struct Connection(Arc<ConnectionState>);

struct ConnectionState {
    /// Where Redis is. Its authorities are replaced when their file has changed.
    address: Mutex<RedisAddress>,
    /// The server that is asked; `None` until it is known, and after it was given up.
    server: Mutex<Option<RedisServer>>,
    /// Held while a server is looked for.
    search: tokio::sync::Mutex<()>,
    /// Why the server closes connections.
    refusals: RefusalReader,
    unanswered: AtomicU32,
    /// Counts the sockets that were given up for another.
    generation: AtomicU64,
    /// When a server was last left because it refused writes.
    left: Mutex<Option<Instant>>,
    /// The last call found no connection.
    cut_off: AtomicBool,
    /// How long an answer may take.
    response_timeout: Duration,
    /// Whether Redis runs scripts as functions, and the names of the fleet's keys.
    functions: FunctionSupport,
    /// Nodes of the cluster, as they were named last.
    nodes: Mutex<Vec<Node>>,
    /// The owner of the fleet's slot, as a node has named it that no longer owns it.
    moved_to: Mutex<Option<Node>>,
    /// The connection of large payloads, once there was one.
    large: OnceLock<Connection>,
    /// The socket that announces changed keys, once there was one.
    tracking: tokio::sync::Mutex<Option<TrackingSocket>>,
}

/// A server, and the shared socket to it.
#[derive(Clone)]
struct RedisServer {
    client: Client,
    manager: ConnectionManager,
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
        Self::of(address.clone(), RESPONSE_TIMEOUT)
    }

    fn of(address: RedisAddress, response_timeout: Duration) -> Result<Self, RedisError> {
        let client = address.client()?;
        let is_asked_for = address.namespace().is_tagged() || address.sentinel_client()?.is_some();
        let server = match is_asked_for {
            true => None,
            false => Some(RedisServer::of(client, response_timeout)?),
        };
        Ok(Self(Arc::new(ConnectionState {
            functions: FunctionSupport::within(address.namespace().clone()),
            nodes: Mutex::default(),
            moved_to: Mutex::default(),
            address: Mutex::new(address),
            server: Mutex::new(server),
            search: tokio::sync::Mutex::new(()),
            refusals: RefusalReader::default(),
            unanswered: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            left: Mutex::new(None),
            cut_off: AtomicBool::new(false),
            response_timeout,
            large: OnceLock::new(),
            tracking: tokio::sync::Mutex::default(),
        })))
    }

    /// The connection for large payloads. A small call on the same socket would wait for all of a payload, and time out.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn for_large(&self) -> Result<&Self, RedisError> {
        if self.0.large.get().is_none() {
            let large = Self::of(self.address(), LARGE_RESPONSE_TIMEOUT)?;
            let _ = self.0.large.set(large); // Another task may have been first: its connection is the one.
        }
        let missing = || RedisError::from((ErrorKind::Client, "no connection for large payloads"));
        self.0.large.get().ok_or_else(missing)
    }

    /// Runs a script: one round trip, some more when Redis has forgotten the script.
    ///
    /// # Errors
    /// Redis's own error, or a time-out after two seconds (30 for large payloads). The script may have run then.
    pub async fn invoke<T: FromRedisValue + Send>(&self, script: &impl Invocation) -> Result<T, RedisError> {
        let asked = (Instant::now(), self.generation());
        let answer = match self.server().await {
            Ok(mut server) => script.run(&mut server.manager, &self.0.functions).await,
            Err(error) => Err(error),
        };
        self.explained(self.record_answer(asked, answer)).await
    }

    /// Sends a pipeline in one round trip.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn query<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, RedisError> {
        let asked = (Instant::now(), self.generation());
        let answer = match self.server().await {
            Ok(mut server) => pipeline.query_async(&mut server.manager).await,
            Err(error) => Err(error),
        };
        self.explained(self.record_answer(asked, answer)).await
    }

    /// Returns when Redis has answered.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn ping(&self) -> Result<(), RedisError> {
        let asked = (Instant::now(), self.generation());
        let answer = match self.server().await {
            Ok(mut server) => redis::cmd("PING").query_async(&mut server.manager).await,
            Err(error) => Err(error),
        };
        self.explained(self.record_answer(asked, answer)).await
    }

    /// A socket of its own for transactions of large payloads: WATCH belongs to a socket. It is closed when it is dropped.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn transactions(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(LARGE_RESPONSE_TIMEOUT));
        let server = self.server().await?;
        server
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// A socket of its own for commands that block, without a limit on the answer. Dropping it closes it, which ends the
    /// blocked command.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn blocking(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        let server = self.server().await?;
        server
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// The part in front of all names of the fleet.
    pub fn namespace(&self) -> &KeyNamespace {
        self.0.functions.namespace()
    }

    /// The fleet's name of a key of the worker's own.
    pub fn named(&self, name: &str) -> String {
        self.namespace().named(name)
    }

    /// Returns true if Redis is a cluster of several nodes, and the fleet's names carry no tag. Scripts would be refused there.
    ///
    /// # Errors
    /// When Redis cannot be reached. A server that does not tell counts as a single one.
    pub async fn is_untagged_cluster(&self) -> Result<bool, RedisError> {
        if self.namespace().is_tagged() {
            return Ok(false);
        }
        // Every user of the worker's may ask for the first.
        for (command, tells) in [
            (["INFO", "cluster"], cluster::is_cluster as fn(&str) -> bool),
            (["CLUSTER", "INFO"], cluster::has_several_nodes),
        ] {
            let mut ask = redis::pipe();
            ask.cmd(command[0]).arg(command[1]);
            match self.query::<(String,)>(&ask).await {
                Ok((info,)) if tells(&info) => {}
                Ok(_) => return Ok(false),
                Err(error) if error.clone().into_server_errors().is_some() => {
                    return Ok(command[0] == "CLUSTER");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Host and port of the server that is asked.
    ///
    /// # Errors
    /// When it cannot be found.
    pub async fn server_address(&self) -> Result<String, RedisError> {
        let server = self.server().await?;
        Ok(server.client.get_connection_info().addr().to_string())
    }

    /// Changes whenever the connection replaces its socket. A separate socket that a caller opened earlier may then
    /// lead to a server that is no longer the primary.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Relaxed)
    }

    fn address(&self) -> RedisAddress {
        let address = locked(&self.0.address);
        address.clone()
    }

    fn known_server(&self) -> Option<RedisServer> {
        let server = locked(&self.0.server);
        server.clone()
    }

    /// The server to ask. Where Sentinels or the nodes of a cluster know it, they are asked once for all callers that wait.
    async fn server(&self) -> Result<RedisServer, RedisError> {
        if let Some(server) = self.known_server() {
            return Ok(server);
        }
        let _search = self.0.search.lock().await;
        if let Some(server) = self.known_server() {
            return Ok(server);
        }
        let address = self.address();
        let client = match address.sentinel_client()? {
            Some(mut sentinels) => {
                let found = tokio::time::timeout(SENTINELS_TIMEOUT, sentinels.async_get_client()).await;
                let late = |_elapsed| RedisError::from((ErrorKind::Io, "no answer from the Sentinels"));
                let client = found.map_err(late)??;
                tracing::info!(primary = %client.get_connection_info().addr(), "the Sentinels have named the primary");
                client
            }
            None if address.namespace().is_tagged() => self.slot_owner(&address).await?,
            None => address.client()?,
        };
        let server = RedisServer::of(client, self.0.response_timeout)?;
        *locked(&self.0.server) = Some(server.clone());
        Ok(server)
    }

    /// The node that owns the fleet's slot.
    async fn slot_owner(&self, address: &RedisAddress) -> Result<Client, RedisError> {
        let moved_to = locked(&self.0.moved_to).take();
        if let Some(node) = moved_to {
            info!(
                node = format!("{}:{}", node.0, node.1),
                "the fleet's slot has moved to another node of the cluster"
            );
            return address.client_of(&node);
        }
        let slot = address.namespace().slot().unwrap_or_default();
        let mut candidates = address.seeds()?;
        candidates.extend(locked(&self.0.nodes).iter().cloned());
        candidates.sort();
        candidates.dedup();
        let owner = cluster::find_owner(address, slot, &candidates).await?;
        *locked(&self.0.nodes) = owner.nodes;
        let (host, port) = &owner.node;
        info!(
            slot,
            node = format!("{host}:{port}"),
            "the cluster has named the owner of the fleet's slot"
        );
        address.client_of(&owner.node)
    }

    /// Counts the answers, and gives up a socket that no longer answers, or whose server has become a replica. Such a
    /// server keeps the connection open, so only its refused writes show the change.
    fn record_answer<T>(
        &self,
        (asked, generation): (Instant, u64),
        answer: Result<T, RedisError>,
    ) -> Result<T, RedisError> {
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
        match answer.as_ref().err().map(RedisErrorClass::of) {
            Some(RedisErrorClass::AnotherNode) => self.follow_slot(generation, answer.as_ref().err()),
            Some(RedisErrorClass::Replica) if self.may_leave() => {
                self.reopen("Redis has become a replica: opening another connection to its address");
            }
            Some(RedisErrorClass::NoAnswer) => self.look_for_change(),
            Some(RedisErrorClass::RefusedForNow) if is_cluster_down(answer.as_ref().err()) => {
                self.look_for_change()
            }
            _ => {}
        }
        answer
    }

    /// The answer, or its error with the reason for which the server closes connections.
    async fn explained<T>(&self, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        match (answer, self.known_server()) {
            (Err(error), Some(server)) => Err(self.0.refusals.explain(error, &server.client).await),
            (answer, _) => answer,
        }
    }

    /// Follows what may have changed when Redis cannot be reached: the primary, where Sentinels know it, and the file of
    /// authorities.
    fn look_for_change(&self) {
        let address = self.address();
        let is_asked_for = address.namespace().is_tagged() || address.sentinels().is_some();
        let may_change = address.has_authorities() || is_asked_for;
        if !may_change || !self.may_leave() {
            return;
        }
        if let Some(changed) = address.with_changed_authorities() {
            *locked(&self.0.address) = changed;
            self.reopen(
                "REDIS_CA_FILE has changed: opening another connection that trusts what it holds now",
            );
        } else if is_asked_for {
            // No log line: callers report the outage, during which Sentinels and nodes are asked every second.
            self.forget_server();
        }
    }

    /// Goes to the node that the server has named as the owner of the slot. Answers of a server that was given up before do
    /// not count.
    fn follow_slot(&self, generation: u64, error: Option<&RedisError>) {
        if !self.namespace().is_tagged() || generation != self.generation() {
            return;
        }
        // A key of another slot says nothing about the fleet's.
        let moved = error.into_iter().flat_map(cluster::moved);
        let Some((_, node)) = moved
            .into_iter()
            .find(|(slot, _)| self.namespace().slot() == Some(*slot))
        else {
            return;
        };
        *locked(&self.0.moved_to) = node;
        self.forget_server();
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
        tracing::warn!("{why}");
        self.forget_server();
    }

    fn forget_server(&self) {
        *locked(&self.0.server) = None;
        self.0.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns true if the cluster as a whole does not serve the slot for now.
fn is_cluster_down(error: Option<&RedisError>) -> bool {
    error.and_then(RedisError::code) == Some("CLUSTERDOWN")
}

impl RedisServer {
    fn of(client: Client, response_timeout: Duration) -> Result<Self, RedisError> {
        let manager = new_manager(&client, response_timeout)?;
        Ok(Self { client, manager })
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
