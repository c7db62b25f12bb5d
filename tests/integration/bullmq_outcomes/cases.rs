//! The outcomes.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    compare,
    stage::{Side, Stage},
};

const HOUR: Duration = Duration::from_secs(3600);

fn waits(attempts: u32, backoff: Value) -> Value {
    json!({"attempts": attempts, "backoff": backoff})
}

#[tokio::test]
async fn completed() {
    compare("completed", async |stage: &Stage| {
        stage.add("j1", json!({"attempts": 3}), &["complete"]).await;
        stage.work().await;
        stage.view("j1", "completed").await;
    })
    .await;
}

#[tokio::test]
async fn retried_at_once() {
    compare("retried_at_once", async |stage: &Stage| {
        stage
            .add("j1", json!({"attempts": 2}), &["stumble", "complete"])
            .await;
        stage.work().await;
        stage.view("j1", "completed").await;
    })
    .await;
}

/// Fails as often as the waits are many, and does not wait for them: each is looked at, and the job is promoted.
async fn retry(stage: &Stage, opts: Value, waits: u64, look_at: impl Fn(Value) -> Value) {
    let steps: Vec<_> = (0..waits).map(|_| "stumble").chain(["complete"]).collect();
    stage.add("j1", opts, &steps).await;
    stage.work().await;
    for nth in 1..=waits {
        let view = stage.view_after("j1", nth, "delayed").await;
        stage.record(look_at(view));
        stage.node.ask("promote", json!({"id": "j1"})).await;
    }
    stage.view("j1", "completed").await;
}

#[tokio::test]
async fn retried_after_a_fixed_wait() {
    compare("retried_after_a_fixed_wait", async |stage: &Stage| {
        retry(
            stage,
            waits(3, json!({"type": "fixed", "delay": 60_000})),
            2,
            |view| view,
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn retried_after_waits_that_double() {
    compare("retried_after_waits_that_double", async |stage: &Stage| {
        let backoff = json!({"type": "exponential", "delay": 60_000});
        retry(stage, waits(4, backoff), 3, |view| view).await;
    })
    .await;
}

#[tokio::test]
async fn retried_after_a_wait_with_jitter() {
    compare("retried_after_a_wait_with_jitter", async |stage: &Stage| {
        let backoff = json!({"type": "exponential", "delay": 60_000, "jitter": 0.5});
        retry(stage, waits(2, backoff), 1, |mut view| {
            let within = (30_000..=60_000).contains(&view["delay"].as_u64().unwrap());
            view["delay"] = json!({"within the jitter": within});
            view
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn failed_after_its_attempts() {
    compare("failed_after_its_attempts", async |stage: &Stage| {
        let opts = json!({"attempts": 3, "backoff": 10, "stackTraceLimit": 2});
        stage.add("j1", opts, &["stumble"]).await;
        stage.work().await;
        stage.view("j1", "failed").await;
    })
    .await;
}

#[tokio::test]
async fn failed_for_good() {
    compare("failed_for_good", async |stage: &Stage| {
        stage.add("j1", waits(3, json!(10)), &["refuse"]).await;
        stage.work().await;
        stage.view("j1", "failed").await;
        stage.node.ask("retry", json!({"id": "j1"})).await;
        stage.until_started(2).await;
        let again = stage.view_after("j1", 2, "failed").await;
        stage.record(again);
    })
    .await;
}

#[tokio::test]
async fn blocked_by_the_gate() {
    compare("blocked_by_the_gate", async |stage: &Stage| {
        stage
            .add("j1", json!({"attempts": 3}), &["gate", "complete"])
            .await;
        stage.work().await;
        stage.view("j1", "delayed").await;
        stage.node.ask("promote", json!({"id": "j1"})).await;
        stage.view("j1", "completed").await;
    })
    .await;
}

/// Node's worker has no way to give a job back when it stops: what it runs then stalls. Its processor can do it.
#[tokio::test]
async fn given_back_on_shutdown() {
    compare("given_back_on_shutdown", async |stage: &Stage| {
        stage
            .add("j1", json!({"attempts": 3}), &["hand-back", "complete"])
            .await;
        stage.work().await;
        stage.until_started(1).await;
        if stage.side == Side::Ours {
            stage.rest().await;
            stage.work().await;
        }
        stage.view("j1", "completed").await;
    })
    .await;
}

/// A worker takes the job and dies; the marks that it leaves are those of a real one (see `bullmq_fleet` for SIGKILL).
#[tokio::test]
async fn stalled_once() {
    compare("stalled_once", async |stage: &Stage| {
        stage.add("j1", json!({"attempts": 3}), &["complete"]).await;
        stage
            .redis
            .ask::<()>(&["LMOVE", "bull:q:wait", "bull:q:active", "RIGHT", "LEFT"])
            .await;
        stage.redis.ask::<()>(&["HINCRBY", "bull:q:j1", "ats", "1"]).await;
        match stage.side {
            Side::Node => stage.work_with(json!({"stalledInterval": 100})).await,
            Side::Ours => {
                stage.recover().await;
                stage.work().await;
            }
        }
        stage.view("j1", "completed").await;
    })
    .await;
}

#[tokio::test]
async fn delayed() {
    compare("delayed", async |stage: &Stage| {
        stage.work().await;
        stage.add("j1", json!({"delay": 100}), &["complete"]).await;
        stage.view("j1", "completed").await;
    })
    .await;
}

#[tokio::test]
async fn prioritized() {
    compare("prioritized", async |stage: &Stage| {
        for (id, priority) in [("low", 9), ("mid-1", 5), ("mid-2", 5), ("high", 1), ("plain", 0)] {
            stage.add(id, json!({"priority": priority}), &["complete"]).await;
        }
        stage.view("low", "prioritized").await;
        stage.work().await;
        stage.view("low", "completed").await;
    })
    .await;
}

#[tokio::test]
async fn paused_while_retries_come_due() {
    compare("paused_while_retries_come_due", async |stage: &Stage| {
        for id in ["j1", "j2"] {
            stage
                .add(id, waits(3, json!(500)), &["stumble", "complete"])
                .await;
        }
        stage.add("j3", json!({}), &["hold"]).await;
        stage.work().await;
        stage.until_started(3).await;
        stage.node.ask("pause", json!({})).await;
        stage.release().await;
        stage.view("j3", "completed").await;
        for id in ["j1", "j2"] {
            let view = stage.view_after(id, 1, "waiting").await;
            stage.record(view);
        }
        stage.record(stage.node.ask("counts", json!({})).await);
        stage.node.ask("resume", json!({})).await;
        for id in ["j1", "j2"] {
            stage.view(id, "completed").await;
        }
    })
    .await;
}

#[tokio::test]
async fn limited_by_its_queue() {
    compare("limited_by_its_queue", async |stage: &Stage| {
        stage
            .node
            .ask("rateLimit", json!({"max": 1, "duration": 150}))
            .await;
        for id in ["j1", "j2", "j3"] {
            stage.add(id, json!({}), &["complete"]).await;
        }
        stage.work().await;
        for id in ["j1", "j2", "j3"] {
            stage.view(id, "completed").await;
        }
    })
    .await;
}

#[tokio::test]
async fn rate_limited_by_its_provider() {
    compare("rate_limited_by_its_provider", async |stage: &Stage| {
        stage
            .add("j1", json!({"attempts": 3}), &["limit", "complete"])
            .await;
        // Without a limit of its own Node's worker would not wait at all.
        stage
            .work_with(json!({"limiter": {"max": 100, "duration": 1000}}))
            .await;
        stage.view_as("j1", "waiting", "delayed").await;
        if stage.side == Side::Ours {
            stage.node.ask("promote", json!({"id": "j1"})).await;
        }
        stage.view("j1", "completed").await;
    })
    .await;
}

#[tokio::test]
async fn removed_while_active() {
    compare("removed_while_active", async |stage: &Stage| {
        stage.add("j1", json!({"attempts": 3}), &["hold"]).await;
        stage.work().await;
        stage.until_started(1).await;
        let removed = stage.node.ask("tryRemove", json!({"id": "j1"})).await;
        stage.record(json!({"removed while locked": removed}));
        stage.node.ask("obliterate", json!({})).await;
        stage.release().await;
        // The worker runs the next job, and leaves no key of the first one.
        stage.add("j2", json!({}), &["complete"]).await;
        stage.view("j2", "completed").await;
        stage.view_states(&["j1"]).await;
        let left: Vec<String> = stage.redis.ask(&["KEYS", "bull:q:j1*"]).await;
        stage.record(json!({"left": left}));
    })
    .await;
}

#[tokio::test]
async fn kept_by_count() {
    compare("kept_by_count", async |stage: &Stage| {
        let rules = [json!(true), json!(0), json!(false), json!(2), json!({"count": 3})];
        for (n, rule) in rules.iter().enumerate() {
            for id in [format!("a{n}"), format!("b{n}")] {
                stage
                    .add(&id, json!({"removeOnComplete": rule}), &["complete"])
                    .await;
            }
        }
        stage
            .add("last", json!({"removeOnComplete": 4}), &["complete"])
            .await;
        stage.work().await;
        stage.view("last", "completed").await;
        stage
            .view_states(&["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"])
            .await;
    })
    .await;
}

#[tokio::test]
async fn kept_by_age() {
    compare("kept_by_age", async |stage: &Stage| {
        let rule = json!({"removeOnComplete": {"age": 3600}});
        stage.work().await;
        for id in ["old", "young"] {
            stage.add(id, rule.clone(), &["complete"]).await;
            stage.view(id, "completed").await;
        }
        stage.age("completed", "old", HOUR * 2).await;
        stage.add("last", rule, &["complete"]).await;
        stage.view("last", "completed").await;
        stage.view_states(&["old", "young"]).await;
    })
    .await;
}

#[tokio::test]
async fn kept_by_age_and_count_when_failed() {
    compare("kept_by_age_and_count_when_failed", async |stage: &Stage| {
        let rule = json!({"removeOnFail": {"age": 3600, "count": 2}});
        stage.work().await;
        for id in ["old", "j1", "j2"] {
            stage.add(id, rule.clone(), &["refuse"]).await;
            stage.node.until(id, "failed").await;
        }
        stage
            .add("gone", json!({"removeOnFail": true}), &["refuse"])
            .await;
        stage.until_gone("gone").await;
        stage
            .add("aged", json!({"removeOnFail": false}), &["refuse"])
            .await;
        stage.view("aged", "failed").await;
        stage.age("failed", "aged", HOUR * 2).await;
        stage.add("last", rule, &["refuse"]).await;
        stage.view("last", "failed").await;
        stage.view_states(&["old", "j1", "j2", "gone", "aged"]).await;
    })
    .await;
}

#[tokio::test]
async fn kept_by_the_workers_own_rule() {
    compare("kept_by_the_workers_own_rule", async |stage: &Stage| {
        stage.work().await;
        stage.add("j1", json!({}), &["complete"]).await;
        stage.node.until("j1", "completed").await;
        stage.age("completed", "j1", HOUR * 48).await;
        stage.add("j2", json!({}), &["complete"]).await;
        stage.node.until("j2", "completed").await;
        stage.view_states(&["j1", "j2"]).await;
    })
    .await;
}
