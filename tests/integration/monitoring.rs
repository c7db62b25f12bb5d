//! The monitoring section of the pull request that this worker replaces, line by line: two replicas under load, an
//! outage of the provider, and every alert from quiet to firing to quiet, as each of both replicas tells it.
//!
//! What takes an hour or five minutes is moved into the past in Redis, where the fleet's counts and the breaker's time
//! are kept.

use std::{cell::Cell, time::Duration};

use backend_worker::{
    keys::FLEET_MINUTES,
    simulator::{Fault, Provider},
};
use serde_json::{Value, json};

use crate::{
    support::{Scene, Worker, eventually},
    telemetry::{QUICK, alerts, stop, until_alert},
};

/// Two replicas, and jobs that are numbered over all phases.
struct Fleet {
    scene: Scene,
    replicas: [Worker; 2],
    jobs: Cell<usize>,
}

impl Fleet {
    async fn start() -> Self {
        let scene = Scene::set(Duration::from_millis(5)).await;
        let mut env = QUICK.to_vec();
        env.push(("OPENAI_BREAKER_OPEN_FOR", "1s"));
        let replicas = [scene.worker(&env).await, scene.worker(&env).await];
        Self {
            scene,
            replicas,
            jobs: Cell::new(0),
        }
    }

    /// Adds so many jobs.
    async fn add(&self, count: usize) {
        let first = self.jobs.get();
        for n in first..first + count {
            let data =
                json!({"content": format!("cells, job-{n}."), "subject": "s", "topic": "t", "userId": "u"});
            let add = ["generate-flashcards", "--data", &data.to_string()];
            self.scene.enqueue(&add).await;
        }
        self.jobs.set(first + count);
    }

    /// Waits until no job is left but so many dead letters.
    async fn until_ended(&self, dead: usize) {
        let done = self.jobs.get() - dead;
        eventually("the jobs have ended", async || {
            let stats = self.ask(0, "/api/queue/stats").await;
            (stats["stats"]["completed"] == json!(done) && stats["stats"]["failed"] == json!(dead))
                .then_some(())
        })
        .await;
    }

    async fn ask(&self, replica: usize, path: &str) -> Value {
        let url = format!("http://127.0.0.1:{}{path}", self.replicas[replica].port);
        reqwest::get(url).await.unwrap().json().await.unwrap()
    }

    /// Every replica tells that the alert fires, or that it does not.
    async fn expect(&self, alert: &str, firing: bool) {
        for replica in &self.replicas {
            until_alert(replica, alert, firing).await;
        }
    }

    /// Every replica shows the breaker in this state.
    async fn expect_breaker(&self, states: &[&str]) {
        for replica in 0..self.replicas.len() {
            eventually(&format!("replica {replica} shows {states:?}"), async || {
                let status = self.ask(replica, "/api/circuit-breakers/status").await;
                let state = status["circuitBreakers"]["openai"]["state"].as_str()?;
                states.contains(&state).then_some(())
            })
            .await;
        }
    }

    /// What the fleet's jobs came to is as old by so many minutes as if they had passed.
    async fn let_minutes_pass(&self, minutes: u64) {
        let redis = &self.scene.redis;
        let fields: Vec<String> = redis.ask(&["HKEYS", FLEET_MINUTES]).await;
        for field in fields {
            let Some((minute, place)) = field
                .split_once(':')
                .and_then(|(minute, place)| Some((minute.parse::<u64>().ok()?, place)))
            else {
                continue;
            };
            let count: String = redis.ask(&["HGET", FLEET_MINUTES, &field]).await;
            let earlier = format!("{}:{place}", minute - minutes);
            redis.ask::<u8>(&["HDEL", FLEET_MINUTES, &field]).await;
            redis.ask::<u8>(&["HSET", FLEET_MINUTES, &earlier, &count]).await;
        }
    }

    /// Both replicas' logs so far.
    fn log(&self) -> String {
        self.replicas.iter().flat_map(Worker::log).collect()
    }
}

#[tokio::test]
async fn the_monitoring_section_line_by_line() {
    let fleet = Fleet::start().await;
    let faults = fleet.scene.simulator.faults();
    for replica in &fleet.replicas {
        assert_eq!(alerts(replica).await["firing"], json!(0));
    }
    fleet.expect_breaker(&["CLOSED"]).await;

    // "Retry rate > 20 % of jobs": one job in three needs a second call.
    for n in 0..4 {
        let job = format!("job-{n}.");
        faults
            .on_match(Provider::OpenAi, &job, Fault::status(503), Some(1))
            .unwrap();
    }
    fleet.add(12).await;
    fleet.expect("RetryRate", true).await;
    assert!(
        fleet.log().contains("Retrying openai call (attempt 2)"),
        "grep Retrying"
    );
    fleet.add(20).await;
    fleet.expect("RetryRate", false).await;
    fleet.until_ended(0).await;

    // An outage: "watch for state: OPEN", the same on every replica, and in the key that redis-cli reads.
    faults
        .on_match(Provider::OpenAi, "", Fault::status(503), None)
        .unwrap();
    fleet.add(12).await;
    fleet.expect_breaker(&["OPEN", "HALF_OPEN"]).await;
    let state: String = fleet.scene.redis.ask(&["GET", "circuit:openai:state"]).await;
    assert_ne!(state, "CLOSED");
    // "Circuit breaker OPEN for > 5 minutes", of which it is half open now and then.
    let meta = "circuit:openai:meta";
    let redis = &fleet.scene.redis;
    let left: u64 = redis.ask(&["HGET", meta, "left"]).await;
    fleet.expect("BreakerOpen", false).await;
    redis
        .ask::<()>(&["HSET", meta, "left", &(left - 301_000).to_string()])
        .await;
    fleet.expect("BreakerOpen", true).await;
    // "Circuit transitions > 10/hour": it half-opens and opens again as long as the outage lasts.
    fleet.expect("BreakerTransitions", true).await;
    assert!(fleet.log().contains("CLOSED → OPEN"));
    faults.clear();
    fleet.expect_breaker(&["CLOSED"]).await;
    fleet.expect("BreakerOpen", false).await;
    // "Compare failed and completed": the jobs have waited, and none has failed.
    fleet.until_ended(0).await;
    fleet.expect("FailureRate", false).await;
    fleet.let_minutes_pass(61).await;
    fleet.expect("BreakerTransitions", false).await;

    // "Permanent error rate > 5 %", "< 5 % failure rate": jobs that the provider refuses.
    fleet.expect("PermanentErrors", false).await;
    faults
        .on_match(Provider::OpenAi, "", Fault::status(400), Some(12))
        .unwrap();
    fleet.add(12).await;
    let of_failures = ["PermanentErrors", "FailureRate", "DeadLettersGrowing"];
    for alert in of_failures {
        fleet.expect(alert, true).await;
    }
    fleet.until_ended(12).await;
    fleet.let_minutes_pass(16).await;
    fleet.expect("PermanentErrors", false).await;
    fleet.expect("FailureRate", false).await;
    fleet.expect("DeadLettersGrowing", true).await;
    fleet.let_minutes_pass(45).await;
    fleet.expect("DeadLettersGrowing", false).await;
    for replica in fleet.replicas {
        stop(replica).await;
    }
}
