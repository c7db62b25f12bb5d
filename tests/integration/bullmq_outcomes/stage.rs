//! One of the two workers on a queue of its own, the script that it follows, and the record of what Node sees.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use backend_worker::{
    queue::Layout,
    worker::{DeliveryOutcome, RuntimeOptions},
};
use jobs::{Failure, FailureClass};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Node, RunningReplica, Script, TestRedis, eventually, options, replica};

/// Who runs the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Node,
    Ours,
}

/// A queue with an onlooker and one worker, which runs one job at a time.
pub(super) struct Stage {
    pub(super) side: Side,
    pub(super) redis: TestRedis,
    pub(super) node: Node,
    script: Arc<Script>,
    release: CancellationToken,
    running: Mutex<Option<RunningReplica>>,
    views: Mutex<Vec<Value>>,
}

impl Stage {
    pub(super) async fn set(side: Side) -> Self {
        let redis = TestRedis::start().await;
        let node = Node::start(&redis, "q").await;
        let release = CancellationToken::new();
        Self {
            side,
            redis,
            node,
            script: follow(release.clone()),
            release,
            running: Mutex::default(),
            views: Mutex::default(),
        }
    }

    /// Adds a job that goes as the steps say, one for each delivery.
    pub(super) async fn add(&self, id: &str, opts: Value, steps: &[&str]) {
        let mut opts = opts;
        opts["jobId"] = json!(id);
        let job = json!({"name": "process-image", "data": {"steps": steps}, "opts": opts});
        assert_eq!(self.node.ask("add", job).await, id);
    }

    /// Starts the worker.
    pub(super) async fn work(&self) {
        self.work_with(json!({})).await;
    }

    /// Starts the worker; the options are for Node's.
    pub(super) async fn work_with(&self, node_options: Value) {
        match self.side {
            Side::Node => {
                self.node.ask("work", node_options).await;
            }
            Side::Ours => {
                let options = RuntimeOptions {
                    drain: Duration::ZERO,
                    ..options()
                };
                let running = replica(self.redis.bullmq("q", "w"), 1, self.script.clone(), &options);
                *self.running.lock().unwrap() = Some(running);
            }
        }
    }

    /// Waits until the worker has begun this many deliveries.
    pub(super) async fn until_started(&self, count: usize) {
        match self.side {
            Side::Ours => self.script.calls.until_started(count).await,
            Side::Node => {
                eventually("the deliveries have begun", async || {
                    let started = self.node.ask("started", json!({})).await;
                    (started.as_array().unwrap().len() >= count).then_some(())
                })
                .await;
            }
        }
    }

    /// Lets all jobs that hold go on.
    pub(super) async fn release(&self) {
        self.release.cancel();
        self.node.ask("release", json!({})).await;
    }

    /// Stops the worker.
    pub(super) async fn rest(&self) {
        let running = self.running.lock().unwrap().take();
        if let Some(running) = running {
            running.stop().await;
        }
        self.node.ask("stop", json!({})).await;
    }

    /// Waits until Node sees the job in this state, and puts its view on record.
    pub(super) async fn view(&self, id: &str, state: &str) {
        let view = self.node.until(id, state).await;
        self.record(tidy(view));
    }

    /// As [`Self::view`], with the state that the worker's side gives it.
    pub(super) async fn view_as(&self, id: &str, node: &str, ours: &str) {
        self.view(id, if self.side == Side::Node { node } else { ours })
            .await;
    }

    /// Waits until the job has come to this many attempts and is in this state again.
    pub(super) async fn view_after(&self, id: &str, attempts: u64, state: &str) -> Value {
        let view = eventually(&format!("{id} {state} after {attempts} attempts"), async || {
            let job = self.node.look(id).await;
            (job["state"] == state && job["attemptsMade"] == attempts).then_some(job)
        })
        .await;
        tidy(view)
    }

    /// Waits until nothing is left of the job.
    pub(super) async fn until_gone(&self, id: &str) {
        eventually(&format!("{id} is gone"), async || {
            self.node.look(id).await.is_null().then_some(())
        })
        .await;
    }

    /// Puts on record which of the jobs are still there, and how they ended.
    pub(super) async fn view_states(&self, ids: &[&str]) {
        for id in ids {
            let job = self.node.look(id).await;
            let state = job.get("state").cloned().unwrap_or(json!("gone"));
            self.record(json!({"id": id, "state": state}));
        }
    }

    pub(super) fn record(&self, view: Value) {
        self.views.lock().unwrap().push(view);
    }

    /// Makes the last end of a job this much older.
    pub(super) async fn age(&self, set: &str, id: &str, by: Duration) {
        let earlier = format!("-{}", by.as_millis());
        self.redis
            .ask::<f64>(&["ZINCRBY", &format!("bull:q:{set}"), &earlier, id])
            .await;
    }

    /// Has another replica of ours find what a dead worker held.
    pub(super) async fn recover(&self) {
        let lease = Duration::from_millis(100);
        let sweeper = self.redis.broker_with(Layout::Bullmq, "q", "sweeper", lease);
        eventually("a job is recovered", async || {
            sweeper.renew(&[]).await.unwrap();
            (sweeper.recover().await.unwrap().requeued == 1).then_some(())
        })
        .await;
    }

    /// The record: views, all events, counts, and what is left in Redis.
    pub(super) async fn end(self) -> Value {
        // An event of the test's own: all that come before it have arrived when it has.
        self.redis
            .ask::<String>(&["XADD", "bull:q:events", "*", "event", "curtain"])
            .await;
        self.node.event("curtain").await;
        let mut events = self.node.ask("events", json!({})).await;
        for event in events.as_array_mut().unwrap() {
            if event["event"] == "delayed" {
                assert!(event["delay"].is_u64(), "{event}");
                event["delay"] = json!("a time");
            }
        }
        let counts = self.node.ask("counts", json!({})).await;
        self.rest().await;
        let mut locks: Vec<String> = self.redis.ask(&["KEYS", "bull:q:*:lock"]).await;
        locks.extend(
            self.redis
                .ask::<Vec<String>>(&["SMEMBERS", "bull:q:stalled"])
                .await,
        );
        let views = std::mem::take(&mut *self.views.lock().unwrap());
        json!({"views": views, "events": events, "counts": counts, "locks": locks})
    }
}

/// A view without what is different each time.
fn tidy(mut view: Value) -> Value {
    let rows = view["logs"].as_array().unwrap().len();
    let fields = view.as_object_mut().unwrap();
    fields.remove("logs");
    fields.insert("history".to_owned(), json!(rows > 0));
    let stacks = fields["stacktrace"].as_array().unwrap().len();
    fields.insert("stacktrace".to_owned(), json!(stacks));
    // A job that Node's worker delays is due at a time, not after one: what is left of it is less by a moment.
    let delay = fields["delay"].as_f64().unwrap();
    fields.insert("delay".to_owned(), json!((delay / 1000.0).round() as u64 * 1000));
    view
}

/// This worker's side of what `driver.mjs` does with a job's steps.
fn follow(release: CancellationToken) -> Arc<Script> {
    let deliveries = Mutex::new(HashMap::<String, usize>::new());
    Script::new(move |assignment| {
        let nth = {
            let mut deliveries = deliveries.lock().unwrap();
            let nth = deliveries
                .entry(assignment.delivery.lease.id.to_string())
                .or_default();
            *nth += 1;
            *nth
        };
        let payload: Value = serde_json::from_slice(assignment.delivery.payload.as_deref().unwrap()).unwrap();
        let steps = payload["steps"].as_array().cloned().unwrap_or_default();
        let step = steps.get(nth.min(steps.len()).saturating_sub(1)).cloned();
        let release = release.clone();
        async move {
            let fail = |failure: &Failure| options().rules.of(failure, &assignment.delivery, 1);
            let minute = Duration::from_secs(60);
            match step.as_ref().and_then(Value::as_str) {
                Some("stumble") => fail(&Failure::transient("the provider \"stumbled\"")),
                Some("refuse") => fail(&Failure::permanent("no such voice")),
                Some("gate") => fail(
                    &Failure::new(FailureClass::Blocked, "the gate is closed").with_retry_after(Some(minute)),
                ),
                Some("limit") => {
                    fail(&Failure::new(FailureClass::RateLimited, "429").with_retry_after(Some(minute)))
                }
                // Until the worker is stopped.
                Some("hand-back") => std::future::pending().await,
                Some("hold") => {
                    release.cancelled().await;
                    DeliveryOutcome::Completed(r#"{"ok":true}"#.to_owned())
                }
                _ => DeliveryOutcome::Completed(r#"{"ok":true}"#.to_owned()),
            }
        }
    })
}
