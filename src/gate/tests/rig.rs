//! The set-up of the scripts' tests: a private Redis whose clock is a key, and gates on it.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    connection::Connection,
    demo::PrivateRedis,
    gate::{
        BreakerSettings, GateSettings, LimitSettings, Settlement,
        batched_gate::BatchedGate,
        decision::{Effect, Reason},
        protocol::{AdmissionReply, AdmissionVerdict},
        redis_gate::RedisGate,
        scripts::GateScripts,
        settlement::CallOutcome,
    },
    keys::GateKeys,
};

pub(super) const T0: u64 = 1_800_000_000_000;

/// A Redis with a clock that stands still until it is moved.
#[derive(Clone)]
pub(super) struct Rig {
    _redis: Arc<PrivateRedis>,
    pub(super) connection: Connection,
    scripts: Arc<GateScripts>,
    clock: Arc<AtomicU64>,
    names: Arc<AtomicU64>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let redis = PrivateRedis::start().await.unwrap();
        let connection = Connection::open(&redis.url().into()).unwrap();
        let rig = Self {
            _redis: Arc::new(redis),
            connection,
            scripts: Arc::new(GateScripts::edited(fake_clock)),
            clock: Arc::new(AtomicU64::new(T0)),
            names: Arc::default(),
        };
        rig.set_clock(T0).await;
        rig
    }

    /// The same Redis with other scripts.
    pub(super) fn with_scripts(&self, edit: impl Fn(&str, &str) -> String) -> Self {
        let scripts = GateScripts::edited(|name, source| fake_clock(name, &edit(name, source)));
        Self {
            scripts: Arc::new(scripts),
            ..self.clone()
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub(super) async fn set_clock(&self, ms: u64) {
        self.clock.store(ms, Ordering::Relaxed);
        let mut call = redis::pipe();
        call.hset_multiple("test:clock", &[("s", ms / 1000), ("us", ms % 1000 * 1000)])
            .ignore();
        self.connection.query::<()>(&call).await.unwrap();
    }

    pub(super) async fn pass(&self, ms: u64) {
        self.set_clock(self.now() + ms).await;
    }

    pub(super) async fn step_back(&self, ms: u64) {
        self.set_clock(self.now() - ms).await;
    }

    /// A gate of its own.
    pub(super) fn gate(&self, breaker: BreakerSettings, limits: LimitSettings) -> BatchedGate {
        self.gates(breaker, [limits])[0].clone()
    }

    /// Gates that share a breaker.
    pub(super) fn gates<const N: usize>(
        &self,
        breaker: BreakerSettings,
        limits: [LimitSettings; N],
    ) -> Vec<BatchedGate> {
        let name = format!("b{}", self.names.fetch_add(1, Ordering::Relaxed));
        let gate = |(i, limits): (usize, LimitSettings)| {
            let gate = RedisGate {
                connection: self.connection.clone(),
                scripts: self.scripts.clone(),
                keys: GateKeys::new(&name, &format!("p{i}")),
                settings: GateSettings {
                    breaker: breaker.clone(),
                    limits,
                },
                lease_ttl: Duration::from_secs(15),
            };
            BatchedGate::new(gate, Duration::from_secs(20))
        };
        limits.into_iter().enumerate().map(gate).collect()
    }

    /// `state`, `failures`, `successes`, `opened_at`, `attempts`: what the web API and `redis-cli` see.
    pub(super) async fn contract(&self, gate: &BatchedGate) -> [Option<String>; 5] {
        let mut call = redis::pipe();
        for key in &gate.redis.keys.all()[..5] {
            call.get(*key);
        }
        let values: Vec<Option<String>> = self.connection.query(&call).await.unwrap();
        values.try_into().unwrap()
    }

    pub(super) async fn query<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut call = redis::pipe();
        call.cmd(words[0]);
        for word in &words[1..] {
            call.arg(*word);
        }
        let (answer,) = self.connection.query(&call).await.unwrap();
        answer
    }

    /// As the Node breaker's `reset()`.
    pub(super) async fn node_reset(&self, gate: &BatchedGate) {
        let keys = gate.redis.keys.all();
        let mut call = redis::pipe();
        call.set(keys[0], "CLOSED").ignore();
        for key in &keys[1..5] {
            call.del(*key).ignore();
        }
        self.connection.query::<()>(&call).await.unwrap();
    }
}

fn fake_clock(_: &str, source: &str) -> String {
    source.replace("call('TIME')", "call('HMGET', 'test:clock', 's', 'us')")
}

/// A breaker with the usual numbers, some of them others. Not checked: tests want nonsense, too.
pub(super) fn breaker() -> BreakerSettings {
    BreakerSettings::openai()
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn limit(n: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(n)
}

pub(super) fn requests(n: u32) -> LimitSettings {
    LimitSettings {
        requests_per_minute: limit(n),
        ..LimitSettings::default()
    }
}

pub(super) fn tokens(n: u32) -> LimitSettings {
    LimitSettings {
        tokens_per_minute: limit(n),
        ..LimitSettings::default()
    }
}

pub(super) fn concurrent(n: u32) -> LimitSettings {
    LimitSettings {
        max_concurrent: limit(n),
        ..LimitSettings::default()
    }
}

pub(super) const fn unlimited() -> LimitSettings {
    LimitSettings {
        requests_per_minute: None,
        tokens_per_minute: None,
        max_concurrent: None,
    }
}

impl AdmissionReply {
    pub(super) fn passes(&self) -> bool {
        matches!(self.verdict, AdmissionVerdict::Granted { .. })
    }

    pub(super) fn is_probe(&self) -> bool {
        matches!(self.verdict, AdmissionVerdict::Granted { probe: true, .. })
    }

    /// Why not, and for how many ms (`None`: never).
    pub(super) fn refusal(&self) -> Option<(Reason, Option<u64>)> {
        match self.verdict {
            AdmissionVerdict::Granted { .. } => None,
            AdmissionVerdict::Refused { reason, wait, .. } => {
                Some((reason, wait.map(|w| u64::try_from(w.as_millis()).unwrap())))
            }
        }
    }
}

impl BatchedGate {
    pub(super) async fn passes(&self, id: &str) -> bool {
        self.admit(id, 0).await.unwrap().passes()
    }

    pub(super) async fn refusal(&self, id: &str) -> Option<(Reason, Option<u64>)> {
        self.admit(id, 0).await.unwrap().refusal()
    }

    pub(super) async fn ends(&self, id: &str, outcome: CallOutcome) -> Effect {
        self.settle(id, Settlement::new(outcome)).await.unwrap().effect
    }

    /// The same gate, configured with other limits.
    pub(super) fn limited_to(&self, limits: LimitSettings) -> Self {
        let mut gate = (*self.redis).clone();
        gate.settings.limits = limits;
        Self::new(gate, Duration::from_secs(20))
    }

    /// Renews, and returns the lost ids.
    pub(super) async fn lost(&self, ids: &[&str]) -> Vec<String> {
        let ids: Vec<Arc<str>> = ids.iter().map(|id| (*id).into()).collect();
        self.redis.renew(&ids).await.unwrap()
    }
}

/// As `assert_eq`, but an error: a scenario that fails under a mutated script is what is wanted there.
macro_rules! same {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => anyhow::ensure!(
                *left == *right,
                "line {}: {} is {left:?}, not {right:?}",
                line!(),
                stringify!($left)
            ),
        }
    };
}
pub(super) use same;
