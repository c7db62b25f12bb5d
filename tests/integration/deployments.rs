//! Several deployments of the language model: which one a call goes to, and what an outage of the first costs.

use std::time::Duration;

use backend_worker::{
    queue::{JobSnapshot, JobState},
    simulator::{Fault, Provider, RunningSimulator, Simulator, SimulatorOptions},
    spending::{Budgets, Usd, accounts::SpendAccounts},
};
use serde_json::{Value, json};

use crate::support::{Scene, eventually};

/// A second provider, and the variables of a deployment `spare` at it.
async fn spare() -> (RunningSimulator, Vec<(&'static str, String)>) {
    let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), SimulatorOptions::default())
        .await
        .unwrap();
    let env = vec![
        ("QUEUES", "ai-jobs=10".to_owned()),
        ("LLM_DEPLOYMENTS", "main,spare".to_owned()),
        ("LLM_SPARE_BASE_URL", simulator.openai_base_url()),
        ("LLM_SPARE_API_KEY", "sim-openai-key".to_owned()),
        ("OPENAI_BREAKER_OPEN_FOR", "1s".to_owned()),
        ("OPENAI_MODEL", "gpt-6-luna".to_owned()),
    ];
    (simulator.spawn(), env)
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn decks(scene: &Scene, count: usize) -> Vec<JobSnapshot> {
    let cards = json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" });
    let (data, count) = (cards.to_string(), count.to_string());
    let ids = scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", &count])
        .await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    let mut jobs = Vec::new();
    for id in ids {
        let job = eventually(&format!("{id} has ended"), async || {
            let job = broker.find(&id).await.unwrap()?;
            matches!(job.state, JobState::Completed | JobState::Failed).then_some(job)
        })
        .await;
        jobs.push(job);
    }
    jobs
}

/// The deployments that have written the decks.
fn deployments(jobs: &[JobSnapshot]) -> Vec<Value> {
    let deployment = |job: &JobSnapshot| {
        assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
        job.result.as_ref().unwrap()["usage"]["deployment"].clone()
    };
    jobs.iter().map(deployment).collect()
}

#[tokio::test]
async fn the_first_deployment_gets_the_calls_while_it_admits_them() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, env) = spare().await;
    let _worker = scene.worker(&borrowed(&env)).await;
    let jobs = decks(&scene, 20).await;
    assert!(deployments(&jobs).iter().all(|name| name == "main"));
    assert!(spare.journal().of(Provider::OpenAi).is_empty());
}

/// No job fails, the breaker of each deployment is its own, and the first gets calls again when it is back.
#[tokio::test]
async fn an_outage_of_the_first_is_bridged_by_the_second() {
    let outages = [
        Fault::status(503),
        Fault::Reset,
        Fault::status(401),
        Fault::Quota,
        Fault::status(404),
        Fault::StreamBreak { percent: 0 },
    ];
    for outage in outages {
        let scene = Scene::set(Duration::from_millis(5)).await;
        let (spare, mut env) = spare().await;
        env.push(("LLM_SPARE_MODEL", "gpt-4o-mini".to_owned()));
        env.push(("OPENAI_MODEL_SUCCESSOR", "none".to_owned()));
        let worker = scene.worker(&borrowed(&env)).await;
        scene
            .simulator
            .faults()
            .on_match(Provider::OpenAi, "", outage.clone(), None)
            .unwrap();
        let during = decks(&scene, 30).await;
        assert!(
            deployments(&during).iter().all(|name| name == "spare"),
            "{outage:?}"
        );
        for job in &during {
            let usage = &job.result.as_ref().unwrap()["usage"];
            assert_eq!(
                usage["model"], "gpt-4o-mini",
                "{outage:?}: its own model is asked"
            );
            assert!(usage["costUsd"].as_f64().unwrap() > 0.0, "{outage:?}");
        }
        let state: Option<String> = scene.redis.ask(&["GET", "circuit:openai:state"]).await;
        assert_ne!(state.as_deref(), Some("CLOSED"), "{outage:?}");
        let spared: Option<String> = scene.redis.ask(&["GET", "circuit:llm-spare:state"]).await;
        assert!(spared.is_none_or(|state| state == "CLOSED"), "{outage:?}");
        let refused = scene.simulator.journal().of(Provider::OpenAi).len();
        assert!(
            refused <= 20,
            "{outage:?}: {refused} calls were made at the broken deployment"
        );
        assert_eq!(
            spare.journal().of(Provider::OpenAi).len(),
            30,
            "{outage:?}: each is paid for once"
        );

        scene.simulator.faults().clear();
        eventually("the first is back", async || {
            let names = deployments(&decks(&scene, 3).await);
            names.contains(&json!("main")).then_some(())
        })
        .await;
        drop(worker);
    }
}

/// A dearer deployment is reserved and booked by its own prices: the calls in flight exceed no budget.
#[tokio::test]
async fn a_budget_holds_at_the_prices_of_the_deployment_that_is_asked() {
    let scene = Scene::set(Duration::from_millis(20)).await;
    let (spare, mut env) = spare().await;
    let budget: Usd = "0.02".parse().unwrap();
    env.extend([
        ("LLM_SPARE_MODEL", "gpt-5-mini".to_owned()),
        ("BUDGET_DAILY_USD", budget.to_string()),
    ]);
    scene
        .simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(503), None)
        .unwrap();
    let _worker = scene.worker(&borrowed(&env)).await;
    let cards = json!({ "content": "Cells divide.", "subject": "Biology", "topic": "Cells", "userId": "u" });
    let data = cards.to_string();
    scene
        .enqueue(&["generate-flashcards", "--data", &data, "--count", "30"])
        .await;
    let broker = scene.redis.apalis("ai-jobs", "onlooker");
    let completed = eventually("the budget is used up, and the rest waits", async || {
        let counts = broker.counts().await.unwrap();
        assert_eq!(counts.failed, 0);
        (counts.completed > 0 && counts.delayed > 0 && counts.active == 0).then_some(counts.completed)
    })
    .await;
    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    let day = accounts.status().await.unwrap().day;
    assert!(
        day.usd.plus(day.possible_usd) <= budget,
        "{completed} decks for {} exceed {budget}",
        day.usd
    );
    let billed: f64 = spare
        .journal()
        .of(Provider::OpenAi)
        .into_iter()
        .filter_map(|entry| entry.bill?.usd)
        .sum();
    assert!(billed <= budget.dollars(), "{billed}");
}

/// Bookings, metrics, `check` and `job show` name each deployment, and look after each.
#[tokio::test]
async fn each_deployment_is_booked_counted_and_checked_under_its_own_name() {
    let scene = Scene::set(Duration::ZERO).await;
    let (_spare, mut env) = spare().await;
    env.push(("LLM_SPARE_MODEL", "gpt-4o-mini".to_owned()));
    let table = std::env::temp_dir().join(format!("deployments-{}.toml", std::process::id()));
    let day = std::time::SystemTime::now() + Duration::from_hours(20 * 24);
    let day = humantime::format_rfc3339_seconds(day).to_string()[..10].to_owned();
    let row = format!(
        "[[shutdown]]\nhost = \"127.0.0.1\"\nmodels = [\"gpt-4o-mini\"]\ndate = \"{day}\"\n\
         successor = \"gpt-6-luna\"\nsource = \"this test\"\n"
    );
    std::fs::write(&table, row).unwrap();
    env.push(("MODELS_FILE", table.to_str().unwrap().to_owned()));
    let worker = scene.worker(&borrowed(&env)).await;
    let faults = scene.simulator.faults();
    let fault = Fault::status(503);
    faults.on_match(Provider::OpenAi, "", fault, None).unwrap();
    let jobs = decks(&scene, 10).await;
    assert!(deployments(&jobs).iter().all(|name| name == "spare"));
    let causes: Vec<&str> = (jobs.iter().flat_map(|job| &job.history))
        .map(|line| line.note.cause.as_str())
        .collect();
    assert!(
        !causes.is_empty() && causes.iter().all(|cause| cause.contains("(at openai)")),
        "{causes:?}"
    );

    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    let today = accounts.today().await.unwrap();
    let row = "llm-spare|gpt-4o-mini|generate-flashcards|calls";
    let booked: Option<u64> = scene
        .redis
        .ask(&["HGET", &format!("spend:day:{today}"), row])
        .await;
    let rows: Vec<String> = scene.redis.ask(&["HKEYS", &format!("spend:day:{today}")]).await;
    assert_eq!(booked, Some(10), "{rows:?}");

    let metrics = reqwest::get(format!("http://127.0.0.1:{}/metrics", worker.port));
    let metrics = metrics.await.unwrap().text().await.unwrap();
    let shown = |start: &str| metrics.lines().any(|line| line.starts_with(start));
    for start in [
        "backend_worker_provider_calls_total{provider=\"llm-spare\",class=\"none\",status=\"2xx\"} 10",
        "backend_worker_provider_calls_total{provider=\"openai\",class=\"transient\",status=\"5xx\"} ",
        "backend_worker_paid_calls_total{provider=\"llm-spare\"} 10",
        "backend_worker_paid_calls_total{provider=\"openai\"} 0",
        "backend_worker_gate_admissions_total{provider=\"llm-spare\",scope=\"fleet\"} 10",
        "backend_worker_breaker_transitions_total{breaker=\"llm-spare\"",
        "backend_worker_model_shutdown_timestamp_seconds{provider=\"llm-spare\"} ",
    ] {
        assert!(shown(start), "{start}: {metrics}");
    }

    let mut check = scene.command(&["check"]);
    let output = check.envs(borrowed(&env)).output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("llm-spare"), "{report}");
    assert!(
        report.contains("set LLM_SPARE_MODEL to gpt-6-luna before that day"),
        "{report}"
    );
    env.retain(|(name, _)| *name != "LLM_SPARE_API_KEY");
    env.push(("LLM_SPARE_API_KEY", "wrong".to_owned()));
    let mut check = scene.command(&["check"]);
    let output = check.envs(borrowed(&env)).output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        report.contains("check LLM_SPARE_API_KEY: it is wrong"),
        "{report}"
    );
    std::fs::remove_file(table).unwrap();
}

/// A model that is gone at a further deployment moves to the successor that is set for that deployment.
#[tokio::test]
async fn each_deployment_moves_to_its_own_successor() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, mut env) = spare().await;
    env.extend([
        ("LLM_SPARE_MODEL", "gpt-4o-mini".to_owned()),
        ("LLM_SPARE_MODEL_SUCCESSOR", "gpt-5-mini".to_owned()),
    ]);
    let gone = Fault::status(404);
    let old = "\"model\":\"gpt-4o-mini\"";
    spare
        .faults()
        .on_match(Provider::OpenAi, old, gone, None)
        .unwrap();
    let faults = scene.simulator.faults();
    let fault = Fault::status(503);
    faults.on_match(Provider::OpenAi, "", fault, None).unwrap();
    let _worker = scene.worker(&borrowed(&env)).await;
    for job in decks(&scene, 10).await {
        let usage = &job.result.as_ref().unwrap()["usage"];
        assert_eq!(
            (&usage["model"], &usage["deployment"]),
            (&json!("gpt-5-mini"), &json!("spare"))
        );
    }
}

#[tokio::test]
async fn a_full_deployment_is_passed_over_when_the_wait_is_long() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, mut env) = spare().await;
    env.extend([
        ("OPENAI_RATE_LIMIT_RPM", "5".to_owned()),
        ("LLM_SPARE_RATE_LIMIT_RPM", "0".to_owned()),
        ("LLM_FALLBACK_AFTER", "1s".to_owned()),
    ]);
    let _worker = scene.worker(&borrowed(&env)).await;
    let names = deployments(&decks(&scene, 20).await);
    let of = |name: &str| names.iter().filter(|deployment| *deployment == name).count();
    assert_eq!((of("main"), of("spare")), (5, 15));
    assert_eq!(
        scene.simulator.journal().of(Provider::OpenAi).len(),
        5,
        "its limit holds"
    );
    assert_eq!(spare.journal().of(Provider::OpenAi).len(), 15);
}

#[tokio::test]
async fn shares_spread_the_calls() {
    let scene = Scene::set(Duration::ZERO).await;
    let (_spare, mut env) = spare().await;
    env.extend([
        ("LLM_STRATEGY", "weighted".to_owned()),
        ("LLM_MAIN_WEIGHT", "1".to_owned()),
        ("LLM_SPARE_WEIGHT", "3".to_owned()),
    ]);
    let _worker = scene.worker(&borrowed(&env)).await;
    let names = deployments(&decks(&scene, 60).await);
    let main = names.iter().filter(|name| *name == "main").count();
    assert!((3..=30).contains(&main), "{main} of 60");
}

/// Azure's classic interface, as the first deployment and as another one.
#[tokio::test]
async fn the_classic_interface_of_azure_is_served() {
    let scene = Scene::set(Duration::ZERO).await;
    let (spare, mut env) = spare().await;
    let root = |url: String| url.trim_end_matches("/v1").to_owned();
    env.extend([
        ("OPENAI_API", "azure".to_owned()),
        ("OPENAI_BASE_URL", root(scene.simulator.openai_base_url())),
        ("LLM_SPARE_API", "azure".to_owned()),
        ("LLM_SPARE_API_VERSION", "2025-01-01".to_owned()),
        ("LLM_SPARE_BASE_URL", root(spare.openai_base_url())),
        ("LLM_STRATEGY", "weighted".to_owned()),
    ]);
    env.retain(|(name, value)| *name != "LLM_SPARE_BASE_URL" || !value.ends_with("/v1"));
    let _worker = scene.worker(&borrowed(&env)).await;
    deployments(&decks(&scene, 20).await);
    for (simulator, version) in [(&*scene.simulator, "2024-10-21"), (&*spare, "2025-01-01")] {
        let asked = simulator.journal().of(Provider::OpenAi);
        let path = format!("/openai/deployments/gpt-6-luna/chat/completions?api-version={version}");
        assert!(
            !asked.is_empty() && asked.iter().all(|entry| entry.path == path),
            "{asked:?}"
        );
    }
}
