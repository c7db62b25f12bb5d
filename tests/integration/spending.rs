//! Money: each call is booked once, budgets hold, and the kill switch stops what costs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use backend_worker::{
    queue::{Delivery, JobState, Layout, Lease, NewJob},
    spend_ledger::{LedgerEntry, LedgerPage, OpenedCall, SpendLedger, UnknownCalls},
    spending::{
        Budgets, Payer, PriceTable, SpendBooks, Usd,
        accounts::{SpendAccounts, SpendGrouping},
    },
};
use futures_util::FutureExt;
use jobs::{CallUsage, Failure, FailureClass, JobType, ProviderCall, ProviderReply};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json, value::to_raw_value};
use tokio_util::sync::CancellationToken;

use crate::support::{Scene, TestRedis, eventually, raw};

/// What a call of these tests is reserved with, and what its answer costs.
const ESTIMATE: &str = "0.00075";
const COST: &str = "0.0000075";

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn ledger(redis: &TestRedis, replica: &str, budgets: Budgets) -> Arc<SpendLedger> {
    let prices = Arc::new(PriceTable::embedded().unwrap());
    let books = Arc::new(SpendBooks::new(replica, prices, budgets));
    let (ttl, lease) = (Some(Duration::from_secs(60)), Duration::from_millis(600));
    Arc::new(SpendLedger::new(
        redis.connection(),
        ttl,
        UnknownCalls::Retry,
        books,
        lease,
    ))
}

/// The page of a job of `student`.
fn page(ledger: &Arc<SpendLedger>, job: &str, student: &str) -> LedgerPage {
    let delivery = Delivery {
        lease: Lease {
            id: job.into(),
            token: "w:1".into(),
        },
        kind: None,
        payload: Some("x".into()),
        attempt: 1,
        max_attempts: 3,
        backoff: None,
        waited: Duration::ZERO,
        lost: 0,
        first: true,
        trace: None,
        key: None,
        tier: None,
        priority: 0,
    };
    let payer = Payer {
        student: student.into(),
        kind: JobType::GenerateFlashcards,
    };
    let page = ledger
        .page(format!("ledger:{job}"), &delivery, payer)
        .now_or_never();
    page.expect("a short payload is digested in one go")
}

fn call() -> ProviderCall {
    ProviderCall::new(jobs::Provider::OpenAi, "chat").estimating(CallUsage::tokens("gpt-4o-mini", 1000, 1000))
}

fn answer() -> Result<ProviderReply, Failure> {
    let body = json!({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 10, "completion_tokens": 10}});
    Ok(ProviderReply {
        body: to_raw_value(&body).unwrap(),
        tokens: None,
        is_cut: false,
    })
}

async fn open(page: &LedgerPage) -> Result<LedgerEntry<'_>, Failure> {
    match page.open(&call()).await? {
        OpenedCall::Send(entry) => Ok(entry),
        OpenedCall::Kept(reply) => panic!("kept: {reply:?}"),
    }
}

/// The fields of a hash of money, by the end of its key.
async fn fields(redis: &TestRedis, end: &str) -> HashMap<String, u64> {
    redis.ask(&["HGETALL", &format!("spend:{end}")]).await
}

async fn today(redis: &TestRedis) -> String {
    let accounts = SpendAccounts::new(redis.connection(), Budgets::default());
    accounts.today().await.unwrap()
}

#[tokio::test]
async fn each_call_is_booked_with_what_it_came_to() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, "r", Budgets::default());
    let lost = || Err(Failure::transient("reset").with_answer_lost());
    let refused = || Err(Failure::transient("503").with_status(503));
    for (job, student, result) in [
        ("1", "ann", answer()),
        ("2", "ann", answer()),
        ("3", "bob:s|x", answer()),
        ("4", "bob:s|x", lost()),
        ("5", "", refused()),
    ] {
        let page = page(&ledger, job, student);
        open(&page).await.unwrap().close(&call(), &result).await;
    }
    let (day, cost, estimate) = (today(&redis).await, usd(COST).nanos(), usd(ESTIMATE).nanos());
    let row = "openai|gpt-4o-mini|generate-flashcards";
    let expected = HashMap::from([
        ("total".to_owned(), 3 * cost),
        ("possible".to_owned(), estimate),
        ("rows".to_owned(), 2),
        ("generate-flashcards|jobs".to_owned(), 3),
        (format!("{row}|usd"), 3 * cost),
        (format!("{row}|calls"), 3),
        (format!("{row}|possible"), estimate),
        (format!("{row}|lost"), 1),
        (format!("{row}|in"), 30),
        (format!("{row}|out"), 30),
    ]);
    assert_eq!(fields(&redis, &format!("day:{day}")).await, expected);
    let students = HashMap::from([
        ("p:ann".to_owned(), 2 * cost),
        ("p:bob:s|x".to_owned(), cost),
        ("l:bob:s|x".to_owned(), estimate),
    ]);
    assert_eq!(fields(&redis, &format!("students:{day}")).await, students);
    assert_eq!(fields(&redis, &format!("students:{}", &day[..7])).await, students);
    let accounts = SpendAccounts::new(redis.connection(), Budgets::default());
    for (job, expected) in [
        ("1", Some(("paid", COST))),
        ("4", Some(("possible", ESTIMATE))),
        ("5", None),
    ] {
        let calls = accounts.calls_of(&format!("ledger:{job}")).await.unwrap();
        let told = calls.iter().map(|call| (&*call.came_to, &*call.step, call.usd));
        let expected = expected.map(|(came_to, amount)| (came_to, "chat", usd(amount)));
        assert_eq!(told.collect::<Vec<_>>(), Vec::from_iter(expected), "{job}");
    }
    assert_eq!(fields(&redis, "reserved").await, HashMap::new());
    assert_eq!(redis.ask::<u64>(&["EXISTS", "spend:open:r"]).await, 0);
    assert_eq!(
        redis.ask::<u64>(&["XLEN", "usage"]).await,
        4,
        "one event for each call that costs"
    );
    for key in [format!("spend:day:{day}"), format!("spend:students:{day}")] {
        assert!(redis.ask::<i64>(&["TTL", &key]).await > 99 * 86_400);
    }

    let accounts = SpendAccounts::new(redis.connection(), Budgets::default());
    let report = accounts.report(None, SpendGrouping::User).await.unwrap();
    assert_eq!(
        (report.usd.nanos(), report.possible_usd.nanos()),
        (3 * cost, estimate)
    );
    let names: Vec<&str> = report.lines.iter().map(|line| &*line.name).collect();
    assert_eq!(names, ["ann", "bob:s|x"]);
}

#[tokio::test]
async fn a_call_costs_two_round_trips() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, "r", Budgets::default());
    let scripts = async || {
        let info: String = redis.ask(&["INFO", "commandstats"]).await;
        let of_scripts = |line: &&str| {
            ["cmdstat_fcall:", "cmdstat_evalsha:"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let calls = |line: &str| {
            line.split_once("calls=")?
                .1
                .split(',')
                .next()?
                .parse::<u64>()
                .ok()
        };
        info.lines().filter(of_scripts).filter_map(calls).sum::<u64>()
    };
    let warm = page(&ledger, "0", "ann");
    open(&warm).await.unwrap().close(&call(), &answer()).await;
    let before = scripts().await;
    let page = page(&ledger, "1", "ann");
    open(&page).await.unwrap().close(&call(), &answer()).await;
    assert_eq!(scripts().await - before, 2);
}

/// The first script comes late, and the booking is sent again: Redis knows it by its number.
#[tokio::test]
async fn what_redis_did_not_acknowledge_is_booked_once() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, "r", Budgets::default());
    let pages: Vec<LedgerPage> = (0..20)
        .map(|job| page(&ledger, &job.to_string(), "ann"))
        .collect();
    for page in &pages {
        let entry = open(page).await.unwrap();
        if page_number(page, &pages) == 10 {
            redis.ask::<()>(&["CLIENT", "PAUSE", "700", "ALL"]).await;
        }
        entry.close(&call(), &answer()).await;
        if page_number(page, &pages) == 10 {
            assert!(ledger.books().waiting() > 0, "the booking is late");
        }
        eventually("Redis answers", async || redis.connection().ping().await.ok()).await;
    }
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (ledger, stop) = (ledger.clone(), stop.clone());
        async move { ledger.run(stop).await }
    });
    eventually("all is booked", async || {
        (ledger.books().waiting() == 0).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let day = fields(&redis, &format!("day:{}", today(&redis).await)).await;
    assert_eq!(day["total"], 20 * usd(COST).nanos());
    assert_eq!(day["openai|gpt-4o-mini|generate-flashcards|calls"], 20);
    assert_eq!(redis.ask::<u64>(&["XLEN", "usage"]).await, 20);
    assert_eq!(fields(&redis, "reserved").await, HashMap::new());
}

fn page_number(page: &LedgerPage, pages: &[LedgerPage]) -> usize {
    pages.iter().position(|other| std::ptr::eq(other, page)).unwrap()
}

#[tokio::test]
async fn calls_of_a_silent_replica_are_possibly_paid_until_it_is_heard_again() {
    let redis = TestRedis::start().await;
    let (silent, other) = (
        ledger(&redis, "silent", Budgets::default()),
        ledger(&redis, "other", Budgets::default()),
    );
    let (held, refused, dead) = (
        page(&silent, "1", "ann"),
        page(&silent, "2", "ann"),
        page(&silent, "3", "ann"),
    );
    let (held, refused, _dead) = (
        open(&held).await.unwrap(),
        open(&refused).await.unwrap(),
        open(&dead).await.unwrap(),
    );
    let estimate = usd(ESTIMATE).nanos();
    assert_eq!(fields(&redis, "reserved").await["total"], 3 * estimate);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (other, stop) = (other.clone(), stop.clone());
        async move { other.run(stop).await }
    });
    let key = format!("day:{}", today(&redis).await);
    eventually("all are booked as possibly paid", async || {
        let day = fields(&redis, &key).await;
        (day.get("possible") == Some(&(3 * estimate))).then_some(())
    })
    .await;
    assert_eq!(fields(&redis, "reserved").await, HashMap::new());
    held.close(&call(), &answer()).await;
    refused
        .close(&call(), &Err(Failure::transient("503").with_status(503)))
        .await;
    type Events = Vec<(String, HashMap<String, String>)>;
    let events: Events = redis.ask(&["XRANGE", "usage", "-", "+"]).await;
    let told = events.iter().skip(3).map(|(_, event)| {
        let word = |name: &str| event[name].clone();
        (word("call"), word("kind"), word("nanoUsd"))
    });
    let cost = usd(COST).nanos().to_string();
    let expected = [("silent:1", "paid", &*cost), ("silent:2", "nothing", "0")]
        .map(|(call, kind, amount)| (call.to_owned(), kind.to_owned(), amount.to_owned()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        expected,
        "followers of the stream hear of it"
    );
    let day = fields(&redis, &key).await;
    assert_eq!((day["possible"], day["total"]), (estimate, usd(COST).nanos()));
    let students = fields(&redis, &format!("students:{}", &key[4..11])).await;
    assert_eq!(
        (students["l:ann"], students["p:ann"]),
        (estimate, usd(COST).nanos())
    );
    stop.cancel();
    running.await.unwrap();
}

fn class(opened: &Result<LedgerEntry<'_>, Failure>) -> Option<FailureClass> {
    opened.as_ref().err().map(Failure::class)
}

#[tokio::test]
async fn budgets_hold_with_what_is_reserved_and_follow_the_operator() {
    let redis = TestRedis::start().await;
    let budgets = Budgets {
        month: Some(usd("0.0016")),
        ..Budgets::default()
    };
    let (one, two) = (ledger(&redis, "one", budgets), ledger(&redis, "two", budgets));
    let pages: Vec<LedgerPage> = (0..9)
        .map(|job| page([&one, &two][job % 2], &job.to_string(), "ann"))
        .collect();
    // Two estimates fit, over all replicas.
    let first = open(&pages[0]).await.unwrap();
    let second = open(&pages[1]).await.unwrap();
    let third = open(&pages[2]).await;
    assert_eq!(class(&third), Some(FailureClass::Blocked));
    assert!(third.unwrap_err().lacks_money());
    // A call that has cost less than its estimate makes room for another.
    first.close(&call(), &answer()).await;
    let fourth = open(&pages[3]).await.unwrap();
    assert_eq!(class(&open(&pages[4]).await), Some(FailureClass::Blocked));
    // One that was not billed gives all back; one that is dropped before it is sent as well.
    second.close(&call(), &Err(Failure::transient("503"))).await;
    let fifth = open(&pages[5]).await.unwrap();
    fourth.close(&call(), &answer()).await;
    fifth.close(&call(), &answer()).await;

    let accounts = SpendAccounts::new(redis.connection(), budgets);
    accounts.set_month(Some(usd("0.000001"))).await.unwrap();
    assert_eq!(
        class(&open(&pages[6]).await),
        Some(FailureClass::Blocked),
        "the operator's budget wins"
    );
    let status = accounts.status().await.unwrap();
    assert_eq!(
        (status.month.usd, status.month.percent),
        (usd("0.0000225"), Some(2250))
    );
    accounts.set_month(None).await.unwrap();

    accounts.switch(true, "ann", "a test").await.unwrap();
    let stopped = open(&pages[7]).await.unwrap_err();
    assert!(
        stopped.lacks_money() && stopped.to_string().contains("kill switch"),
        "{stopped}"
    );
    let status = accounts.status().await.unwrap();
    assert_eq!(
        (status.kill_switch, status.switched_by.as_deref()),
        (true, Some("ann"))
    );
    accounts.switch(false, "ann", "over").await.unwrap();
    open(&pages[8]).await.unwrap().close(&call(), &answer()).await;
}

#[tokio::test]
async fn a_student_has_an_allowance_that_an_operator_can_change() {
    let redis = TestRedis::start().await;
    let budgets = Budgets {
        student: Some(usd("0.0008")),
        ..Budgets::default()
    };
    let ledger = ledger(&redis, "r", budgets);
    let pages: Vec<LedgerPage> = (0..5).map(|job| page(&ledger, &job.to_string(), "ann")).collect();
    let held = open(&pages[0]).await.unwrap();
    let refused = open(&pages[1]).await;
    assert_eq!(class(&refused), Some(FailureClass::OverAllowance));
    let bob = page(&ledger, "bob", "bob");
    open(&bob).await.unwrap().close(&call(), &answer()).await;
    let accounts = SpendAccounts::new(redis.connection(), budgets);
    accounts.allow("ann", Some(usd("1"))).await.unwrap();
    open(&pages[2]).await.unwrap().close(&call(), &answer()).await;
    accounts.allow("ann", None).await.unwrap();
    assert_eq!(class(&open(&pages[3]).await), Some(FailureClass::OverAllowance));
    held.close(&call(), &answer()).await;
    open(&pages[4]).await.unwrap().close(&call(), &answer()).await;
}

/// No budget can hold a call without a price, be it configured or set by an operator in Redis.
#[tokio::test]
async fn an_unknown_model_escapes_no_budget() {
    let redis = TestRedis::start().await;
    let accounts = SpendAccounts::new(redis.connection(), Budgets::default());
    let (free, of_students) = (
        ledger(&redis, "free", Budgets::default()),
        ledger(
            &redis,
            "strict",
            Budgets {
                student: Some(usd("5")),
                ..Budgets::default()
            },
        ),
    );
    let unknown = ProviderCall::new(jobs::Provider::OpenAi, "chat").estimating(CallUsage::tokens(
        "a-model-without-a-price",
        1000,
        1000,
    ));
    let try_open = async |ledger: &Arc<SpendLedger>, job: &str, student: &str| {
        let page = page(ledger, job, student);
        let refused = page.open(&unknown).await.err();
        refused.map(|failure| failure.to_string())
    };
    let is_refused = |answer: Option<String>| answer.is_some_and(|why| why.contains("has no price"));
    assert_eq!(try_open(&free, "1", "ann").await, None, "there is no budget");
    assert!(is_refused(try_open(&of_students, "2", "ann").await));
    assert_eq!(
        try_open(&of_students, "3", "").await,
        None,
        "no student's budget applies"
    );
    accounts.allow("ann", Some(usd("1"))).await.unwrap();
    assert!(is_refused(try_open(&free, "4", "ann").await));
    accounts.allow("ann", None).await.unwrap();
    accounts.set_month(Some(usd("1000"))).await.unwrap();
    assert!(is_refused(try_open(&free, "5", "ann").await));
    accounts.set_month(None).await.unwrap();
    assert_eq!(try_open(&free, "6", "ann").await, None);
}

/// Rows and students beyond the bounds of the sums share one row, and no money is missing.
#[tokio::test]
async fn rows_and_students_beyond_the_bounds_are_summed_as_others() {
    const ROWS: usize = 200;
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, "r", Budgets::default());
    for nth in 0..ROWS + 3 {
        let page = page(&ledger, &nth.to_string(), "ann");
        let lost = Err(Failure::transient("reset").with_answer_lost());
        let call = ProviderCall::new(jobs::Provider::OpenAi, "chat").estimating(CallUsage::tokens(
            &format!("gpt-4o-mini-{nth}"),
            1000,
            1000,
        ));
        match page.open(&call).await.unwrap() {
            OpenedCall::Send(entry) => entry.close(&call, &lost).await,
            OpenedCall::Kept(reply) => panic!("kept: {reply:?}"),
        }
    }
    let day = today(&redis).await;
    let sums = fields(&redis, &format!("day:{day}")).await;
    let rows = sums.keys().filter(|field| field.ends_with("|lost")).count();
    assert_eq!(rows, ROWS + 1);
    assert_eq!(sums["openai|(others)|generate-flashcards|lost"], 3);
    let of_rows: u64 = sums
        .iter()
        .filter(|(field, _)| field.ends_with("|possible"))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(of_rows, sums.get("possible").copied().unwrap_or(0));

    let keys = [&*day, &day[..7]].map(|time| format!("spend:students:{time}"));
    for key in &keys {
        let mut fill = redis::pipe();
        for chunk in 0..200 {
            let students: Vec<(String, u64)> = (0..1000)
                .map(|n| (format!("p:s{}", chunk * 1000 + n), 1))
                .collect();
            fill.hset_multiple(key, &students).ignore();
        }
        fill.query_async::<()>(&mut redis.raw.clone()).await.unwrap();
    }
    let bob = page(&ledger, "bob", "bob");
    open(&bob).await.unwrap().close(&call(), &answer()).await;
    for key in &keys {
        assert_eq!(redis.ask::<Option<u64>>(&["HGET", key, "p:bob"]).await, None);
        let others: Option<u64> = redis.ask(&["HGET", key, "p:(others)"]).await;
        assert_eq!(others, Some(usd(COST).nanos()));
    }
}

/// Nothing says how much of a budget is left while Redis is away: a call of a deployment with a budget waits.
#[tokio::test]
async fn a_budget_that_cannot_be_checked_is_not_spent() {
    let redis = TestRedis::start().await;
    let budgets = Budgets {
        day: Some(usd("1")),
        ..Budgets::default()
    };
    let (strict, free) = (
        ledger(&redis, "a", budgets),
        ledger(&redis, "b", Budgets::default()),
    );
    redis.ask::<()>(&["CLIENT", "PAUSE", "2000", "ALL"]).await;
    let page_of = page(&strict, "1", "ann");
    assert_eq!(class(&open(&page_of).await), Some(FailureClass::Blocked));
    let page_of = page(&free, "2", "ann");
    assert!(open(&page_of).await.is_ok());
}

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
