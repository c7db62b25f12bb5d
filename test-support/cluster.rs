//! A Redis Cluster of the test's own on loopback.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use backend_worker::{
    connection::{Connection, RedisAddress},
    demo::PrivateRedis,
    keys::KeyNamespace,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{PATIENCE, eventually};

/// The tag of the tests' fleets.
pub const TAG: &str = "app";
const SLOTS: usize = 16_384;

/// Primaries with equal shares of the slots, then replicas of these in turn.
pub struct TestCluster {
    nodes: Vec<PrivateRedis>,
    arguments: Vec<Vec<String>>,
}

impl TestCluster {
    /// Starts so many primaries and replicas, and waits until all slots are served.
    pub async fn start(primaries: usize, replicas: usize) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            arguments: Vec::new(),
        };
        for _ in 0..primaries + replicas {
            // By default the port of the bus is the node's plus 10000, which may be none.
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let bus = free.local_addr().unwrap().port().to_string();
            drop(free);
            let arguments: Vec<String> = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1000",
                "--repl-diskless-sync-delay",
                "0",
                "--enable-debug-command",
                "yes",
            ]
            .map(str::to_owned)
            .to_vec();
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            cluster
                .nodes
                .push(PrivateRedis::start_with(&words).await.unwrap());
            cluster.arguments.push(arguments);
        }
        cluster.form(primaries).await;
        cluster
    }

    async fn form(&self, primaries: usize) {
        let share = SLOTS.div_ceil(primaries);
        for at in 0..self.nodes.len() {
            self.ask::<()>(at, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()])
                .await;
            let bus = &self.arguments[at][3];
            if at > 0 {
                let port = self.port(at).to_string();
                self.ask::<()>(0, &["CLUSTER", "MEET", "127.0.0.1", &port, bus])
                    .await;
            }
            if at < primaries {
                let (first, last) = (at * share, (at + 1) * share - 1);
                let last = last.min(SLOTS - 1);
                let range = [first.to_string(), last.to_string()];
                self.ask::<()>(at, &["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]])
                    .await;
            }
        }
        let count = self.nodes.len();
        eventually("all nodes know each other", async || {
            for at in 0..count {
                let nodes: String = self.ask(at, &["CLUSTER", "NODES"]).await;
                if nodes.lines().count() < count || nodes.contains("handshake") {
                    return None;
                }
            }
            Some(())
        })
        .await;
        for at in primaries..count {
            let primary: String = self.ask((at - primaries) % primaries, &["CLUSTER", "MYID"]).await;
            eventually("a replica finds its primary", async || {
                let done: Result<(), _> = self.try_to(at, &["CLUSTER", "REPLICATE", &primary]).await;
                done.ok()
            })
            .await;
        }
        self.until_whole().await;
    }

    /// Waits until all nodes serve all slots, and each replica has its primary's data.
    pub async fn until_whole(&self) {
        eventually("the cluster is whole", async || {
            for at in 0..self.nodes.len() {
                let info: String = self.try_to(at, &["CLUSTER", "INFO"]).await.ok()?;
                let role: String = self.try_to(at, &["INFO", "replication"]).await.ok()?;
                let is_linked = !role.contains("role:slave") || role.contains("master_link_status:up");
                if !info.contains("cluster_state:ok") || !is_linked {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The node that owns the slot of the tag, the address of the whole, and the other nodes.
    pub async fn into_owner(mut self) -> (PrivateRedis, RedisAddress, Self) {
        let (owner, address) = (self.owner().await, self.address());
        let server = self.nodes.remove(owner);
        (server, address, self)
    }

    pub fn port(&self, at: usize) -> u16 {
        self.nodes[at].port()
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Always false: a cluster has nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A URL that names these nodes.
    pub fn url(&self, nodes: impl IntoIterator<Item = usize>) -> String {
        let hosts: Vec<String> = nodes
            .into_iter()
            .map(|at| format!("127.0.0.1:{}", self.port(at)))
            .collect();
        format!("redis://{}", hosts.join(","))
    }

    pub fn namespace() -> KeyNamespace {
        KeyNamespace::tagged(TAG)
    }

    /// The address of the whole cluster, for the fleet with the tag.
    pub fn address(&self) -> RedisAddress {
        self.address_of(TAG)
    }

    /// The same for the fleet with another tag.
    pub fn address_of(&self, tag: &str) -> RedisAddress {
        let seeds = (1..self.len()).map(|at| ("127.0.0.1".to_owned(), self.port(at)));
        RedisAddress::from(self.nodes[0].url()).within(KeyNamespace::tagged(tag), seeds.collect())
    }

    pub fn connection(&self) -> Connection {
        Connection::open(&self.address()).unwrap()
    }

    /// Sends a command to one node.
    pub async fn try_to<T: redis::FromRedisValue>(
        &self,
        at: usize,
        command: &[&str],
    ) -> Result<T, redis::RedisError> {
        let client = redis::Client::open(self.nodes[at].url())?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(5)))
            .set_response_timeout(Some(PATIENCE));
        let mut socket = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        redis::cmd(command[0])
            .arg(&command[1..])
            .query_async(&mut socket)
            .await
    }

    /// As [`Self::try_to`], of a command that succeeds.
    pub async fn ask<T: redis::FromRedisValue>(&self, at: usize, command: &[&str]) -> T {
        self.try_to(at, command).await.unwrap()
    }

    /// The node that owns the slot of the fleet's tag, as the living nodes see it.
    pub async fn owner(&self) -> usize {
        eventually("a node owns the slot", async || {
            for at in 0..self.len() {
                let key = format!("{{{TAG}}}");
                let answer: Result<Option<String>, _> = self.try_to(at, &["GET", &key]).await;
                if answer.is_ok() {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    /// Kills a node (SIGKILL).
    pub fn kill(&self, at: usize) {
        let pid = Pid::from_raw(self.nodes[at].pid().unwrap().cast_signed());
        kill(pid, Signal::SIGKILL).unwrap();
    }

    /// Waits until the others serve all slots without a node that was killed.
    pub async fn until_taken_over(&self, victim: usize) {
        let dead = format!(":{}@", self.port(victim));
        eventually("a replica takes over", async || {
            for at in (0..self.len()).filter(|at| *at != victim) {
                let nodes: String = self.try_to(at, &["CLUSTER", "NODES"]).await.ok()?;
                let info: String = self.try_to(at, &["CLUSTER", "INFO"]).await.ok()?;
                let mut lines = nodes.lines().filter(|line| line.contains(&dead));
                // A line of a node that owns slots has a ninth field.
                let has_slots = lines.any(|line| line.split(' ').count() > 8);
                if has_slots || !info.contains("cluster_state:ok") {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Starts a killed node again; it has lost its data.
    pub async fn revive(&mut self, at: usize) {
        let words: Vec<&str> = self.arguments[at].iter().map(String::as_str).collect();
        self.nodes[at].restart(&words).await.unwrap();
    }

    /// Moves the fleet's slot to another primary, `batch` keys at a time.
    pub async fn migrate(&self, from: usize, to: usize, batch: usize) {
        let slot = Self::namespace().slot().unwrap().to_string();
        let (source, target): (String, String) = (
            self.ask(from, &["CLUSTER", "MYID"]).await,
            self.ask(to, &["CLUSTER", "MYID"]).await,
        );
        self.ask::<()>(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source])
            .await;
        self.ask::<()>(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target])
            .await;
        let port = self.port(to).to_string();
        loop {
            let keys: Vec<String> = self
                .ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, &batch.to_string()])
                .await;
            if keys.is_empty() {
                break;
            }
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            command.extend(keys.iter().map(String::as_str));
            self.ask::<String>(from, &command).await;
        }
        for at in [to, from] {
            self.ask::<()>(at, &["CLUSTER", "SETSLOT", &slot, "NODE", &target])
                .await;
        }
    }
}
