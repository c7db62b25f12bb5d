//! Many jobs in flight, and replicas that leave or die.

use std::time::Duration;

use backend_worker::queue::{ClaimNumber, Layout, Lease};

use super::{LEASE, Queue, REPLICAS, SLOTS};
use crate::{
    Result,
    report::Report,
    stage::{Cost, Stage, Trips},
};

/// Many jobs in flight, over several replicas: what keeps them, ends them, and takes them back.
pub(crate) async fn in_flight(stage: &mut Stage, queue: &Queue, report: &mut Report) -> Result {
    let all = REPLICAS * SLOTS;
    let at = format!("{all} in flight");
    let layout = queue.layout;
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let broker = stage.broker(layout, name, LEASE)?;
        broker.renew(&[]).await?;
        replicas.push((broker, ClaimNumber::FIRST, Vec::<Lease>::new()));
    }
    let before = stage.memory().await?;
    let ((), cost) = stage
        .watch(&at, async {
            // In turns, so that each replica's jobs lie among those of the others.
            while replicas.iter().any(|(_, _, held)| held.len() < SLOTS) {
                for (broker, number, held) in &mut replicas {
                    let some = broker.claim(*number, (SLOTS - held.len()).min(20)).await?;
                    *number = number.next();
                    held.extend(some.into_iter().map(|delivery| delivery.lease));
                }
            }
            Ok(())
        })
        .await?;
    report.flow(
        layout,
        &format!("{all} claimed by {REPLICAS} replicas in turns, 20 at a time"),
        &cost,
    );
    let each = stage.memory().await?.saturating_sub(before) / all as u64;
    report.memory(
        layout,
        &format!("a job in flight, beyond what it takes while queued ({all})"),
        each,
    );

    let (_, cost) = stage
        .watch(&at, async { Ok(replicas[0].0.renew(&replicas[0].2).await?) })
        .await?;
    report.flow(layout, &format!("one replica renews {SLOTS} of {all}"), &cost);
    // It knows of half of them only; what was claimed a moment ago is left alone, and so looked at and not moved.
    let half = &replicas[0].2[..SLOTS / 2];
    let (_, cost) = stage
        .watch(&at, async { Ok(replicas[0].0.renew(half).await?) })
        .await?;
    report.flow(
        layout,
        &format!("the same, when it knows of {} only", SLOTS / 2),
        &cost,
    );
    let (_, cost) = sweep(stage, layout).await?;
    report.flow(
        layout,
        &format!("a sweep over {all} in flight finds nothing"),
        &cost,
    );

    let (_, _, held) = &mut replicas[3];
    let picks = [("the oldest", 0), ("the newest", held.len() - 200)];
    let mut taken: Vec<(&str, Vec<Lease>)> = Vec::new();
    for (name, from) in picks.into_iter().rev() {
        taken.push((name, held.drain(from..from + 200).collect()));
    }
    let middle = held.len() / 2;
    taken.push(("from the middle", held.drain(middle..middle + 200).collect()));
    for (name, leases) in taken {
        let mut trips = Trips::new();
        let broker = replicas[3].0.clone();
        let ((), cost) = stage
            .watch(&at, async {
                for lease in &leases {
                    trips.time(broker.complete(lease, "{\"cards\":[]}")).await?;
                }
                Ok(())
            })
            .await?;
        let (p50, p99) = trips.percentiles();
        report.flow(
            layout,
            &format!("200 completed, {name} (p50 {p50} µs, p99 {p99} µs)"),
            &cost,
        );
    }

    let (broker, _, held) = &replicas[2];
    let (_, cost) = stage
        .watch(&at, async { Ok(broker.release(&held[..500]).await?) })
        .await?;
    report.flow(layout, "500 given back", &cost);
    let ((), cost) = stage
        .watch(&at, async { Ok(broker.remove_replica().await?) })
        .await?;
    report.flow(layout, &format!("a replica leaves {} behind", SLOTS - 500), &cost);
    dead_replica(stage, queue, report, &replicas[1].2).await?;
    for (broker, ..) in [&replicas[0], &replicas[3]] {
        broker.remove_replica().await?;
    }
    Ok(())
}

/// A replica's lease, or its locks, run out.
async fn dead_replica(stage: &mut Stage, queue: &Queue, report: &mut Report, held: &[Lease]) -> Result {
    match queue.layout {
        Layout::Apalis => stage.ask::<()>(&["ZADD", "depth:leases", "1", "b"]).await?,
        Layout::Bullmq => {
            for some in held.chunks(500) {
                let keys: Vec<String> = some.iter().map(|l| format!("bull:depth:{}:lock", l.id)).collect();
                let mut command = vec!["DEL"];
                command.extend(keys.iter().map(String::as_str));
                stage.ask::<()>(&command).await?;
            }
        }
    }
    let (found, cost) = sweep(stage, queue.layout).await?;
    report.flow(
        queue.layout,
        &format!("{found} jobs of a dead replica put back by a sweep"),
        &cost,
    );
    Ok(())
}

/// A whole sweep, by a replica whose lease is unbroken for long enough to judge others. Says how many jobs it has put
/// back.
async fn sweep(stage: &mut Stage, layout: Layout) -> Result<(u64, Cost)> {
    let ttl = Duration::from_millis(600);
    let sweeper = stage.broker(layout, "sweeper", ttl)?;
    for _ in 0..8 {
        sweeper.renew(&[]).await?;
        tokio::time::sleep(ttl / 6).await;
    }
    let swept = stage
        .watch("a sweep", async {
            let (mut found, mut renewed) = (0, tokio::time::Instant::now());
            loop {
                if renewed.elapsed() > ttl / 3 {
                    sweeper.renew(&[]).await?;
                    renewed = tokio::time::Instant::now();
                }
                let step = sweeper.recover().await?;
                found += step.requeued + step.poisoned;
                if !step.more {
                    return Ok(found);
                }
            }
        })
        .await?;
    sweeper.remove_replica().await?;
    Ok(swept)
}
