//! Orders of an operator, dead letters, and jobs that are no longer kept.

use backend_worker::queue::{JobState, Layout, RetryOrder};

use super::{Queue, list};
use crate::{
    Result,
    report::Report,
    stage::{Cost, Stage},
};

/// An operator's orders to a queue this long.
pub(crate) async fn operator(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let depth = queue.waiting().await?;
    let (broker, layout) = (queue.broker.clone(), queue.layout);
    let (_, cost) = stage
        .watch(&format!("pause, {depth} queued"), async {
            broker.set_paused(true).await?;
            Ok(broker.set_paused(false).await?)
        })
        .await?;
    report.flow(layout, &format!("paused and resumed, {depth} queued"), &cost);
    for (name, share) in [("the oldest", 0.0), ("from the middle", 0.5), ("the newest", 1.0)] {
        let key = match layout {
            Layout::Apalis => "depth:active",
            Layout::Bullmq => "bull:depth:wait",
        };
        let share = if layout == Layout::Bullmq {
            1.0 - share
        } else {
            share
        };
        let index = ((queue.waiting().await? - 1) as f64 * share) as usize;
        let id: String = stage.ask(&["LINDEX", key, &index.to_string()]).await?;
        let (_, cost) = stage
            .watch(&format!("remove {name}, {depth} queued"), async {
                Ok(broker.remove(&id).await?)
            })
            .await?;
        report.flow(
            layout,
            &format!("a waiting job removed, {name}, {depth} queued"),
            &cost,
        );
    }
    Ok(())
}

/// Dead letters in numbers: listed, and retried.
pub(crate) async fn letters(
    stage: &mut Stage,
    queue: &mut Queue,
    report: &mut Report,
    count: usize,
) -> Result {
    let (broker, layout) = (queue.broker.clone(), queue.layout);
    let at = format!("{count} dead letters");
    let ((), cost) = stage
        .watch(&at, async {
            let mut left = count;
            while left > 0 {
                let claimed = queue.claim(left.min(200)).await?;
                left -= claimed.len();
                for one in &claimed {
                    broker.fail(&one.lease, "refused", None).await?;
                }
            }
            Ok(())
        })
        .await?;
    report.flow(layout, &format!("{count} jobs claimed and failed"), &cost);
    let (page, cost) = stage
        .watch(&at, async { list(&*broker, JobState::Failed, None).await })
        .await?;
    report.flow(layout, "a page of 50 dead letters", &cost);
    let ids: Vec<&str> = page.jobs.iter().map(|job| job.id.as_str()).collect();
    let order = RetryOrder {
        id: "order",
        by: "bench",
        reset_attempts: false,
    };
    let (_, cost) = stage
        .watch(&at, async { Ok(broker.retry(&ids, &order).await?) })
        .await?;
    report.flow(layout, "a page of 50 dead letters retried", &cost);
    Ok(())
}

/// A completion under a retention that leaves a chunk of old jobs to forget.
pub(crate) async fn retention(stage: &mut Stage, queue: &mut Queue, report: &mut Report) -> Result {
    let kept = queue.broker.counts().await?.completed;
    // By Redis's clock they ended two days ago: a day more than jobs are kept.
    let key = match queue.layout {
        Layout::Apalis => "depth:ended:done",
        Layout::Bullmq => "bull:depth:completed",
    };
    let ids: Vec<String> = stage.ask(&["ZRANGE", key, "0", "-1"]).await?;
    for some in ids.chunks(500) {
        let mut command = vec!["ZADD", key];
        for id in some {
            command.extend(["1000", id.as_str()]);
        }
        stage.ask::<()>(&command).await?;
    }
    let broker = queue.broker.clone();
    let (_, cost): (_, Cost) = stage
        .watch("retention", async {
            for _ in 0..5 {
                let lease = queue.claim_one().await?;
                broker.complete(&lease, "{}").await?;
            }
            Ok(())
        })
        .await?;
    let left = queue.broker.counts().await?.completed;
    report.flow(
        queue.layout,
        &format!(
            "5 claimed and completed, {kept} older ones past their time, {} forgotten",
            kept + 5 - left
        ),
        &cost,
    );
    Ok(())
}
