//! Simulates the providers for the demo, `backend-worker simulate`, the tests and the benchmarks.
//!
//! It speaks OpenAI chat completions, Azure Speech pronunciation assessment and Azure Vision (Image Analysis 4.0, Read 3.2
//! and Document Intelligence). It checks requests as they do, answers in their shapes, fails on demand and keeps a journal
//! of the requests.
//!
//! It derives its answers from their requests, so that each job's answer is recognisable and the same in each run. It
//! neither holds nor protects secrets: bind it to the loopback interface.
//!
//! # Layout
//! - `server`: connections and the route table. `exchange`: the course of one request, the same for all providers.
//! - `openai` with `schema`, `speech`, `vision` with `documents`, and `azure` for what the Azure services share: checks
//!   and answers.
//! - [`Bill`]: what an answer costs.
//! - [`Fault`]: what can go wrong; [`FaultPlan`]: what will. [`RequestJournal`]: what was asked. `control`: both over
//!   HTTP, under `/_sim/`.
//! - `digest`: the hashes by which an answer is recognised.
//! - [`PrivateRedis`]: a real Redis for the demo, the tests and the benchmarks.

mod azure;
mod bill;
mod control;
mod digest;
mod documents;
mod exchange;
mod fault;
mod faults;
mod journal;
mod openai;
mod private_redis;
mod schema;
mod server;
mod speech;
mod vision;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tracing::warn;

pub use bill::Bill;
pub use fault::{Fault, FaultError, RecognitionFault};
pub use faults::{FaultPlan, MAX_PENDING};
pub use jobs::Provider;
pub use journal::{JournalEntry, KEPT, ProviderCounts, RequestJournal};
pub use openai::DeckFlaw;
pub use private_redis::PrivateRedis;

/// How the simulator behaves.
#[derive(Debug, Clone, Default)]
pub struct SimulatorOptions {
    /// The keys that it accepts.
    pub keys: SimulatorKeys,
    /// Time that each answer takes.
    pub latency: Duration,
    /// Time that the stream of an answer takes from its first part to its last.
    pub stream_time: Duration,
    /// Seed of the random faults and of the ids.
    pub seed: u64,
    /// Share of requests that fail at random, 0 to 1: see [`FaultPlan::set_random_share`].
    pub random_faults: f64,
}

/// The keys that the simulator accepts.
#[derive(Clone)]
pub struct SimulatorKeys {
    /// Bearer key of OpenAI, by default `sim-openai-key`.
    pub openai: String,
    /// Subscription key of Azure Speech, by default `sim-speech-key`.
    pub speech: String,
    /// Subscription key of Azure Vision, by default `sim-vision-key`.
    pub vision: String,
}

impl Default for SimulatorKeys {
    fn default() -> Self {
        Self {
            openai: "sim-openai-key".to_owned(),
            speech: "sim-speech-key".to_owned(),
            vision: "sim-vision-key".to_owned(),
        }
    }
}

impl fmt::Debug for SimulatorKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Someone may have put a real key here.
        f.write_str("Keys(..)")
    }
}

/// State of one simulator, which its connections share.
struct SimulatorState {
    addr: SocketAddr,
    keys: SimulatorKeys,
    seed: u64,
    latency_ms: AtomicU64,
    stream_ms: AtomicU64,
    /// Answers differ in tier, and in tokens from the cache and to it.
    varies: AtomicBool,
    journal: RequestJournal,
    faults: FaultPlan,
    operations: vision::ReadOperations,
}

impl SimulatorState {
    fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms.load(Ordering::Relaxed))
    }

    fn set_latency(&self, latency: Duration) {
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.latency_ms.store(ms, Ordering::Relaxed);
    }

    fn stream_time(&self) -> Duration {
        Duration::from_millis(self.stream_ms.load(Ordering::Relaxed))
    }

    fn set_stream_time(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.stream_ms.store(ms, Ordering::Relaxed);
    }
}

/// Where a simulator listens, what it was asked and what will go wrong. Cheap to clone.
#[derive(Clone)]
pub struct SimulatorHandle(Arc<SimulatorState>);

impl SimulatorHandle {
    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Base URL of OpenAI, `http://…/v1`.
    pub fn openai_base_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// Endpoint of Azure Speech, as a region's host: `/speech/recognition/…` follows. A resource's endpoint, with
    /// `/stt` appended, works as well.
    pub fn speech_endpoint(&self) -> String {
        self.url()
    }

    /// Endpoint of Azure Vision.
    pub fn vision_endpoint(&self) -> String {
        self.url()
    }

    /// What was asked.
    pub fn journal(&self) -> &RequestJournal {
        &self.0.journal
    }

    /// What will go wrong.
    pub fn faults(&self) -> &FaultPlan {
        &self.0.faults
    }

    /// Sets the time that each answer takes from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.0.set_latency(latency);
    }

    /// Sets the time that the stream of each answer takes from now on.
    pub fn set_stream_time(&self, time: Duration) {
        self.0.set_stream_time(time);
    }

    /// Makes answers differ from now on in what is billed: tokens from the cache and to it, other tiers.
    pub fn vary_bills(&self) {
        self.0.varies.store(true, Ordering::Relaxed);
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.addr)
    }
}

impl fmt::Debug for SimulatorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("addr", &self.0.addr)
            .finish_non_exhaustive()
    }
}

/// A simulator that listens, and does not answer until [`serve`](Simulator::serve) or
/// [`spawn`](Simulator::spawn).
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    handle: SimulatorHandle,
}

impl Deref for Simulator {
    type Target = SimulatorHandle;

    fn deref(&self) -> &SimulatorHandle {
        &self.handle
    }
}

impl Simulator {
    /// Listens on the address; port 0 takes any free one.
    ///
    /// # Errors
    /// When the address cannot be bound; [`io::ErrorKind::InvalidInput`] when the share of random faults is not
    /// between 0 and 1.
    pub async fn bind(addr: SocketAddr, options: SimulatorOptions) -> io::Result<Self> {
        let faults = FaultPlan::new(options.seed, options.random_faults)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind(addr).await?;
        let shared = SimulatorState {
            addr: listener.local_addr()?,
            keys: options.keys,
            seed: options.seed,
            latency_ms: AtomicU64::default(),
            stream_ms: AtomicU64::default(),
            varies: AtomicBool::default(),
            journal: RequestJournal::new(),
            faults,
            operations: vision::ReadOperations::default(),
        };
        shared.set_latency(options.latency);
        shared.set_stream_time(options.stream_time);
        Ok(Self {
            listener,
            handle: SimulatorHandle(Arc::new(shared)),
        })
    }

    /// Answers until `shutdown` resolves. Requests still in progress then are cut off, as when a provider's
    /// machine goes away.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        server::run(self.listener, self.handle.0, shutdown).await;
    }

    /// Answers in a task of its own.
    pub fn spawn(self) -> RunningSimulator {
        let handle = self.handle.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(self.serve(async {
            // A dropped sender stops the simulator too.
            let _ = stopped.await;
        }));
        RunningSimulator { handle, stop, task }
    }
}

/// A simulator at work. Stops when dropped.
#[derive(Debug)]
pub struct RunningSimulator {
    handle: SimulatorHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl RunningSimulator {
    /// Stops, and returns once the port is closed.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!(%error, "simulator: ended badly");
        }
    }
}

impl Deref for RunningSimulator {
    type Target = SimulatorHandle;

    fn deref(&self) -> &SimulatorHandle {
        &self.handle
    }
}
