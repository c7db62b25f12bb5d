//! The outcomes.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    compare,
    stage::{Side, Stage},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Makes a test of each function, which is played by both workers.
macro_rules! outcomes {
    ($($name:ident)*) => {
        mod played {$(
            #[tokio::test]
            async fn $name() {
                super::compare(stringify!($name), super::$name).await;
            }
        )*}
    };
}

outcomes! {
    completed
    retried_at_once
    retried_after_a_fixed_wait
    retried_after_waits_that_double
    retried_after_a_wait_with_jitter
    failed_after_its_attempts
    failed_for_good
    blocked_by_the_gate
    given_back_on_shutdown
    stalled_once
    delayed
    prioritized
    paused_while_retries_come_due
    limited_by_its_queue
    rate_limited_by_its_provider
    removed_while_active
    kept_by_count
    kept_by_age
    kept_by_age_and_count_when_failed
    kept_by_the_workers_own_rule
}

fn waits(attempts: u32, backoff: Value) -> Value {
    json!({"attempts": attempts, "backoff": backoff})
}

async fn completed(stage: &Stage) {
    stage.add("j1", json!({"attempts": 3}), &["complete"]).await;
    stage.work().await;
    stage.view("j1", "completed").await;
}

async fn retried_at_once(stage: &Stage) {
    stage
        .add("j1", json!({"attempts": 2}), &["stumble", "complete"])
        .await;
    stage.work().await;
    stage.view("j1", "completed").await;
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

async fn retried_after_a_fixed_wait(stage: &Stage) {
    retry(
        stage,
        waits(3, json!({"type": "fixed", "delay": 60_000})),
        2,
        |view| view,
    )
    .await;
}

async fn retried_after_waits_that_double(stage: &Stage) {
    let backoff = json!({"type": "exponential", "delay": 60_000});
    retry(stage, waits(4, backoff), 3, |view| view).await;
}

async fn retried_after_a_wait_with_jitter(stage: &Stage) {
    let backoff = json!({"type": "exponential", "delay": 60_000, "jitter": 0.5});
    retry(stage, waits(2, backoff), 1, |mut view| {
        let within = (30_000..=60_000).contains(&view["delay"].as_u64().unwrap());
        view["delay"] = json!({"within the jitter": within});
        view
    })
    .await;
}

async fn failed_after_its_attempts(stage: &Stage) {
    let opts = json!({"attempts": 3, "backoff": 10, "stackTraceLimit": 2});
    stage.add("j1", opts, &["stumble"]).await;
    stage.work().await;
    stage.view("j1", "failed").await;
}

async fn failed_for_good(stage: &Stage) {
    stage.add("j1", waits(3, json!(10)), &["refuse"]).await;
    stage.work().await;
    stage.view("j1", "failed").await;
    stage.node.ask("retry", json!({"id": "j1"})).await;
    stage.until_started(2).await;
    let again = stage.view_after("j1", 2, "failed").await;
    stage.record(again);
}

async fn blocked_by_the_gate(stage: &Stage) {
    stage
        .add("j1", json!({"attempts": 3}), &["gate", "complete"])
        .await;
    stage.work().await;
    stage.view("j1", "delayed").await;
    stage.node.ask("promote", json!({"id": "j1"})).await;
    stage.view("j1", "completed").await;
}

/// Node's worker has no way to give a job back when it stops: what it runs then stalls. Its processor can do it.
async fn given_back_on_shutdown(stage: &Stage) {
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
}

/// A worker takes the job and dies; the marks that it leaves are those of a real one (see `bullmq_fleet` for SIGKILL).
async fn stalled_once(stage: &Stage) {
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
}

async fn delayed(stage: &Stage) {
    stage.work().await;
    stage.add("j1", json!({"delay": 100}), &["complete"]).await;
    stage.view("j1", "completed").await;
}

async fn prioritized(stage: &Stage) {
    for (id, priority) in [("low", 9), ("mid-1", 5), ("mid-2", 5), ("high", 1), ("plain", 0)] {
        stage.add(id, json!({"priority": priority}), &["complete"]).await;
    }
    stage.view("low", "prioritized").await;
    stage.work().await;
    stage.view("low", "completed").await;
}

async fn paused_while_retries_come_due(stage: &Stage) {
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
}

async fn limited_by_its_queue(stage: &Stage) {
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
}

async fn rate_limited_by_its_provider(stage: &Stage) {
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
}

async fn removed_while_active(stage: &Stage) {
    stage.add("j1", json!({"attempts": 3}), &["hold"]).await;
    stage.work().await;
    stage.until_started(1).await;
    let removed = stage.node.ask("tryRemove", json!({"id": "j1"})).await;
    stage.record(json!({"removed while locked": removed}));
    stage.node.ask("obliterate", json!({})).await;
    stage.release().await;
    // The worker goes on with what comes next; of the first job nothing comes back.
    stage.add("j2", json!({}), &["complete"]).await;
    stage.view("j2", "completed").await;
    stage.view_states(&["j1"]).await;
    let left: Vec<String> = stage.redis.ask(&["KEYS", "bull:q:j1*"]).await;
    stage.record(json!({"left": left}));
}

async fn kept_by_count(stage: &Stage) {
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
}

async fn kept_by_age(stage: &Stage) {
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
}

async fn kept_by_age_and_count_when_failed(stage: &Stage) {
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
}

async fn kept_by_the_workers_own_rule(stage: &Stage) {
    stage.work().await;
    stage.add("j1", json!({}), &["complete"]).await;
    stage.node.until("j1", "completed").await;
    stage.age("completed", "j1", HOUR * 48).await;
    stage.add("j2", json!({}), &["complete"]).await;
    stage.node.until("j2", "completed").await;
    stage.view_states(&["j1", "j2"]).await;
}
