//! Where it happens: a Redis with an append-only file, replicas each behind a proxy of its own, a simulator, Node.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backend_worker::{
    connection::Connection,
    queue::{Broker, BrokerOptions, Layout, apalis::ApalisBroker, bullmq::BullmqBroker},
    simulator::RunningSimulator,
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::Slot,
    support::{Launcher, Node, Proxy, Scene, TestRedis, eventually},
};

/// The queue's name, in both layouts.
pub(crate) const QUEUE: &str = "ai-jobs";
/// Every acknowledged write is on disk: what a restart loses is then lost by us.
pub(crate) const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// The key that the onlooker writes.
const PROBE: &str = "chaos:probe";

/// How a run is set up.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) replicas: usize,
    /// Jobs in each layout.
    pub(crate) jobs: usize,
    /// Time over which they are enqueued, and things go wrong.
    pub(crate) over: Duration,
    pub(crate) lease: Duration,
    /// Time that the provider takes.
    pub(crate) latency: Duration,
    /// Time that the stream of each of OpenAI's answers takes.
    pub(crate) stream: Duration,
    /// Jobs at a time, of each replica in each layout.
    pub(crate) slots: usize,
    /// Calls to OpenAI at a time, over all replicas.
    pub(crate) calls: u64,
    /// Calls to OpenAI a minute; 0 is no limit.
    pub(crate) rpm: u64,
    /// Whether every tenth job asks the same as an earlier one (`DEDUPLICATE=user` or a key).
    pub(crate) repeats: bool,
    /// Further variables of the replicas.
    pub(crate) env: Vec<(&'static str, String)>,
}

/// How long nothing may end before what is left counts as stranded.
const STANDSTILL: Duration = Duration::from_secs(90);

/// What became of replicas so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// Each fault, its victim, and its span of the simulator's time.
    pub(crate) times: Vec<(String, usize, f64, f64)>,
    /// Spans of the simulator's time in which some replica could not take an answer.
    pub(crate) interruptions: Vec<(f64, f64)>,
    /// Jobs whose replica was killed, and when, where that is known of every kill.
    pub(crate) bereaved: Option<Vec<(String, f64)>>,
    /// Spans in which Redis was out of some replica's reach, and of no other's.
    pub(crate) partitions: Vec<(f64, f64)>,
    /// When a write of the onlooker began that Redis took, and when Redis had taken it, by the simulator's time.
    pub(crate) writes: Vec<(f64, f64)>,
    /// Answers that Redis did not take into the ledger while their replica had them, by job, as the replicas say.
    pub(crate) not_kept: HashMap<String, u32>,
    /// Jobs whose replica said that Redis did not take their outcome, not yet at least.
    pub(crate) unwritten: HashSet<String>,
    /// As the closing lines of replicas that were stopped tell it.
    pub(crate) succeeded: u64,
    pub(crate) kills: u32,
    /// Error lines, by their first words.
    pub(crate) errors: BTreeMap<String, u32>,
    /// What a replica must not do.
    pub(crate) findings: Vec<String>,
}

pub(crate) struct Field {
    pub(crate) settings: Settings,
    pub(crate) simulator: RunningSimulator,
    pub(crate) launcher: Launcher,
    pub(crate) node: Node,
    pub(crate) connection: Connection,
    pub(crate) folder: PathBuf,
    pub(crate) redis: AsyncMutex<TestRedis>,
    pub(crate) url: String,
    pub(crate) slots: Vec<Slot>,
    record: Mutex<Record>,
    faketime: Option<PathBuf>,
}

impl Field {
    pub(crate) async fn set(settings: Settings) -> Self {
        let redis = TestRedis::start_with(AOF).await;
        let (port, url) = (redis.server.port(), redis.server.url());
        let folder = std::env::temp_dir().join(format!("backend-worker-chaos-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let node = Node::start(&redis, QUEUE).await;
        // Events are evidence: none may be trimmed. Node writes its own length once, behind its back.
        let key = format!("bull:{QUEUE}:meta");
        eventually("Node has written the queue's meta", async || {
            redis
                .ask::<bool>(&["HEXISTS", &key, "opts.maxLenEvents"])
                .await
                .then_some(())
        })
        .await;
        redis
            .ask::<()>(&["HSET", &key, "opts.maxLenEvents", "100000000"])
            .await;
        let connection = redis.connection();
        let Scene {
            redis,
            simulator,
            mut launcher,
        } = Scene::over(redis, settings.latency, settings.seed).await;
        simulator.set_stream_time(settings.stream);
        let slots = settings.slots;
        for (name, value) in [
            ("QUEUES", format!("bullmq:{QUEUE}={slots},apalis:{QUEUE}={slots}")),
            ("LEASE_TTL", format!("{}ms", settings.lease.as_millis())),
            ("DRAIN_TIMEOUT", "10s".to_owned()),
            ("CIRCUIT_MAX_WAIT", "24h".to_owned()),
            ("KEEP_COMPLETED_COUNT", "10000000".to_owned()),
            ("RETRY_MAX_DELAY", "500ms".to_owned()),
            ("OPENAI_MAX_CONCURRENT", settings.calls.to_string()),
            ("OPENAI_RATE_LIMIT_RPM", settings.rpm.to_string()),
            ("OPENAI_BREAKER_OPEN_FOR", "1s".to_owned()),
            ("AZURE_BREAKER_OPEN_FOR", "1s".to_owned()),
        ] {
            launcher.env.push((name, value));
        }
        launcher.env.extend(settings.env.iter().cloned());
        let (faketime, neighbour) = (faketime(), neighbour());
        let mut slots = Vec::new();
        for n in 0..settings.replicas {
            let (proxy, clock) = (Proxy::before(port).await, folder.join(format!("clock-{n}")));
            std::fs::write(&clock, "+0").unwrap();
            let mut env = vec![
                ("REDIS_URL", proxy.url()),
                ("RAILWAY_REPLICA_ID", format!("chaos-{n}")),
            ];
            if let Some(library) = &faketime {
                env.extend([
                    ("LD_PRELOAD", library.display().to_string()),
                    ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
                    ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
                    ("FAKETIME_CACHE_DURATION", "1".to_owned()),
                ]);
            }
            let mut launcher = launcher.clone();
            if let Some(binary) = neighbour.as_ref().filter(|_| n % 2 == 1) {
                launcher.binary.clone_from(binary);
            }
            slots.push(Slot::start(launcher, env, proxy, clock).await);
        }
        Self {
            settings,
            simulator,
            launcher,
            node,
            connection,
            folder,
            redis: AsyncMutex::new(redis),
            url,
            slots,
            record: Mutex::default(),
            faketime,
        }
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether replicas have clocks that can be moved.
    pub(crate) const fn has_clocks(&self) -> bool {
        self.faketime.is_some()
    }

    /// An onlooker's broker, past all proxies.
    pub(crate) fn broker(&self, layout: Layout) -> Arc<dyn Broker> {
        let (connection, options) = (self.connection.clone(), BrokerOptions::default());
        match layout {
            Layout::Bullmq => Arc::new(BullmqBroker::new(connection, QUEUE, "onlooker", options)),
            Layout::Apalis => Arc::new(ApalisBroker::new(connection, QUEUE, "onlooker", options)),
        }
    }

    /// Has Redis do something, over a connection of its own, as soon as it can.
    pub(crate) async fn order<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut order = redis::cmd(command[0]);
        order.arg(&command[1..]);
        eventually(&format!("Redis does {}", command[0]), async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            order.query_async(&mut connection).await.ok()
        })
        .await
    }

    /// Sends a command once, whatever Redis says to it.
    pub(crate) async fn try_order(&self, command: &[&str]) {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let mut order = redis::cmd(command[0]);
            order.arg(&command[1..]);
            let _answer: Result<(), _> = order.query_async(&mut connection).await;
        }
    }

    /// Writes to Redis again and again until `stop`, past all proxies: a replica could have written no sooner.
    pub(crate) async fn probe(&self, stop: &CancellationToken) {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut connection = None;
        while !stop.is_cancelled() {
            let from = self.simulator.journal().elapsed_ms();
            if connection.is_none() {
                connection = client.get_multiplexed_async_connection().await.ok();
            }
            let mut write = redis::cmd("SET");
            write.arg(PROBE).arg(1);
            if let Some(open) = &mut connection {
                match write.query_async::<()>(open).await {
                    Ok(()) => {
                        let to = self.simulator.journal().elapsed_ms();
                        self.record().writes.push((from, to));
                    }
                    Err(_) => connection = None, // Redis refuses writes, or is away.
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.order::<u64>(&["DEL", PROBE]).await;
    }

    /// How many jobs have not ended.
    pub(crate) async fn unfinished(&self) -> u64 {
        let mut sum = 0;
        for layout in Layout::ALL {
            let broker = self.broker(layout);
            let counts = eventually("the jobs are counted", async || broker.counts().await.ok()).await;
            sum += counts.waiting + counts.active + counts.delayed;
        }
        sum
    }

    /// Waits until every job has ended; `false` when nothing ends any more.
    pub(crate) async fn drained(&self) -> bool {
        let brokers = Layout::ALL.map(|layout| self.broker(layout));
        let (mut ended, mut since) = (0, Instant::now());
        while since.elapsed() < STANDSTILL {
            sleep(Duration::from_millis(200)).await;
            let (Ok(a), Ok(b)) = (brokers[0].counts().await, brokers[1].counts().await) else {
                continue;
            };
            let all = [a, b];
            if all.iter().all(|c| c.waiting + c.active + c.delayed == 0) {
                return true;
            }
            let now = all.iter().map(|c| c.completed + c.failed).sum::<u64>();
            if now != ended {
                (ended, since) = (now, Instant::now());
            }
        }
        false
    }
}

/// The binary of another version, which every second replica runs.
pub(crate) fn neighbour() -> Option<PathBuf> {
    std::env::var_os("CHAOS_NEIGHBOUR").map(PathBuf::from)
}

/// The library that fakes clocks, where Debian's package is installed.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path: &PathBuf| Path::exists(path))
}
