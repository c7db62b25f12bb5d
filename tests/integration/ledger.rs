//! What was paid for is not paid for again: the ledger by itself, then replicas that are killed between the steps of
//! a job; and the cache that the web API asks before it enqueues the same work again.

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use backend_worker::{
    guard::{CallObserver, JobGuard, StopSignals},
    queue::{Broker, Delivery, JobState, Layout, Lease, NewJob},
    retry::{Backoff, BackoffDelay, RetryPolicy},
    simulator::{Fault, Provider},
    spend_ledger::{LedgerPage, LedgerTotals, OpenedCall, SpendLedger, UnknownCalls},
    spending::{Budgets, Payer, PriceTable, SpendBooks, Usd},
};
use futures_util::FutureExt;
use jobs::{CallUsage, Failure, FailureClass, JobType, ProviderCall, ProviderGuard, ProviderReply};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json, value::to_raw_value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{Node, Scene, Script, TestRedis, Worker, eventually, options, raw, replica};

const KEY: &str = "ledger:bull:q:1";

fn ledger(redis: &TestRedis, unknown: UnknownCalls) -> Arc<SpendLedger> {
    let prices = Arc::new(PriceTable::embedded().unwrap());
    let books = Arc::new(SpendBooks::new("w-1", prices, Budgets::default()));
    let (ttl, lease) = (Some(Duration::from_secs(60)), Duration::from_secs(15));
    Arc::new(SpendLedger::new(redis.connection(), ttl, unknown, books, lease))
}

/// The page of the job 1 as the `nth` delivery sees it.
fn page(ledger: &Arc<SpendLedger>, payload: &str, nth: u32) -> LedgerPage {
    let delivery = Delivery {
        lease: Lease {
            id: "1".into(),
            token: format!("w:{nth}").into(),
        },
        kind: None,
        payload: Some(payload.to_owned().into()),
        attempt: 1,
        max_attempts: 3,
        backoff: None,
        waited: Duration::ZERO,
        lost: 0,
        first: nth == 1,
        trace: None,
        key: None,
        tier: None,
        priority: 0,
    };
    let payer = Payer {
        student: "ann".into(),
        kind: JobType::GenerateFlashcards,
    };
    let page = ledger.page(KEY.to_owned(), &delivery, payer).now_or_never();
    page.expect("a short payload is digested in one go")
}

fn call(step: &'static str) -> ProviderCall {
    ProviderCall::new(jobs::Provider::OpenAi, step)
}

fn reply() -> ProviderReply {
    ProviderReply {
        body: to_raw_value(&json!({"cards": ["ä", 1]})).unwrap(),
        tokens: Some(7),
        is_cut: false,
    }
}

/// Opens an entry that nothing stands in the way of, and closes it.
async fn make(page: &LedgerPage, step: &'static str, result: Result<ProviderReply, Failure>) {
    match page.open(&call(step)).await.unwrap() {
        OpenedCall::Send(entry) => entry.close(&call(step), &result).await,
        OpenedCall::Kept(reply) => panic!("{step} was kept: {reply:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_found_by_later_deliveries_of_the_same_work_only() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Retry);
    make(&page(&ledger, "a", 1), "chat", Ok(reply())).await;

    let again = page(&ledger, "a", 2);
    assert_eq!(again.kept(&call("chat")).await, Some(reply()));
    assert!(matches!(again.open(&call("chat")).await.unwrap(), OpenedCall::Kept(kept) if kept == reply()));
    assert_eq!(again.kept(&call("chat:larger")).await, None);
    assert_eq!(again.kept(&call("chat").unpaid()).await, None);
    // Another job that was given the same id.
    assert_eq!(page(&ledger, "b", 2).kept(&call("chat")).await, None);
    make(&page(&ledger, "b", 2), "chat", Ok(reply())).await;

    let ttl: i64 = redis.ask(&["PTTL", KEY]).await;
    assert!((1..=60_000).contains(&ttl), "{ttl}");
    let spending = LedgerTotals {
        sent: 2,
        reused: 2,
        ..LedgerTotals::default()
    };
    assert_eq!(ledger.spending(), spending);
}

/// A job is stopped at the end of the drain time, or when its lease is lost, at any await.
#[tokio::test]
async fn a_job_that_is_stopped_while_its_answer_is_written_keeps_it() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Retry);
    let stopped = page(&ledger, "a", 1);
    let OpenedCall::Send(entry) = stopped.open(&call("x")).await.unwrap() else {
        panic!("nothing is kept yet");
    };
    let paid = Ok(reply());
    let closing = call("x");
    assert!(entry.close(&closing, &paid).now_or_never().is_none());
    let later = page(&ledger, "a", 2);
    eventually("the answer is kept", async || later.kept(&call("x")).await).await;
}

#[tokio::test]
async fn a_kept_answer_that_is_useless_can_be_dropped() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Fail);
    make(&page(&ledger, "a", 1), "chat", Ok(reply())).await;
    make(&page(&ledger, "a", 1), "chat:again", Ok(reply())).await;
    let again = page(&ledger, "a", 2);
    again.drop_kept(&call("chat")).await;
    assert_eq!(again.kept(&call("chat")).await, None);
    assert_eq!(again.kept(&call("chat:again")).await, Some(reply()));
    // The call is made again, and its answer is no unknown one.
    make(&again, "chat", Ok(reply())).await;
    assert_eq!(again.kept(&call("chat")).await, Some(reply()));
    assert_eq!(ledger.spending().unknown, 0);
}

#[tokio::test]
async fn a_refused_call_leaves_nothing_and_a_lost_answer_a_mark() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Retry);
    let first = page(&ledger, "a", 1);
    let refused = Failure::transient("503").with_status(503);
    make(&first, "chat", Err(refused)).await;
    make(
        &first,
        "chat",
        Err(Failure::transient("timeout").with_answer_lost()),
    )
    .await;
    assert_eq!(ledger.spending().unknown, 0, "the refusal was no secret");
    make(
        &first,
        "chat",
        Err(Failure::new(FailureClass::Cancelled, "stopping")),
    )
    .await;
    assert_eq!(ledger.spending().unknown, 1);
    // A late refusal must not delete the answer of another replica that has repeated the call.
    let OpenedCall::Send(late) = first.open(&call("chat")).await.unwrap() else {
        panic!("kept")
    };
    make(&page(&ledger, "a", 2), "chat", Ok(reply())).await;
    late.close(&call("chat"), &Err(Failure::transient("503"))).await;
    assert_eq!(page(&ledger, "a", 3).kept(&call("chat")).await, Some(reply()));
    assert_eq!((ledger.spending().unknown, ledger.spending().resent), (3, 3));
}

/// Reports nothing.
struct Silent;

#[async_trait::async_trait]
impl CallObserver for Silent {
    async fn retrying(&self, _: u8, _: &Failure, _: BackoffDelay) {}
}

#[tokio::test]
async fn a_call_that_is_stopped_before_it_is_sent_leaves_no_mark() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Fail);
    let (stopped, now) = (CancellationToken::new(), Instant::now());
    stopped.cancel();
    let lost = (stopped, now + Duration::from_secs(60), FailureClass::Cancelled);
    let late = (CancellationToken::new(), now, FailureClass::Transient);
    let priced = call("chat").estimating(CallUsage::tokens("gpt-4o-mini", 1000, 1000));
    for (abort, deadline, class) in [lost, late] {
        let stops = StopSignals {
            drain: CancellationToken::new(),
            abort,
            deadline,
        };
        let policy = RetryPolicy {
            tries: NonZeroU8::MIN,
            backoff: Backoff::default(),
        };
        let guard = JobGuard::new(policy, None, Some(page(&ledger, "a", 1)), stops, &Silent);
        let failure = guard.call(&priced, &|| panic!("the call was sent")).await;
        assert_eq!(failure.unwrap_err().class(), class);
        assert!(!redis.ask::<bool>(&["EXISTS", KEY]).await);
    }
    assert_eq!(ledger.spending(), LedgerTotals::default());
    // Nothing waits to be booked, nothing is booked, and nothing stays reserved.
    assert!(ledger.books().is_idle());
    let status = ledger.accounts().status().await.unwrap();
    for used in [status.day, status.month] {
        assert_eq!((used.usd, used.possible_usd), (Usd::default(), Usd::default()));
    }
    assert_eq!(status.reserved_usd, Usd::default());
    let booked: String = redis.ask(&["GET", "spend:booked:w-1"]).await;
    assert_eq!(booked, "2", "Redis has heard of both calls");
    for key in ["spend:open:w-1", "spend:reserved", "usage"] {
        assert!(!redis.ask::<bool>(&["EXISTS", key]).await, "{key}");
    }
}

#[tokio::test]
async fn lost_answers_are_not_paid_for_again_where_that_is_wanted() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Fail);
    let lost = Failure::transient("reset").with_answer_lost();
    make(&page(&ledger, "a", 1), "chat", Err(lost)).await;
    let failure = page(&ledger, "a", 2).open(&call("chat")).await.unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent);
    assert!(failure.to_string().contains("UNKNOWN_CALL=fail"), "{failure}");
    assert_eq!((ledger.spending().sent, ledger.spending().resent), (1, 0));
}

#[tokio::test]
async fn calls_go_on_without_a_ledger_that_can_be_written() {
    let redis = TestRedis::start().await;
    let ledger = ledger(&redis, UnknownCalls::Fail);
    let delivery = page(&ledger, "a", 2);
    redis.ask::<()>(&["SET", KEY, "somebody else's"]).await;
    make(&delivery, "chat", Ok(reply())).await;
    assert_eq!(delivery.kept(&call("chat")).await, None);
    assert_eq!(redis.ask::<String>(&["GET", KEY]).await, "somebody else's");
    redis.ask::<()>(&["DEL", KEY]).await;

    redis.ask::<()>(&["CLIENT", "PAUSE", "1000", "ALL"]).await;
    make(&delivery, "chat", Ok(reply())).await;
    let spending = ledger.spending();
    assert_eq!((spending.sent, spending.unrecorded, spending.unknown), (2, 4, 0));

    eventually("what was late is written after all", async || {
        delivery.kept(&call("chat")).await
    })
    .await;

    let long = ProviderReply {
        body: to_raw_value(&"x".repeat(2_000_000)).unwrap(),
        tokens: None,
        is_cut: false,
    };
    make(&page(&ledger, "long", 1), "chat", Ok(long)).await;
    assert_eq!(page(&ledger, "long", 2).kept(&call("chat")).await, None);
}

/// A job of two images, of which the second is being read when its replica is killed.
struct Interrupted {
    scene: Scene,
    broker: Arc<dyn Broker>,
}

const ENV: &[(&str, &str)] = &[
    ("LEASE_TTL", "5s"),
    ("AZURE_BREAKER_OPEN_FOR", "1h"),
    ("CIRCUIT_MAX_WAIT", "5s"),
];

impl Interrupted {
    async fn job(layout: Layout) -> Self {
        let scene = Scene::set(Duration::ZERO).await;
        let broker = scene.redis.broker(layout, "vision-jobs", "onlooker");
        let b64 = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
        let payload = json!({ "images": [
            { "imageBase64": b64(include_bytes!("../../samples/text.png")) },
            { "imageBase64": b64(include_bytes!("../../samples/text.jpg")) },
        ]});
        let payload = raw(&payload.to_string());
        let job = NewJob {
            id: "two-images",
            kind: JobType::ProcessImage,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
        let (at_once, never) = (Fault::Delay { ms: 0 }, Fault::Delay { ms: 3_600_000 });
        let faults = scene.simulator.faults();
        faults.script(Provider::AzureVision, [at_once, never]).unwrap();
        let first = scene.worker(ENV).await;
        scene
            .simulator
            .journal()
            .wait_until(|journal| journal.of(Provider::AzureVision).len() == 2)
            .await;
        first.signal(Signal::SIGKILL);
        first.ended().await;
        Self { scene, broker }
    }

    async fn until(&self, state: JobState) -> backend_worker::queue::JobSnapshot {
        eventually(&format!("the job is {state:?}"), async || {
            let view = self.broker.find("two-images").await.unwrap().unwrap();
            (view.state == state).then_some(view)
        })
        .await
    }

    fn calls(&self) -> usize {
        self.scene.simulator.journal().of(Provider::AzureVision).len()
    }
}

/// Stops a worker; its closing line.
async fn closing_line(worker: Worker) -> Value {
    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0));
    serde_json::from_str(log.last().unwrap()).unwrap()
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_killed_replica_has_paid_once_for_each_answer_that_arrived(#[case] layout: Layout) {
    let interrupted = Interrupted::job(layout).await;
    let scene = &interrupted.scene;
    // What was paid for needs no gate; what is left of the job does.
    scene
        .redis
        .ask::<()>(&["SET", "circuit:azure:state", "OPEN"])
        .await;
    let second = scene.worker(ENV).await;
    let view = interrupted.until(JobState::Delayed).await;
    assert_eq!(view.waiting_for.unwrap().gate.as_deref(), Some("azure-vision"));
    let line = closing_line(second).await;
    assert_eq!(
        (&line["answers_reused"], &line["paid_calls"]),
        (&json!(1), &json!(0)),
        "{line}"
    );

    scene
        .redis
        .ask::<()>(&["SET", "circuit:azure:state", "CLOSED"])
        .await;
    let third = scene.worker(ENV).await;
    let view = interrupted.until(JobState::Completed).await;
    assert_eq!(view.result.unwrap()["result"]["imagesProcessed"], json!(2));
    assert_eq!(interrupted.calls(), 3, "the first image once, the second again");
    let line = closing_line(third).await;
    assert_eq!(
        (&line["answers_reused"], &line["unknown_calls"]),
        (&json!(1), &json!(1)),
        "{line}"
    );
    let pages: Vec<String> = scene.redis.ask(&["KEYS", "ledger:*"]).await;
    assert_eq!(pages, [""; 0], "a completed job needs no page");
}

/// Of several images it fails the one: the others are paid for.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn a_lost_answer_fails_its_image_where_that_is_wanted(#[case] layout: Layout) {
    let interrupted = Interrupted::job(layout).await;
    let mut env = ENV.to_vec();
    env.push(("UNKNOWN_CALL", "fail"));
    let second = interrupted.scene.worker(&env).await;
    let view = interrupted.until(JobState::Completed).await;
    let pages = &view.result.unwrap()["result"]["pages"];
    let error = pages[1]["error"].as_str().unwrap();
    assert!(error.contains("UNKNOWN_CALL=fail"), "{pages}");
    assert!(pages[0]["error"].is_null(), "{pages}");
    assert_eq!(interrupted.calls(), 2, "nothing was sent again");
    closing_line(second).await;
}

/// The web API names the key itself, in the job's options, and reads it before it enqueues.
#[tokio::test]
async fn a_result_is_cached_under_the_key_that_the_producer_names() {
    let redis = TestRedis::start().await;
    let node = Node::start(&redis, "ai-jobs").await;
    let key = "idempotency:generate-flashcards:9f86d081884c7d65";
    node.add("with", json!({ "idempotencyKey": key })).await;
    node.add("foreign", json!({ "idempotencyKey": "circuit:openai:state" }))
        .await;
    node.add(
        "odd",
        json!({ "idempotencyKey": {"a": 1}, "removeOnComplete": true }),
    )
    .await;
    let broker = redis.bullmq("ai-jobs", "w");
    let running = replica(broker, 3, Script::echo(), &options());
    node.until("with", "completed").await;
    node.until("foreign", "completed").await;
    let entry: String = redis.ask(&["GET", key]).await;
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!(entry["jobId"], "with");
    assert_eq!(entry["result"], json!({"n": "with"}));
    let now: Vec<u64> = redis.ask(&["TIME"]).await;
    let cached_at = entry["cachedAt"].as_u64().unwrap();
    assert!(
        cached_at / 1000 <= now[0] && cached_at / 1000 + 60 > now[0],
        "{entry}"
    );
    let ttl: i64 = redis.ask(&["TTL", key]).await;
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    let foreign: Option<String> = redis.ask(&["GET", "circuit:openai:state"]).await;
    assert_eq!(foreign, None, "a producer names no key but its own");
    running.stop().await;
}
