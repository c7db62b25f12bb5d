//! An outage of the first deployment that lasts for long: the second one bridges it, and no job fails.
//!
//! The times are scaled: a breaker that stays open for a minute in operation does so for a second here.

use std::time::Duration;

use backend_worker::{
    queue::{JobSnapshot, JobState},
    simulator::{Fault, JournalEntry, Provider, RunningSimulator, Simulator, SimulatorOptions},
};
use serde_json::{Value, json};

use crate::support::{Scene, Worker, eventually};

const MAIN_AT_ONCE: u64 = 6;
const SPARE_AT_ONCE: u64 = 4;
/// Jobs of each part: before, during and after the outage.
const PART: usize = 120;

/// Two deployments at two simulators, each with limits of its own.
struct Bridge {
    scene: Scene,
    spare: RunningSimulator,
    _worker: Worker,
}

impl Bridge {
    async fn new(latency: Duration, variables: &[(&str, &str)]) -> Self {
        let scene = Scene::set(latency).await;
        let options = SimulatorOptions {
            latency,
            ..SimulatorOptions::default()
        };
        let spare = Simulator::bind(([127, 0, 0, 1], 0).into(), options)
            .await
            .unwrap();
        let (base, main_at_once, spare_at_once) = (
            spare.openai_base_url(),
            MAIN_AT_ONCE.to_string(),
            SPARE_AT_ONCE.to_string(),
        );
        let env = [
            ("QUEUES", "ai-jobs=12"),
            ("LLM_DEPLOYMENTS", "main,spare"),
            ("LLM_SPARE_BASE_URL", &base),
            ("LLM_SPARE_API_KEY", "sim-openai-key"),
            ("LLM_FALLBACK_AFTER", "250ms"),
            ("OPENAI_MODEL", "gpt-6-luna"),
            ("OPENAI_MODEL_SUCCESSOR", "none"),
            ("OPENAI_MAX_CONCURRENT", &main_at_once),
            ("LLM_SPARE_MAX_CONCURRENT", &spare_at_once),
            ("OPENAI_BREAKER_OPEN_FOR", "1s"),
            ("OPENAI_IDLE_TIMEOUT", "333ms"),
        ];
        let worker = scene.worker(&[&env, variables].concat()).await;
        Self {
            scene,
            spare: spare.spawn(),
            _worker: worker,
        }
    }

    fn fail(&self, fault: &Fault) {
        let faults = self.scene.simulator.faults();
        faults
            .on_match(Provider::OpenAi, "", fault.clone(), None)
            .unwrap();
    }

    /// Adds so many decks, and waits until each has completed.
    async fn decks(&self, count: usize) -> Vec<JobSnapshot> {
        let cards =
            json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" });
        let (data, count) = (cards.to_string(), count.to_string());
        let ids = self
            .scene
            .enqueue(&["generate-flashcards", "--data", &data, "--count", &count])
            .await;
        let broker = self.scene.redis.apalis("ai-jobs", "onlooker");
        let mut jobs = Vec::new();
        for id in ids {
            let job = eventually(&format!("{id} has ended"), async || {
                let job = broker.find(&id).await.unwrap()?;
                matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
            })
            .await;
            assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
            jobs.push(job);
        }
        jobs
    }

    /// Waits until the breaker of the first deployment is closed, with one job after the other.
    async fn until_recovered(&self) {
        eventually("the first deployment is back", async || {
            let jobs = self.decks(2).await;
            let state: Option<String> = self.scene.redis.ask(&["GET", "circuit:openai:state"]).await;
            let is_closed = state.is_none_or(|state| state == "CLOSED");
            (is_closed && jobs.iter().any(|job| deployment(job) == "main")).then_some(())
        })
        .await;
    }

    fn calls(simulator: &RunningSimulator) -> Vec<JournalEntry> {
        simulator.journal().of(Provider::OpenAi)
    }

    fn assert_limits(&self, fault: &Fault) {
        for (simulator, limit) in [
            (&self.scene.simulator, MAIN_AT_ONCE),
            (&self.spare, SPARE_AT_ONCE),
        ] {
            let peak = simulator.journal().counts(Provider::OpenAi).peak;
            assert!(
                peak <= limit,
                "{fault:?}: {peak} calls at once, {limit} are allowed"
            );
        }
    }
}

fn deployment(job: &JobSnapshot) -> Value {
    job.result.as_ref().unwrap()["usage"]["deployment"].clone()
}

/// No job fails, no limit is exceeded, the broken deployment gets probes only, and it gets its calls back.
async fn bridges(fault: Fault) {
    let bridge = Bridge::new(Duration::from_millis(5), &[]).await;
    let before = bridge.decks(PART).await;
    assert!(before.iter().any(|job| deployment(job) == "main"), "{fault:?}");

    bridge.fail(&fault);
    let asked = Bridge::calls(&bridge.scene.simulator).len();
    let during = bridge.decks(PART).await;
    assert!(during.iter().all(|job| deployment(job) == "spare"), "{fault:?}");
    let in_vain = Bridge::calls(&bridge.scene.simulator).len() - asked;
    assert!(
        in_vain <= 30,
        "{fault:?}: {in_vain} calls were made at the broken deployment"
    );

    bridge.scene.simulator.faults().clear();
    bridge.until_recovered().await;
    bridge.assert_limits(&fault);
    let counts = bridge
        .scene
        .redis
        .apalis("ai-jobs", "onlooker")
        .counts()
        .await
        .unwrap();
    assert_eq!(
        (counts.failed, counts.waiting, counts.active),
        (0, 0, 0),
        "{fault:?}"
    );
}

#[tokio::test]
async fn a_provider_that_fails_is_bridged() {
    bridges(Fault::status(503)).await;
}

#[tokio::test]
async fn an_account_without_credit_is_bridged() {
    bridges(Fault::Quota).await;
}

#[tokio::test]
async fn a_key_that_is_refused_is_bridged() {
    bridges(Fault::status(401)).await;
}

#[tokio::test]
async fn a_model_that_is_gone_is_bridged() {
    bridges(Fault::status(404)).await;
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_bridged() {
    bridges(Fault::StreamSilence { percent: 0 }).await;
}

/// The first deployment asks for more patience than a slot is given for. Nothing waits for it.
#[tokio::test]
async fn a_provider_that_asks_to_wait_for_long_is_bridged() {
    bridges(Fault::RateLimit {
        retry_after: Some(16.0),
    })
    .await;
}

/// A first deployment that is open or full does not hold the queue up while the second one admits calls, and both are
/// used where one alone has too little room.
#[tokio::test]
async fn claims_follow_the_room_of_all_deployments() {
    let limits = [
        ("OPENAI_RATE_LIMIT_RPM", "10"),
        ("LLM_SPARE_RATE_LIMIT_RPM", "0"),
        ("FAIRNESS_KEY", "userId"),
    ];
    let bridge = Bridge::new(Duration::ZERO, &limits).await;
    let mut ids = Vec::new();
    for owner in ["ann", "ben", "cleo"] {
        let cards =
            json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": owner });
        let data = cards.to_string();
        let arguments = ["generate-flashcards", "--data", &data, "--count", "40"];
        ids.extend(bridge.scene.enqueue(&arguments).await);
    }
    let broker = bridge.scene.redis.apalis("ai-jobs", "onlooker");
    eventually(
        "all have completed, long before the first has room for them",
        async || {
            let counts = broker.counts().await.unwrap();
            assert_eq!(counts.failed, 0);
            (counts.completed as usize == ids.len()).then_some(())
        },
    )
    .await;
    assert!(
        Bridge::calls(&bridge.scene.simulator).len() <= 10,
        "its limit holds"
    );
    assert!(Bridge::calls(&bridge.spare).len() >= 110);
    bridge.assert_limits(&Fault::status(200));
}

/// Prints the figures of `docs/reliability.md`: an outage of thirty minutes, sixty times as fast, under a steady load.
#[tokio::test]
#[ignore = "a measurement of a minute, not a test"]
async fn thirty_minutes_of_outage_in_thirty_seconds() {
    const EVERY: Duration = Duration::from_millis(250);
    let bridge = Bridge::new(Duration::from_millis(50), &[]).await;
    let cards = json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" });
    let data = cards.to_string();
    let (mut ids, mut begins) = (Vec::new(), Vec::new());
    for (part, seconds) in [("before", 10), ("during", 30), ("after", 10)] {
        match part {
            "during" => bridge.fail(&Fault::status(503)),
            "after" => bridge.scene.simulator.faults().clear(),
            _ => {}
        }
        begins.push((part, now_ms()));
        let mut ticks = tokio::time::interval(EVERY);
        for _ in 0..seconds * 4 {
            ticks.tick().await;
            let arguments = ["generate-flashcards", "--data", &data, "--count", "5"];
            ids.extend(bridge.scene.enqueue(&arguments).await);
        }
    }
    let broker = bridge.scene.redis.apalis("ai-jobs", "onlooker");
    let mut jobs = Vec::new();
    for id in &ids {
        let job = eventually(&format!("{id} has ended"), async || {
            let job = broker.find(id).await.unwrap()?;
            job.ended_at.is_some().then_some(job)
        })
        .await;
        jobs.push(job);
    }
    let failed = jobs.iter().filter(|job| job.state == JobState::Failed).count();
    println!("{} jobs, {failed} failed", jobs.len());
    for (at, (part, began)) in begins.iter().enumerate() {
        let next = begins.get(at + 1).map_or(u64::MAX, |(_, next)| *next);
        let of_part = jobs
            .iter()
            .filter(|job| (*began..next).contains(&job.added_at.unwrap()));
        let (mut took, mut main) = (Vec::new(), 0);
        for job in of_part {
            took.push(job.ended_at.unwrap().saturating_sub(job.added_at.unwrap()));
            main += usize::from(deployment(job) == "main");
        }
        took.sort_unstable();
        let p = |percent: usize| took[(took.len() - 1) * percent / 100];
        let (p50, p95, p99) = (p(50), p(95), p(99));
        println!(
            "{part}: {} jobs, {main} by main; p50 {p50} ms, p95 {p95} ms, p99 {p99} ms",
            took.len()
        );
    }
    let recovered = begins[2].1;
    let first = jobs
        .iter()
        .filter(|job| deployment(job) == "main" && job.ended_at.unwrap() > recovered);
    let back = first.map(|job| job.ended_at.unwrap() - recovered).min();
    println!("main answers again {back:?} ms after its recovery");
    for (name, simulator) in [("main", &bridge.scene.simulator), ("spare", &bridge.spare)] {
        println!("{name}: {:?}", simulator.journal().counts(Provider::OpenAi));
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_millis()).unwrap()
}
