//! Large payloads and results, and long queues.

use std::time::Duration;

use backend_worker::queue::{JobState, Layout};
use ulid::Ulid;

use super::{PRODUCERS, Queue, add, list, payload};
use crate::{Result, report::Report, stage::Stage};

const MEGABYTE: usize = 1024 * 1024;

/// Megabytes in payloads and results.
pub(crate) async fn megabytes(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let broker = queue.broker.clone();
    // The others are in front: a pause of theirs would be as good.
    if queue.waiting().await? > 0 {
        return Err("the queue is not empty".into());
    }
    for (name, bytes) in [("64 KB", 64 * 1024), ("1 MB", MEGABYTE), ("5 MB", 5 * MEGABYTE)] {
        let (large, at) = (payload(bytes)?, format!("{name} payload"));
        let result = large.get().to_owned();
        let mut leases = Vec::new();
        let ((), cost) = stage
            .watch(&at, async {
                for n in 0..8 {
                    add(&*broker, &format!("{bytes}x{n}"), &large, Duration::ZERO).await?;
                }
                Ok(())
            })
            .await?;
        report.large(queue.layout, name, "enqueue", &cost);
        let (sizes, cost) = stage
            .watch(&at, async {
                let mut sizes = Vec::new();
                while leases.len() < 8 {
                    let some = queue.claim(32).await?;
                    if some.is_empty() {
                        return Err("nothing to claim".into());
                    }
                    sizes.push(some.len().to_string());
                    leases.extend(some.into_iter().map(|delivery| delivery.lease));
                }
                Ok(sizes)
            })
            .await?;
        report.large(
            queue.layout,
            name,
            &format!("claim of 32 slots, 8 queued: {} jobs", sizes.join(" + ")),
            &cost,
        );
        let ((), cost) = stage
            .watch(&at, async {
                for lease in &leases {
                    broker.progress(lease, 50, None).await?;
                }
                Ok(())
            })
            .await?;
        report.large(queue.layout, name, "progress", &cost);
        let (_, cost) = stage
            .watch(&at, async { list(&*broker, JobState::Active, None).await })
            .await?;
        report.large(queue.layout, name, "job list --state active", &cost);
        let ((), cost) = stage
            .watch(&format!("{name} result"), async {
                for lease in &leases {
                    broker.complete(lease, &result).await?;
                }
                Ok(())
            })
            .await?;
        report.large(queue.layout, name, "complete, with a result as large", &cost);
        let (_, cost) = stage
            .watch(&format!("{name} result"), async {
                Ok(broker.find(&leases[0].id).await?)
            })
            .await?;
        report.large(queue.layout, name, "job show", &cost);
    }
    Ok(())
}

/// Makes the queue longer. The first jobs are enqueued one by one, and tell what that takes; the rest is written as
/// `enqueue` writes it, a thousand at a time.
pub(crate) async fn filled(stage: &mut Stage, queue: &Queue, report: &mut Report, count: usize) -> Result {
    let alone = count.min(100_000);
    let before = stage.memory().await?;
    let ((), cost) = stage
        .watch(&format!("{alone} enqueued"), async {
            queue.fill(alone, None).await
        })
        .await?;
    let each = (stage.memory().await? - before) / alone as u64;
    report.memory(queue.layout, &format!("a queued job ({alone})"), each);
    report.flow(
        queue.layout,
        &format!("{alone} enqueued by {PRODUCERS} producers side by side"),
        &cost,
    );
    let script = redis::Script::new(match queue.layout {
        Layout::Bullmq => {
            "local p = 'bull:depth:' for i = 1, 1000 do local id = ARGV[3 + i] \
             redis.call('HSET', p .. id, 'name', ARGV[1], 'opts', ARGV[3], 'timestamp', redis.call('TIME')[1] .. '000', \
             'delay', 0, 'priority', 0, 'data', ARGV[2]) redis.call('LPUSH', p .. 'wait', id) end"
        }
        Layout::Apalis => {
            "for i = 1, 1000 do local id = ARGV[3 + i] redis.call('HSET', 'depth:data', id, ARGV[2]) \
             redis.call('HSET', 'depth:meta:' .. id, 'attempts', 0, 'max_attempts', 3, 'status', 'Pending', \
             'idempotency_key', '') redis.call('RPUSH', 'depth:active', id) end"
        }
    });
    let small = payload(300)?;
    let data = match queue.layout {
        Layout::Bullmq => small.get().to_owned(),
        Layout::Apalis => format!(r#"{{"type":"generate-flashcards","data":{}}}"#, small.get()),
    };
    let opts = r#"{"attempts":3,"backoff":{"type":"exponential","delay":2000,"jitter":0.25},"delay":0}"#;
    for _ in 0..(count - alone) / 1000 {
        let mut call = script.prepare_invoke();
        call.arg("generate-flashcards").arg(&data).arg(opts);
        for _ in 0..1000 {
            call.arg(Ulid::generate().to_string());
        }
        stage.run(&call).await?;
    }
    Ok(())
}
