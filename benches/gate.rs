//! The cost of the gate: `cargo bench --bench gate`. A private redis-server on the same machine, over loopback.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backend_worker::{
    connection::Connection,
    demo::PrivateRedis,
    gate::{Admission, CallOutcome, Gates, GatesSettings, LimitSettings, ProviderGate, Settlement},
};
use jobs::Provider;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn gates(redis: &PrivateRedis) -> Result<Gates> {
    let mut settings = GatesSettings::default();
    // Every limit is checked, none is reached.
    settings.openai.limits = LimitSettings {
        requests_per_minute: 100_000_000.try_into().ok(),
        tokens_per_minute: 1_000_000_000.try_into().ok(),
        max_concurrent: 100_000.try_into().ok(),
    };
    Ok(Gates::new(
        Connection::open(&redis.url().into())?,
        "bench",
        &settings,
    )?)
}

/// One call through the gate; how long the gate took of it.
async fn pass(gate: &Arc<ProviderGate>) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    let Admission::Admitted(mut permit) = gate.admit(100).await else {
        return Err("rejected".into());
    };
    let admitted = started.elapsed();
    permit.sent();
    let settling = Instant::now();
    permit
        .settle(Settlement {
            tokens: Some(90),
            ..Settlement::new(CallOutcome::Success)
        })
        .await;
    Ok((admitted, settling.elapsed()))
}

/// Rounds, and what is sampled in each.
const ROUNDS: usize = 10;
const SAMPLES: usize = 5_000;

struct Times {
    p50: Duration,
    p99: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: usize| times[times.len() * share / 100];
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {} µs, p99 {} µs",
            self.p50.as_micros(),
            self.p99.as_micros()
        )
    }
}

struct Round {
    ping: Times,
    admit: Times,
    settle: Times,
    both: Times,
    /// Microseconds a call that Redis itself spends on the scripts.
    in_redis: f64,
}

impl Round {
    async fn run(
        gate: &Arc<ProviderGate>,
        connection: &Connection,
        raw: &mut redis::aio::MultiplexedConnection,
    ) -> Result<Self> {
        let mut pings = Vec::new();
        for _ in 0..SAMPLES {
            let started = Instant::now();
            connection.ping().await?;
            pings.push(started.elapsed());
        }
        let (calls, micros) = scripts(raw).await?;
        let (mut admits, mut settles, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            let (admit, settle) = pass(gate).await?;
            admits.push(admit);
            settles.push(settle);
            both.push(admit + settle);
        }
        let (more_calls, more_micros) = scripts(raw).await?;
        Ok(Self {
            ping: Times::of(pings),
            admit: Times::of(admits),
            settle: Times::of(settles),
            both: Times::of(both),
            in_redis: (more_micros - micros) / (more_calls - calls),
        })
    }

    fn report(&self) {
        println!("PING, the round trip alone: {}", self.ping);
        println!("admit: {}", self.admit);
        println!("settle: {}", self.settle);
        println!("of which Redis runs the script: {:.0} µs a call", self.in_redis);
        println!("both, what the guard adds to a call: {}", self.both);
        let share = self.both.p50.as_secs_f64() / 0.05 * 100.0;
        println!("share of a job of 50 ms: {share:.2} %");
    }
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result {
    // A task of its own, as a job is: what blocks on a runtime is not on its threads, and pays for each wake-up.
    tokio::spawn(async { measure().await.map_err(|error| error.to_string()) }).await??;
    Ok(())
}

/// Commands and microseconds that Redis itself has spent on scripts.
async fn scripts(raw: &mut redis::aio::MultiplexedConnection) -> Result<(f64, f64)> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(raw).await?;
    let number = |name: &str| {
        let stats = info.lines().filter_map(|line| {
            line.strip_prefix("cmdstat_evalsha:")
                .or_else(|| line.strip_prefix("cmdstat_fcall:"))
        });
        let text = stats.filter_map(|stats| stats.split(',').find_map(|field| field.strip_prefix(name)));
        text.filter_map(|text| text.parse::<f64>().ok()).sum()
    };
    Ok((number("calls="), number("usec=")))
}

async fn measure() -> Result {
    let redis = PrivateRedis::start().await?;
    let mut raw = redis::Client::open(redis.url())?
        .get_multiplexed_async_connection()
        .await?;
    let gates = Arc::new(gates(&redis)?);
    let gate = gates.gate(Provider::OpenAi).clone();
    for _ in 0..500 {
        pass(&gate).await?; // The scripts are loaded, the caches warm.
    }

    // The machine is not ours alone: of several rounds, that in which a bare round trip took least is reported.
    let connection = Connection::open(&redis.url().into())?;
    let mut quietest: Option<Round> = None;
    for _ in 0..ROUNDS {
        let round = Round::run(&gate, &connection, &mut raw).await?;
        if quietest.as_ref().is_none_or(|q| round.ping.p50 < q.ping.p50) {
            quietest = Some(round);
        }
    }
    quietest.ok_or("no round")?.report();

    let (clients, calls) = (50, 1000);
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let gate = gate.clone();
            tokio::spawn(async move {
                for _ in 0..calls {
                    if let Err(error) = pass(&gate).await {
                        println!("{error}");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let per_second = f64::from(clients * calls) / started.elapsed().as_secs_f64();
    println!(
        "{clients} clients: {per_second:.0} calls/s, {:.0} scripts/s",
        per_second * 2.0
    );

    let mut idle = 0;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*openai*").query_async(&mut raw).await?;
    for key in &keys {
        idle += redis::cmd("MEMORY")
            .arg("USAGE")
            .arg(key)
            .query_async::<Option<u64>>(&mut raw)
            .await?
            .unwrap_or(0);
    }
    println!("memory of the gate: {idle} bytes in {} keys", keys.len());
    Ok(())
}
