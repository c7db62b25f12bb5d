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

mod budgets;
mod whole_jobs;

/// A call of these tests reserves `ESTIMATE`, in USD, and its answer costs `COST`.
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
