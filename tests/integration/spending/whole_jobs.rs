//! Money of whole jobs.

use super::*;

const CARDS: &str = r#"{"content":"The cell divides. Mitosis has four phases.","subject":"Biology","topic":"Cells","userId":"ann"}"#;

async fn enqueue(scene: &Scene, layout: Layout, id: &str) -> Arc<dyn backend_worker::queue::Broker> {
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let payload = raw(CARDS);
    let job = NewJob {
        id,
        kind: JobType::GenerateFlashcards,
        payload: &payload,
        max_attempts: 3,
        delay: Duration::ZERO,
    };
    assert!(broker.enqueue(&job).await.unwrap());
    broker
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_result_says_what_it_has_cost_and_the_switch_makes_jobs_wait(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let worker = scene.worker(&[]).await;
    let broker = enqueue(&scene, layout, "first").await;
    let ended = async |id: &str, state: JobState| {
        eventually(&format!("{id} is {state:?}"), async || {
            let view = broker.find(id).await.unwrap().unwrap();
            (view.state == state).then_some(view)
        })
        .await
    };
    let result = ended("first", JobState::Completed).await.result.unwrap();
    let cost = result["usage"]["costUsd"].as_f64().unwrap();
    assert!(cost > 0.0, "{}", result["usage"]);

    let spend = async || -> Value {
        let output = scene
            .command(&["spend", "--by", "user", "--json"])
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let report = spend().await;
    assert_eq!(report["lines"][0]["name"], "ann", "{report}");
    assert!((report["usd"].as_f64().unwrap() - cost).abs() < 1e-9, "{report}");

    let order = async |order: &str| {
        let arguments = ["budget", order, "--by", "ann", "--reason", "a test"];
        let output = scene.command(&arguments).output().await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    order("stop").await;
    enqueue(&scene, layout, "second").await;
    let view = ended("second", JobState::Delayed).await;
    let reason = view.waiting_for.unwrap().reason.unwrap();
    assert!(reason.contains("kill switch"), "{reason}");
    let url = format!("http://localhost:{}/api/ai/generate-flashcards", worker.port);
    let answer = reqwest::Client::new().post(url).body(CARDS).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(
        answer.json::<Value>().await.unwrap()["code"],
        "BUDGET_LIMIT_EXCEEDED"
    );
    let url = format!("http://localhost:{}/api/spend?by=model", worker.port);
    let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(answer["budget"]["killSwitch"], true, "{answer}");
    assert_eq!(answer["spend"]["lines"][0]["calls"], 1, "{answer}");
    order("resume").await;
    ended("second", JobState::Completed).await;
    assert_eq!(spend().await["usd"].as_f64().map(|usd| usd > cost), Some(true));
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_student_without_an_allowance_is_told_so(#[case] layout: Layout) {
    let scene = Scene::set(Duration::ZERO).await;
    let _worker = scene.worker(&[("USER_BUDGET_MONTHLY_USD", "0.0001")]).await;
    let broker = enqueue(&scene, layout, "over").await;
    let view = eventually("the job has failed", async || {
        let view = broker.find("over").await.unwrap().unwrap();
        (view.state == JobState::Failed).then_some(view)
    })
    .await;
    let reason = view.error.unwrap();
    assert!(
        reason.starts_with("Your usage exceeds your monthly allowance."),
        "{reason}"
    );
    assert_eq!(
        scene.simulator.journal().entries(0, 10).len(),
        0,
        "nothing was sent"
    );
}

/// Each answer that was booked is the answer of a job, and each call that was sent is booked: as paid, or as possibly
/// paid where its replica was killed.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn the_books_are_the_bill_over_replicas_that_are_killed(#[case] layout: Layout) {
    const JOBS: usize = 120;
    let scene = Scene::set(Duration::from_millis(60)).await;
    let env = [
        ("LEASE_TTL", "5s"),
        ("CONCURRENCY", "5"),
        ("OPENAI_BREAKER_FAILURES", "1000"),
    ];
    let mut broker = None;
    for job in 0..JOBS {
        broker = Some(enqueue(&scene, layout, &format!("job-{job}")).await);
    }
    let broker = broker.unwrap();
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(scene.worker(&env).await);
    }
    for kill in 1..=4 {
        eventually("more jobs are done", async || {
            let done = broker.counts().await.unwrap().completed;
            (done >= kill * 15).then_some(())
        })
        .await;
        let victim = workers.remove(0);
        victim.signal(Signal::SIGKILL);
        victim.ended().await;
        workers.push(scene.worker(&env).await);
    }
    eventually("all jobs are done", async || {
        let counts = broker.counts().await.unwrap();
        assert_eq!(counts.failed, 0);
        (counts.completed == JOBS as u64).then_some(())
    })
    .await;
    eventually("nothing is reserved any more", async || {
        fields(&scene.redis, "reserved").await.is_empty().then_some(())
    })
    .await;

    let mut bill = 0.0;
    for job in 0..JOBS {
        let result = broker
            .find(&format!("job-{job}"))
            .await
            .unwrap()
            .unwrap()
            .result
            .unwrap();
        bill += result["usage"]["costUsd"].as_f64().unwrap();
    }
    let accounts = SpendAccounts::new(scene.redis.connection(), Budgets::default());
    let report = accounts.report(None, SpendGrouping::Provider).await.unwrap();
    let line = &report.lines[0];
    assert!((line.usd.dollars() - bill).abs() < 1e-9, "{line:?} {bill}");
    assert_eq!(report.usd, line.usd);
    let sent = scene
        .simulator
        .journal()
        .of(backend_worker::simulator::Provider::OpenAi)
        .len() as u64;
    assert!(
        line.calls <= sent && sent <= line.calls + line.lost_calls,
        "{sent} sent, {line:?}"
    );
    assert_eq!(line.calls, JOBS as u64, "one paid answer a job");
    assert!(line.lost_calls > 0 && report.possible_usd > Usd::ZERO, "{line:?}");
    let events: u64 = scene.redis.ask(&["XLEN", "usage"]).await;
    assert_eq!(events, line.calls + line.lost_calls);
}
