//! What the gate costs: `cargo bench --bench gate`. A private redis-server on the same machine, over loopback.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backend_worker::{
    connection::Connection,
    demo::PrivateRedis,
    gate::{Admission, Gate, Gates, GatesSettings, LimitSettings, Outcome, Settlement},
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
        pace: None,
    };
    Ok(Gates::new(
        Connection::open(&redis.url().into())?,
        "bench",
        &settings,
    )?)
}

/// One call through the gate; how long the gate took of it.
async fn pass(gate: &Arc<Gate>) -> Result<(Duration, Duration)> {
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
            ..Settlement::new(Outcome::Success)
        })
        .await;
    Ok((admitted, settling.elapsed()))
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{name}: p50 {:.0} µs, p99 {:.0} µs ({} samples)",
        at(0.5),
        at(0.99),
        times.len()
    );
}

#[tokio::main]
async fn main() -> Result {
    let redis = PrivateRedis::start().await?;
    let gates = Arc::new(gates(&redis)?);
    let gate = gates.gate(Provider::OpenAi).clone();
    for _ in 0..500 {
        pass(&gate).await?; // The scripts are loaded, the caches warm.
    }

    let (mut admits, mut settles) = (Vec::new(), Vec::new());
    for _ in 0..20_000 {
        let (admit, settle) = pass(&gate).await?;
        admits.push(admit);
        settles.push(settle);
    }
    let both = admits
        .iter()
        .zip(&settles)
        .map(|(a, s)| *a + *s)
        .collect::<Vec<_>>();
    let median = {
        let mut sorted = both.clone();
        sorted.sort();
        sorted[sorted.len() / 2]
    };
    report("admit", admits);
    report("settle", settles);
    report("both, what the guard adds to a call", both);
    println!(
        "share of a job of 50 ms: {:.2} %",
        median.as_secs_f64() / 0.05 * 100.0
    );

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

    let mut raw = redis::Client::open(redis.url())?
        .get_multiplexed_async_connection()
        .await?;
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
