//! A private Redis, and what it says of its own work: the time of scripts, its SLOWLOG, its memory.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use backend_worker::{
    connection::Connection,
    deduplication,
    demo::PrivateRedis,
    gate,
    queue::{self, Broker, BrokerOptions, Layout, apalis::ApalisBroker, bullmq::BullmqBroker},
    spend_ledger,
};
use redis::{FromRedisValue, Value, aio::MultiplexedConnection};

use crate::{Result, cores};

/// Scripts that take no longer are not in the SLOWLOG, µs.
pub(crate) const UNNOTICED: u64 = 100;

pub(crate) struct Stage {
    pub(crate) redis: PrivateRedis,
    raw: MultiplexedConnection,
    names: HashMap<String, String>,
    /// Of each script its longest run.
    pub(crate) longest: BTreeMap<String, Longest>,
}

/// The longest run of a script.
#[derive(Default, Clone)]
pub(crate) struct Longest {
    /// µs.
    pub(crate) micros: u64,
    /// In which case that was.
    pub(crate) case: String,
    /// How long Redis waited for a CPU in all of that case: other processes have the machine too, and their time
    /// counts as the script's.
    pub(crate) waited: Duration,
    /// Runs of this script that took longer than [`crate::report::LONGEST`], in all cases.
    pub(crate) over: u64,
}

/// An entry of the SLOWLOG: id, when, µs, arguments, whose.
type Slow = (Value, Value, u64, Vec<Vec<u8>>, Value, Value);

/// The cost of a case.
pub(crate) struct Cost {
    /// Scripts that ran.
    pub(crate) scripts: u64,
    /// Their time in Redis, µs.
    micros: u64,
    /// The longest of them, µs; 0 when it was not noticed.
    pub(crate) longest: u64,
    pub(crate) took: Duration,
}

impl Cost {
    /// µs of Redis a script.
    pub(crate) fn each(&self) -> f64 {
        self.micros as f64 / self.scripts.max(1) as f64
    }
}

impl Stage {
    /// `core` is the one that is left to Redis.
    pub(crate) async fn set(core: Option<usize>) -> Result<Self> {
        let threshold = UNNOTICED.to_string();
        let redis = PrivateRedis::start_with(&[
            "--slowlog-log-slower-than",
            &threshold,
            "--slowlog-max-len",
            "200000",
        ])
        .await?;
        if let (Some(core), Some(redis)) = (core, redis.pid()) {
            cores::give(core, redis)?;
        }
        let raw = redis::Client::open(redis.url())?
            .get_multiplexed_async_connection_with_config(
                &redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60))),
            )
            .await?;
        let names = [
            queue::script_names(),
            gate::script_names(),
            spend_ledger::script_names(),
            deduplication::script_names(),
        ]
        .into_iter()
        .flatten()
        .map(|(name, sha)| (sha, name));
        Ok(Self {
            redis,
            raw,
            names: names.collect(),
            longest: BTreeMap::new(),
        })
    }

    pub(crate) fn broker(
        &self,
        layout: Layout,
        worker: &str,
        lease_ttl: Duration,
    ) -> Result<Arc<dyn Broker>> {
        let connection = Connection::open(&self.redis.url().into())?;
        let options = BrokerOptions {
            lease_ttl,
            ..BrokerOptions::default()
        };
        Ok(match layout {
            Layout::Bullmq => Arc::new(BullmqBroker::new(connection, "depth", worker, options)),
            Layout::Apalis => Arc::new(ApalisBroker::new(connection, "depth", worker, options)),
        })
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> Result<T> {
        let mut cmd = redis::cmd(command[0]);
        for argument in &command[1..] {
            cmd.arg(argument);
        }
        Ok(cmd.query_async(&mut self.raw.clone()).await?)
    }

    /// Runs a script of the bench's own.
    pub(crate) async fn run(&self, call: &redis::ScriptInvocation<'_>) -> Result {
        Ok(call.invoke_async(&mut self.raw.clone()).await?)
    }

    /// A number of INFO.
    async fn info<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        &self,
        section: &str,
        field: &str,
    ) -> Result<T> {
        let info: String = self.ask(&["INFO", section]).await?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.ok_or("no such field")?.trim().parse()?)
    }

    pub(crate) async fn memory(&self) -> Result<u64> {
        self.info("memory", "used_memory").await
    }

    /// CPU time of Redis, seconds.
    pub(crate) async fn redis_cpu(&self) -> Result<f64> {
        let (user, sys): (f64, f64) = (
            self.info("cpu", "used_cpu_user").await?,
            self.info("cpu", "used_cpu_sys").await?,
        );
        Ok(user + sys)
    }

    /// How long Redis has waited for a CPU so far.
    fn waited(&self) -> Result<Duration> {
        let pid = self.redis.pid().ok_or("Redis is gone")?;
        let times = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat"))?;
        let waited = times.split_whitespace().nth(1).ok_or("no time in schedstat")?;
        Ok(Duration::from_nanos(waited.parse()?))
    }

    /// Scripts that ran so far, and their time, µs.
    async fn scripts(&self) -> Result<(u64, u64)> {
        let info: String = self.ask(&["INFO", "commandstats"]).await?;
        let number = |name: &str| {
            let stats = info.lines().filter_map(|line| {
                line.strip_prefix("cmdstat_evalsha:")
                    .or_else(|| line.strip_prefix("cmdstat_fcall:"))
            });
            let text = stats.filter_map(|stats| stats.split(',').find_map(|field| field.strip_prefix(name)));
            text.filter_map(|text| text.parse::<u64>().ok()).sum()
        };
        Ok((number("calls="), number("usec=")))
    }

    /// Does the work of a case, and says what it has cost.
    pub(crate) async fn watch<T>(
        &mut self,
        case: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Cost)> {
        self.ask::<()>(&["SLOWLOG", "RESET"]).await?;
        let (before, waited) = (self.scripts().await?, self.waited()?);
        let started = Instant::now();
        let done = work.await?;
        let took = started.elapsed();
        let after = self.scripts().await?;
        let entries: Vec<Slow> = self.ask(&["SLOWLOG", "GET", "-1"]).await?;
        let (mut longest, waited) = (0, self.waited()?.saturating_sub(waited));
        for (_, _, micros, arguments, ..) in entries {
            let Some(name) = self.name_of(&arguments) else {
                continue;
            };
            longest = longest.max(micros);
            let known = self.longest.entry(name).or_default();
            known.over += u64::from(micros > crate::report::LONGEST);
            if known.micros < micros {
                *known = Longest {
                    micros,
                    case: case.to_owned(),
                    waited,
                    ..known.clone()
                };
            }
        }
        let cost = Cost {
            scripts: after.0 - before.0,
            micros: after.1 - before.1,
            longest,
            took,
        };
        Ok((done, cost))
    }

    /// Which script a SLOWLOG entry is about, if it is about one.
    fn name_of(&self, arguments: &[Vec<u8>]) -> Option<String> {
        let [command, sha, ..] = arguments else {
            return None;
        };
        if !command.eq_ignore_ascii_case(b"evalsha") && !command.eq_ignore_ascii_case(b"fcall") {
            return None;
        }
        let sha = String::from_utf8_lossy(sha);
        let name = self.names.get(&*sha).cloned();
        Some(name.unwrap_or_else(|| "others".to_owned()))
    }
}

/// The durations of round trips, of which the report shows the median and a high percentile.
pub(crate) struct Trips(Vec<Duration>);

impl Trips {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let answer = call.await;
        self.0.push(started.elapsed());
        answer
    }

    /// p50 and p99, µs.
    pub(crate) fn percentiles(mut self) -> (u128, u128) {
        self.0.sort();
        let at = |share: usize| {
            self.0
                .get(self.0.len() * share / 100)
                .map_or(0, Duration::as_micros)
        };
        (at(50), at(99))
    }
}
